"""Reads that miss at a site and are served by a peer, which has the version already.

Invariant: what was deleted here is not served. A delete marker here is an answer and no miss. What
was removed here for good is remembered for ``HORIZON``, so a version whose removal may have been
forgotten since is not served either. A miss costs a bounded time more: ``timeout_s`` to find the
version and as long to open it. A peer that failed is not asked for a while.

Nothing is kept of what was read; the stream, or a sweep, brings it.

Words: *peer* another site of a rule with ``peer_reads``, whose writes come here.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.objects.read import get_version, newest_versions
from entrepot.catalog.objects.replicas import HORIZON, was_purged
from entrepot.catalog.rules import Rule
from entrepot.catalog.states import BucketMode
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import BucketNotFound, EntrepotError, NotFound, RetryableError
from entrepot.metrics import Metrics
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import Ground
from entrepot.objects.names import stored_key
from entrepot.objects.notices import stored_versions
from entrepot.objects.reads import Opened, find_in_store, opened, row_of
from entrepot.store.lifecycle import expired
from entrepot.store.protocol import Capability, Version

TIMEOUT_S: Final = 1.0
"""A peer in another region answers in 0.3 s, its first connection in three round trips more."""
REST_S: Final = 10.0
"""How long a peer that failed is left alone."""
RULES_TTL_S: Final = 5.0
_MARGIN: Final = timedelta(days=1)
"""A removal is forgotten by the catalog's clock, a version's time is that of another site."""

_log = logging.getLogger(__name__)

T = TypeVar("T")

Opener = Callable[[str], AbstractAsyncContextManager[Ground]]
"""Opens a site by its name; it need not be started."""


@dataclass(frozen=True, slots=True)
class Found:
    """A version at a peer, with that site's bucket; ``row.served_by`` names the site.

    ``history`` is what the store of an adopted bucket has of the key, newest first, and ``place``
    the version's in it.
    """

    ground: Ground
    bucket: Bucket
    row: ObjectRow
    tags: Mapping[str, str]
    history: Sequence[Version] = ()
    place: int = 0


class Peers:
    """The peers of one site. Memory: a store's and a catalog's connections for each.

    ``rules`` reads all rules; the last ones stand while that fails.
    """

    def __init__(
        self,
        rules: Callable[[], Coroutine[Any, Any, Sequence[Rule]]],
        opener: Opener,
        *,
        metrics: Metrics | None = None,
        timeout_s: float = TIMEOUT_S,
        rest_s: float = REST_S,
        rules_ttl_s: float = RULES_TTL_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._read_rules = rules
        self._opener = opener
        self._counter = (metrics or Metrics()).peer_reads
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._rules_ttl_s = rules_ttl_s
        self._clock = clock
        self._rules: Sequence[Rule] = ()
        self._rules_until: float | None = None
        self._rules_lock = asyncio.Lock()
        self._rests: dict[str, float] = {}
        self._stack = AsyncExitStack()
        self._grounds: dict[str, Ground] = {}
        self._opening = asyncio.Lock()
        self._late: set[asyncio.Task[Any]] = set()

    async def aclose(self) -> None:
        """Leave the peers."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        self._grounds.clear()
        await self._stack.aclose()

    async def find(
        self, ground: Ground, bucket: Bucket, key: str, version_id: str | None
    ) -> Found | None:
        """The version that peers have of what ``ground`` does not: the newest one, or the named.

        None where no peer has it, may be asked or answers, or where it was deleted here.
        """
        rules = await self._rules_now()
        wanted = peers_of(rules, site=ground.site, bucket=bucket.name, key=key)
        asked = (self._ask(peer, ground, bucket, key, version_id) for peer in wanted)
        answers = [each for each in await asyncio.gather(*asked) if each]
        if not answers:
            return None
        best = max(answers, key=lambda each: each.row.stamp)
        tags = wanted[best.row.served_by]
        if best.row.is_delete_marker or not tags.items() <= best.tags.items():
            self._count(ground, best.row.served_by, "missing")
            return None
        if not await _is_new_here(ground, bucket, best):
            self._count(ground, best.row.served_by, "removed")
            return None
        return best

    async def _rules_now(self) -> Sequence[Rule]:
        async with self._rules_lock:
            now = self._clock.monotonic()
            if self._rules_until is None or now >= self._rules_until:
                try:
                    self._rules = await self._in_time(self._read_rules())
                except (RetryableError, TimeoutError) as error:
                    _log.warning("rules cannot be read, so those of before hold: %s", error)
                self._rules_until = now + self._rules_ttl_s
            return self._rules

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes within ``timeout_s``, else ``TimeoutError``.

        It is not cancelled then but left to its own limits: a statement that is cancelled waits for
        its server, too.
        """
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._end)
        done, _ = await asyncio.wait([task], timeout=self._timeout_s)
        if not done:
            raise TimeoutError
        return task.result()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # which nobody waits for any more, or somebody has

    async def _ask(
        self, peer: str, ground: Ground, bucket: Bucket, key: str, version_id: str | None
    ) -> Found | None:
        if not self._may_ask(peer):
            self._count(ground, peer, "resting")
            return None
        try:
            found = await self._in_time(self._look(peer, ground, bucket, key, version_id))
        except (EntrepotError, TimeoutError) as error:
            self._failed(ground, peer, error)
            return None
        self._rests.pop(peer, None)
        if found is None:
            self._count(ground, peer, "missing")
        return found

    async def _look(
        self, peer: str, ground: Ground, bucket: Bucket, key: str, version_id: str | None
    ) -> Found | None:
        async with self._opening:
            if peer not in self._grounds:
                self._grounds[peer] = await self._stack.enter_async_context(self._opener(peer))
        return await _look(self._grounds[peer], ground, bucket, key, version_id)

    def _may_ask(self, peer: str) -> bool:
        until = self._rests.get(peer)
        now = self._clock.monotonic()
        if until is not None and until > now:
            return False
        if until is not None:
            self._rests[peer] = now + self._rest_s  # one caller tries it, not all of them
        return True

    def _failed(self, ground: Ground, peer: str, error: Exception) -> None:
        self._rests[peer] = self._clock.monotonic() + self._rest_s
        self._count(ground, peer, "failed")
        _log.warning("a read cannot be served by %s: %s", peer, error or "no answer in time")

    def _count(self, ground: Ground, peer: str, outcome: str) -> None:
        self._counter.labels(ground.site, peer, outcome).inc()

    @asynccontextmanager
    async def opened(
        self,
        ground: Ground,
        found: Found,
        *,
        start: int = 0,
        stop: int | None = None,
        condition: Condition | None = None,
    ) -> AsyncGenerator[Opened, None]:
        """Open what was found; ``NotFound`` where the peer cannot give it any more."""
        peer = found.row.served_by
        async with AsyncExitStack() as stack:
            reading = opened(
                found.ground, found.bucket, found.row, start=start, stop=stop, condition=condition
            )
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await stack.enter_async_context(reading)
            except (NotFound, RetryableError, TimeoutError) as error:
                self._failed(ground, peer, error)
                raise NotFound("no such object", bucket=found.bucket.name, key=found.row.key) from (
                    error
                )
            self._count(ground, peer, "served")
            yield body


def peers_of(
    rules: Sequence[Rule], *, site: str, bucket: str, key: str
) -> Mapping[str, Mapping[str, str]]:
    """Who may serve a key that ``site`` does not have, each with the tags that it must bear. Pure.

    Whose writes do not come to ``site`` by a rule is none of its peers.
    """
    found: dict[str, Mapping[str, str]] = {}
    for rule in rules:
        covers = bucket in rule.buckets and key.startswith(rule.prefix) and site in rule.sites
        if covers and rule.enabled and rule.peer_reads:
            sources = rule.sites if rule.source is None else (rule.source,)
            found |= {name: rule.tag_filter for name in sources if name != site}
    return found


async def _look(
    there: Ground, here: Ground, bucket: Bucket, key: str, version_id: str | None
) -> Found | None:
    """What a peer has, as its catalog or, of an adopted bucket, its store says."""
    try:
        other = await there.bucket(bucket.name)
    except BucketNotFound:
        return None
    if (other.tenant_id, other.mode) != (bucket.tenant_id, bucket.mode):
        return None
    if bucket.mode is BucketMode.ADOPTED:
        is_kept = Capability.ORIGIN in here.capabilities & there.capabilities
        return await _stored(there, other, key, version_id) if is_kept else None
    if version_id is None:
        row = (await newest_versions(there.catalog, [(other.id, key)])).get((other.id, key))
    else:
        row = await get_version(there.catalog, bucket_id=other.id, key=key, version_id=version_id)
    if row is None or row.is_quarantined:
        return None
    return Found(there, other, replace(row, served_by=there.site), row.attributes.get("tags", {}))


async def _stored(there: Ground, bucket: Bucket, key: str, version_id: str | None) -> Found | None:
    """The same of an adopted bucket; its version ids must be the same at both sites."""
    listed = stored_versions(there, bucket, stored_key(key), details=True)
    history = [version async for version in listed]
    ids = [version.version_id for version in history]
    place = 0 if version_id is None else ids.index(version_id) if version_id in ids else len(ids)
    if place == len(history):
        return None
    version = history[place]
    row = row_of(there.site, bucket, version)
    if not version.is_delete_marker:
        time = {"mtime_ms": version.mtime_ms}
        row = await find_in_store(there, bucket, key, version.version_id, **time)
    tags = version.attributes.tags if version.attributes else {}
    return Found(there, bucket, replace(row, served_by=there.site), tags, history, place)


async def _is_new_here(here: Ground, bucket: Bucket, found: Found) -> bool:
    """Whether the version cannot have been here before, and gone."""
    row, now_ms = found.row, here.hybrid.wall_ms()
    since_ms = row.stamp.time_ms
    if bucket.mode is BucketMode.MANAGED:  # of which every removal goes through us
        since_ms = max(since_ms, round(bucket.adopted_at.timestamp() * 1000))
    remembered_ms = round((HORIZON - _MARGIN).total_seconds() * 1000)
    is_ahead = row.stamp.time_ms > now_ms + here.limits.bound_ms
    if is_ahead or since_ms < now_ms - remembered_ms:
        return False
    place = bucket.id, row.key, row.version_id
    try:
        if await was_purged(here.catalog, place):
            return False
        rules = await here.store.lifecycle(bucket.name) if found.history else ()
    except EntrepotError as error:
        _log.warning("what was removed here is not known, so no peer serves it: %s", error)
        return False
    return found.place not in expired(row.key, found.history, rules, now_ms=now_ms)
