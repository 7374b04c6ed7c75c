"""Sweeps against a model: random writes and deletes at random sites, with sweeps in between."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from entrepot.catalog.connect import Catalog
from entrepot.catalog.version_map import VersionMap
from entrepot.errors import NotFound
from entrepot.replication.sites import Site
from entrepot.replication.sweep import Options, Range, sweep
from entrepot.replication.totals import Totals
from entrepot.store.memory import MemoryStore
from entrepot.testing.contract_tools import history, read
from tests.replication.worlds import ALL, MINTS

BUCKET = "bucket"
KEYS = ["a", "b/1", "ü"]


class Ticks:
    """A clock that all sites share, a little later at each look.

    Not by one millisecond: that is what "just after" means for a marker without a time of its own,
    and rank decides between it and a write of that very millisecond.
    """

    def __init__(self) -> None:
        self._now = datetime(2024, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(milliseconds=5)
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()


@dataclass
class Model:
    """The newest write of each key, and whether a delete since knew of it."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    is_deleted: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One thing that somebody does."""

    what: str
    site: int
    key: str


HARMS = ["lose", "swap", "deny"]
harms = st.builds(Step, st.sampled_from(HARMS), st.just(0), st.just("a"))
steps = st.builds(
    Step,
    st.sampled_from(["put", "put", "delete", "sweep"]),
    st.integers(0, 3),
    st.sampled_from(KEYS),
)


async def run_with_maps(keeps: Sequence[bool], script: Sequence[Step], dsn: SecretStr) -> None:
    async with Catalog.open(dsn, pool_size=1) as control:
        await run(keeps, script, control)


async def run(
    keeps: Sequence[bool], script: Sequence[Step], control: Catalog | None = None
) -> None:
    clock = Ticks()
    sites = [
        Site(
            name=str(rank),
            rank=rank,
            store=MemoryStore(clock=clock),
            capabilities=ALL if keeping else MINTS,
            version_map=VersionMap(control, str(rank)) if control and not keeping else None,
        )
        for rank, keeping in enumerate(keeps)
    ]
    try:
        for site in sites:
            await site.store.create(BUCKET)
        model = Model()
        for number, step in enumerate(script):
            if step.what == "sweep":
                await swept(sites, clock)
            elif step.what in HARMS:
                for site in sites:
                    if site.version_map is not None:
                        await harm(step.what, site.version_map)
            else:
                await do(step, sites[step.site % len(sites)], model, f"body {number}".encode())
        await swept(sites, clock)
        views = [await view(site) for site in sites]
        assert all(found == views[0] for found in views)
        for key, body in model.bodies.items():
            assert views[0].get(key) == (None if model.is_deleted[key] else body), key
        before = [await history(site.store, BUCKET) for site in sites]
        again = await swept(sites, clock)
        assert again.copied + again.marked + again.failed + again.moved == 0
        assert [await history(site.store, BUCKET) for site in sites] == before
    finally:
        for site in sites:
            await site.store.close()


async def harm(what: str, version_map: VersionMap) -> None:
    """Lose the rows, have each say what another one should, or that nothing is a copy."""
    rows = await version_map.between(BUCKET, "", "")
    marks = list(rows.values())
    if what == "lose":
        await version_map.forget(BUCKET, "", "")
    elif what == "swap":
        wrong = marks[1:] + marks[:1]
        await version_map.keep(BUCKET, dict(zip(rows, wrong, strict=True)))
    else:
        await version_map.keep(BUCKET, dict.fromkeys(rows, ""))


async def do(step: Step, site: Site, model: Model, body: bytes) -> None:
    if step.what == "put":
        await site.store.put(BUCKET, step.key, body)
        model.bodies[step.key], model.is_deleted[step.key] = body, False
        return
    try:
        seen = await read(site.store, BUCKET, step.key)
    except NotFound:
        return  # nothing to delete as far as this site knows
    await site.store.delete(BUCKET, step.key)
    # Where times are kept, the newest wins whatever it knew. A marker without a time of its own
    # deletes what it knew, and no write that it did not.
    if site.keeps_origin or seen == model.bodies[step.key]:
        model.is_deleted[step.key] = True


async def swept(sites: Sequence[Site], clock: Ticks) -> Totals:
    async def checkpoint(_last: str, _totals: Totals) -> None:
        return

    def horizon_ms() -> int:
        return round(clock.now().timestamp() * 1000) + 60_000

    totals, findings = await sweep(
        sites,
        BUCKET,
        keys=Range(),
        options=Options(batch_size=2, workers=2, horizon_ms=horizon_ms),
        guard=lambda: None,
        checkpoint=checkpoint,
    )
    assert (totals.failed, totals.moved, totals.quarantined) == (0, 0, 0), findings.rows
    return totals


async def view(site: Site) -> dict[str, bytes]:
    found = {}
    for key in KEYS:
        try:
            found[key] = await read(site.store, BUCKET, key)
        except NotFound:
            continue
    return found


def put(site: int) -> Step:
    return Step("put", site, "a")


SWEEP = Step("sweep", 0, "a")


@given(st.integers(2, 4), st.lists(steps, max_size=15))
@settings(max_examples=60, deadline=None)
def test_the_newest_wins_at_all_sites(count: int, script: list[Step]) -> None:
    asyncio.run(run([True] * count, script))


@given(st.lists(st.booleans(), min_size=2, max_size=4), st.lists(steps, max_size=15))
@settings(max_examples=120, deadline=None)
@example([True, False], [put(0), SWEEP, Step("delete", 0, "a"), SWEEP, put(0)])
@example([False, True, True], [put(1), SWEEP, put(2), Step("delete", 0, "a")])
def test_the_same_where_some_mint_their_times(keeps: list[bool], script: list[Step]) -> None:
    asyncio.run(run(keeps, script))


@given(st.lists(st.booleans(), min_size=2, max_size=3), st.lists(steps | harms, max_size=15))
@settings(max_examples=40, deadline=None)
@example([True, False], [put(0), SWEEP, put(0), SWEEP, Step("deny", 0, "a"), put(0)])
@example([True, False], [put(1), SWEEP, put(0), SWEEP, Step("swap", 0, "a"), put(1)])
def test_the_same_with_version_maps_that_are_lost_or_wrong(
    control_dsn: SecretStr, keeps: list[bool], script: list[Step]
) -> None:
    asyncio.run(run_with_maps(keeps, script, control_dsn))
