"""Three sites against a model: skewed clocks, cuts, crashes, lost answers, repeats, any order.

After quiescence every site holds the same versions and markers, serves the same, and nothing that
was acknowledged is missing.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from entrepot.clock import new_bytes
from entrepot.errors import EntrepotError, Unavailable
from entrepot.replication.policy import Policy
from entrepot.replication.sites import Site
from entrepot.replication.sweep import Options, Range, sweep
from entrepot.replication.totals import Totals
from entrepot.store.memory import MemoryStore
from entrepot.store.wrapper import Again, StoreWrapper
from entrepot.terms import Choice
from entrepot.testing.contract_tools import history
from tests.replication.worlds import ALL

BUCKET = "bucket"
KEYS = ["a", "b/1", "ü"]
SITES = 3
T = TypeVar("T")


class Crash(Exception):
    """A process that is gone."""


class Skewed:
    """A site's clock: all go on together, each off by something of its own."""

    def __init__(self, ticks: list[int], offset_ms: int) -> None:
        self._ticks, self._offset_ms = ticks, offset_ms

    def now(self) -> datetime:
        self._ticks[0] += 1
        # Every third look is in the millisecond of the one before: ties happen.
        ms = self._ticks[0] - self._ticks[0] // 3 + self._offset_ms
        return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)

    def monotonic(self) -> float:
        return float(self._ticks[0])


class Unreliable(StoreWrapper):
    """Between a sweep and a site: what goes wrong is drawn for each request."""

    def __init__(self, store: MemoryStore, chance: random.Random) -> None:
        super().__init__(store)
        self.chance = chance
        self.is_off = False
        self.faults = 0.0

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        del again
        if self.is_off:
            raise Unavailable("cut off")
        for _ in range(self.chance.randrange(4)):  # others may come first
            await asyncio.sleep(0)
        if self.chance.random() >= self.faults:
            return await call()
        what = self.chance.choice(["refused", "answer lost", "twice", "crash", "crash after"])
        if what == "refused":
            raise Unavailable("refused")
        if what == "crash":
            raise Crash
        answer = await call()
        if what == "answer lost":
            raise Unavailable("the answer was lost")
        if what == "crash after":
            raise Crash
        return await call() if what == "twice" and verb != "copy" else answer


@dataclass(frozen=True)
class Step:
    """One thing that happens; ``site`` is who writes, or is cut off."""

    what: str
    site: int
    key: str


steps = st.builds(
    Step,
    st.sampled_from(["put"] * 4 + ["delete"] * 2 + ["sweep", "unlucky", "cut"]),
    st.integers(0, SITES - 1),
    st.sampled_from(KEYS),
)
scripts = st.tuples(
    st.lists(steps, max_size=14),
    st.lists(st.integers(-20, 20), min_size=SITES, max_size=SITES),
    st.sampled_from(list(Choice)),
    st.integers(0, 2**32),
)


@dataclass
class World:
    """The sites, and what was acknowledged: (key, etag, is a marker) by version id."""

    sites: list[Site]
    links: list[Unreliable]
    clock: Skewed
    policy: Policy
    acknowledged: dict[str, tuple[str, str, bool]] = field(default_factory=dict)

    async def sweep(self, links: Sequence[int]) -> Totals:
        async def checkpoint(_last: str, _totals: Totals) -> None:
            return

        totals, findings = await sweep(
            [replace(self.sites[n], store=self.links[n]) for n in links],
            BUCKET,
            keys=Range(),
            options=Options(
                batch_size=2, workers=3, horizon_ms=self._horizon_ms, policy=self.policy
            ),
            guard=lambda: None,
            checkpoint=checkpoint,
        )
        assert (totals.failed, totals.quarantined) == (0, 0), findings.rows
        return totals

    def _horizon_ms(self) -> int:
        return round(self.clock.now().timestamp() * 1000) + 60_000


async def run(script: Sequence[Step], offsets: Sequence[int], choice: Choice, number: int) -> None:
    chance, ticks = random.Random(number), [0]
    stores = [MemoryStore(clock=Skewed(ticks, offset)) for offset in offsets]
    links = [Unreliable(store, chance) for store in stores]
    sites = [
        Site(name=str(n), rank=n, store=store, capabilities=ALL) for n, store in enumerate(stores)
    ]
    world = World(sites, links, Skewed(ticks, 0), Policy(conflict={"": choice}))
    try:
        for store in stores:
            await store.create(BUCKET)
        for turn, step in enumerate(script):
            await do(world, stores[step.site], step, turn)
        for link in links:
            link.faults = 0.0
        for _ in range(3):  # a second name of a conflict may be a conflict, once
            await world.sweep(range(SITES))
        await settled(world, stores)
    finally:
        for store in stores:
            await store.close()


async def do(world: World, store: MemoryStore, step: Step, turn: int) -> None:
    if step.what == "put":
        put = await store.put(BUCKET, step.key, f"body {turn}".encode())
        world.acknowledged[put.version_id] = (step.key, put.etag, False)
    elif step.what == "delete":
        marker = await store.delete(BUCKET, step.key)
        if marker is not None:
            world.acknowledged[marker.version_id] = (step.key, "", True)
    elif step.what == "cut":
        await world.sweep([n for n in range(SITES) if n != step.site])
    else:
        for link in world.links:
            link.faults = 0.2 if step.what == "unlucky" else 0.0
        try:
            await world.sweep(range(SITES))
        except (Crash, EntrepotError):
            assert step.what == "unlucky"
        for link in world.links:
            link.faults = 0.0


async def settled(world: World, stores: Sequence[MemoryStore]) -> None:
    # Noncurrent versions of one millisecond are listed by arrival, each site another way.
    held = [{replace(v, attributes=None) for v in await history(store, BUCKET)} for store in stores]
    assert all(each == held[0] for each in held)
    there = {v.version_id: (v.key, v.etag, v.is_delete_marker) for v in held[0]}
    assert world.acknowledged.items() <= there.items()
    again = await world.sweep(range(SITES))
    assert again.differing == 0


def explore(examples: int) -> None:
    number = int.from_bytes(new_bytes(4), "big")
    print(f"seed {number}")

    @seed(number)
    @given(scripts)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def sequences(drawn: tuple[list[Step], list[int], Choice, int]) -> None:
        asyncio.run(run(*drawn))

    sequences()


def test_three_sites_agree_after_whatever_happened() -> None:
    explore(100)


@pytest.mark.nightly
def test_three_sites_agree_after_whatever_happened_at_length() -> None:
    explore(2_000)
