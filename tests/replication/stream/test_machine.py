"""Three sites, their streams and sweeps against a model; see ``machine``."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_bytes
from entrepot.embedded.postgres import PostgresServer
from entrepot.replication.stream import channel
from tests.objects.worlds import key_ring
from tests.replication.stream.machine import KEYS, KINDS, NAMES, Base, Step, play
from tests.replication.stream.weather import WeakCatalog, Weather

steps = st.builds(
    Step,
    st.sampled_from(
        ["put"] * 4
        + ["delete"] * 2
        + ["tag", "notices", "stream", "stream", "busy", "cut", "again", "sweep", "recover"]
    ),
    st.integers(0, len(NAMES) - 1),
    st.sampled_from(KEYS),
    st.booleans(),
)
scripts = st.tuples(
    st.sampled_from(list(KINDS)),
    st.lists(steps, max_size=14),
    st.lists(st.integers(-20, 20), min_size=len(NAMES), max_size=len(NAMES)),
    st.integers(0, 2**32),
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_dsns(postgres: PostgresServer) -> dict[str, str]:
    """Catalogs in which nothing else waits."""
    found = {name: postgres.create_database(f"machine_{name[-1]}") for name in NAMES}
    for dsn in found.values():
        await migrate(dsn, kind=CatalogKind.SITE)
    return found


async def opened(stack: AsyncExitStack, dsns: dict[str, str], keys: Path) -> Base:
    catalogs = {}
    for name in NAMES:
        catalog = await stack.enter_async_context(WeakCatalog.open(dsns[name], pool_size=8))
        catalog.site, catalog.weather = name, Weather(Random(0))
        catalogs[name] = catalog
    ring = key_ring(keys)
    stack.push_async_callback(ring.close)
    return Base(catalogs, ring)


def explore(dsns: dict[str, str], keys: Path, examples: int) -> None:
    number = int.from_bytes(new_bytes(4), "big")
    print(f"seed {number}")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        base = runner.run(opened(stack, dsns, keys))

        @seed(number)
        @given(scripts)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def sequences(drawn: tuple[str, list[Step], list[int], int]) -> None:
            runner.run(play(base, *drawn))

        try:
            sequences()
        finally:
            runner.run(stack.aclose())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "STRIKE_EVERY_S", 0.002)


def test_streams_and_sweeps_agree_after_whatever_happened(
    own_dsns: dict[str, str], keys_dir: Path
) -> None:
    explore(own_dsns, keys_dir, 50)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_streams_and_sweeps_agree_at_length(own_dsns: dict[str, str], keys_dir: Path) -> None:
    explore(own_dsns, keys_dir, 2_000)
