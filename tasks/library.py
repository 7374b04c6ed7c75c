"""Where the library runs: one event loop in a thread of its own, for all tasks of a process.

A flow run is one process. Its tasks share the loop (uvloop where there is one: a quarter less CPU
a request, measured), the connections to catalogs and sites, and nothing else. Prefect's own loop
stays free for its heartbeats and logs. The spans tell how much of a run was ours.
"""

import asyncio
import atexit
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from blocks.catalog import CONTROL, load_dsn
from blocks.s3_site import load_address
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import get_rule
from entrepot.catalog.sites import Site as KnownSite
from entrepot.catalog.sites import list_sites
from entrepot.clock import SYSTEM_CLOCK
from entrepot.config import load
from entrepot.errors import is_retryable
from entrepot.objects.open import open_objects
from entrepot.objects.service import Objects
from entrepot.replication.run import Address, open_sites
from entrepot.replication.sites import Site
from entrepot.replication.standing import Standing
from entrepot.store.protocol import Capability

try:
    from uvloop import new_event_loop
except ImportError:  # Windows, PyPy
    from asyncio import new_event_loop  # type: ignore[assignment]

T = TypeVar("T")

POOL_SIZE = 8  # four ranges at once, a beat and a checkpoint each
CLOSE_TIMEOUT_S = 10.0

_lock = threading.Lock()
_spans: list[tuple[float, float]] = []
_catalogs: dict[str, Catalog] = {}
_sites: dict[tuple[str, tuple[str, ...], int], tuple[Site, ...]] = {}
_standing: dict[str, Standing] = {}
_objects: dict[str, asyncio.Future[Objects]] = {}
_opened = AsyncExitStack()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end on the library's loop and note when; called from any other thread."""
    began = SYSTEM_CLOCK.monotonic()
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    finally:
        future.cancel()  # does nothing once it is done; a task that timed out must stop working
        with _lock:
            _spans.append((began, SYSTEM_CLOCK.monotonic()))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = new_event_loop()
    threading.Thread(target=loop.run_forever, name="entrepot", daemon=True).start()
    atexit.register(_close, loop)
    return loop


def _close(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.run_coroutine_threadsafe(_opened.aclose(), loop).result(CLOSE_TIMEOUT_S)
    loop.call_soon_threadsafe(loop.stop)


async def catalog(name: str = CONTROL) -> Catalog:
    """The catalog in the block ``entrepot-catalog/NAME``, connected once a process."""
    if name not in _catalogs:
        dsn = await asyncio.to_thread(load_dsn, name)
        if name not in _catalogs:  # another task may have been quicker
            _catalogs[name] = await _opened.enter_async_context(
                Catalog.open(dsn, pool_size=POOL_SIZE)
            )
    return _catalogs[name]


async def standing(rule: str) -> Standing:
    """The rule as it stands, watched once a process for all its tasks."""
    control = await catalog()
    found = await get_rule(control, name=rule)
    if rule not in _standing or _standing[rule].is_gone:  # it may have been added anew
        _standing[rule] = Standing(control, found)
        await _opened.enter_async_context(_standing[rule])
    return _standing[rule]


async def sites(names: Sequence[str], *, workers: int, rule: str = "") -> tuple[Site, ...]:
    """The sites in the blocks ``entrepot-site/NAME``, by rank, connected once a process.

    What an endpoint can do is what its latest probe left in Postgres, else what the block says.
    With a ``rule``, its limits hold for all that is asked of them.
    """
    key = rule, tuple(names), workers
    if key not in _sites:
        control = await catalog()
        known = {site.name: site for site in await list_sites(control)}
        addresses = [
            _probed(await asyncio.to_thread(load_address, name), known.get(name)) for name in names
        ]
        purse = (await standing(rule)).budget if rule else None
        if key not in _sites:
            _sites[key] = await _opened.enter_async_context(
                open_sites(addresses, workers=workers, purse=purse, control=control)
            )
    return _sites[key]


def _probed(address: Address, known: KnownSite | None) -> Address:
    if known is None or known.probed_at is None or known.endpoint != address.endpoint:
        return address
    return replace(address, capabilities=frozenset(filter(known.can, Capability)))


async def objects(site: str) -> Objects:
    """The objects of a site, opened once a process from the worker's own settings."""
    if site not in _objects:
        config = await asyncio.to_thread(load)
        [settings] = [each for each in config.sites() if each.name == site]
        if site not in _objects:  # another task may have been quicker
            _objects[site] = asyncio.ensure_future(
                _opened.enter_async_context(open_objects(config, settings))
            )
    try:
        return await _objects[site]
    except BaseException:
        _objects.pop(site, None)  # the next one tries again
        raise


def library_seconds(since: float) -> float:
    """Seconds since ``since`` (of the monotonic timer) in which at least one call was running."""
    total, reached = 0.0, since
    with _lock:
        spans = sorted(_spans)
    for began, ended in spans:
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def worth_retrying(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's ``retry_condition_fn``: the same predicate as the library's own retries."""
    return isinstance(state.data, BaseException) and is_retryable(state.data)
