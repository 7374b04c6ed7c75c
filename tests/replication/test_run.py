"""Jobs of a rule over real servers and a real Postgres: claims, cursors, fences."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import func, update

from entrepot.catalog import jobs
from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.states import JobState
from entrepot.clock import new_id
from entrepot.errors import AccessDenied, Busy, Fenced, InvalidInput, Unsupported
from entrepot.replication import run as replication
from entrepot.replication import sweep as sweeping
from entrepot.replication import totals
from entrepot.store.protocol import Page
from entrepot.store.wrapper import StoreWrapper
from entrepot.testing.faulty import FaultyStore, Refuse
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import World, same


class Crash(Exception):
    """What a killed process does not raise."""


@dataclass
class Runner:
    """Begins, sweeps and finishes runs of one world's bucket."""

    catalog: Catalog
    world: World
    prefix: str = ""

    async def begin(self, *, holder: str = "h", run: str | None = None, **more: Any) -> Any:
        usual = {"shards": 4, "dry_run": False}
        return await replication.begin(
            self.catalog,
            self.world.sites,
            rule="rule",
            bucket=self.world.bucket,
            prefix=self.prefix,
            holder=holder,
            flow_run_id=run or str(new_id()),
            **(usual | more),
        )

    async def sweep(
        self, job: Any, *, batch_size: int = 5, **more: Any
    ) -> list[replication.Outcome]:
        return [
            await replication.sweep_shard(
                self.catalog,
                self.world.sites,
                job=job,
                shard=shard,
                batch_size=batch_size,
                workers=4,
                **more,
            )
            for shard in await jobs.shards(self.catalog, job.claim)
            if not shard.done
        ]

    async def finish(self, job: Any, outcomes: Any) -> replication.Outcome:
        return await replication.finish(self.catalog, job=job, outcomes=outcomes, more={})

    async def whole(self, **more: Any) -> replication.Outcome:
        job = await self.begin(**more)
        dry_run = bool(more.get("dry_run", False))
        return await self.finish(job, await self.sweep(job, dry_run=dry_run))

    async def expire(self, job: Any) -> None:
        """As time passes after a kill."""
        async with self.catalog.begin() as connection:
            await connection.execute(
                update(t.Job).where(t.Job.id == job.claim.job_id).values(lease_until=func.now())
            )


@pytest.fixture
def runner(control: Catalog, worlds: MakeWorld) -> Callable[..., Runner]:
    return lambda **more: Runner(control, worlds(), **more)


def fill(world: World, count: int = 40) -> None:
    for number in range(count):
        world.put(number % 2, f"{number % 4}/k{number:02}", str(number).encode())


async def test_a_run_from_beginning_to_end(runner: Callable[..., Runner]) -> None:
    work = runner()
    fill(work.world)
    job = await work.begin()
    assert [shard.stop_at for shard in job.shards] == ["1/", "2/", "3/", ""]
    outcomes = await work.sweep(job)
    assert await replication.progress(work.catalog, job=job) == 1.0
    outcome = await work.finish(job, outcomes)
    assert (outcome.totals["copied"], outcome.totals["verified"]) == (40, 40)
    assert same(work.world.views())
    again = await work.whole()
    assert (again.totals["copied"], again.totals["differing"]) == (0, 0)
    [last] = [
        found
        for found in await jobs.recent(work.catalog)
        if work.world.bucket in found.subject and found.epoch == 2
    ]
    assert (last.state, last.report["totals"]["failed"]) == (JobState.COMPLETED, 0)


class ShortPages(StoreWrapper):
    """Lists five versions at a time."""

    def versions(self, bucket: str, *, page_size: int = 0, **more: Any) -> AsyncIterator[Page]:
        return super().versions(bucket, page_size=5, **more)


async def test_the_next_run_is_cut_where_the_last_one_left_marks(
    control: Catalog, worlds: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First-level prefixes say little of where the keys are."""
    monkeypatch.setattr(totals, "MARK_EVERY", 1)
    monkeypatch.setattr(replication, "SHARD_MIN_ENTRIES", 10)
    work = Runner(control, worlds(wraps={0: ShortPages, 1: ShortPages}))
    for number in range(40):
        work.world.put(0, f"all/k{number:02}")
    assert len((await work.begin(run="first")).shards) == 1
    await work.whole(run="first")
    job = await work.begin()
    ends = [shard.stop_at for shard in job.shards]
    assert len(ends) == 4 and ends[-1] == "" and ends == [*sorted(ends[:-1]), ""]
    assert all(end.startswith("all/k") for end in ends[:-1])
    outcome = await work.finish(job, await work.sweep(job))
    assert (outcome.totals["listed"], outcome.totals["copied"]) == (40, 0)


async def test_it_goes_on_after_a_crash_at_every_checkpoint(
    runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = runner()
    fill(work.world)
    crashes, real = 0, jobs.checkpoint
    for moment in ("before", "after") * 30:
        calls = 0

        async def crashing(*args: Any, moment: str = moment, **more: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2 and moment == "before":
                raise Crash
            await real(*args, **more)
            if calls == 2 and moment == "after":
                raise Crash

        job = await work.begin()
        assert job.claim.resumed == (crashes > 0)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(jobs, "checkpoint", crashing)
                outcomes = await work.sweep(job)
        except Crash:
            crashes += 1
            await work.expire(job)
            continue
        outcome = await work.finish(job, outcomes)
        break
    assert crashes > 4
    assert outcome.totals["failed"] == 0
    assert same(work.world.histories())
    assert len(work.world.history(0)) == 40  # nothing twice
    assert (await work.whole()).totals["differing"] == 0


async def test_keys_of_all_kinds_as_cursors(
    runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = runner()
    keys = [
        "'; DROP TABLE jobs; --",
        'q"uote',
        "back\\slash",
        "%s %(x)s",
        "ünï/日本",
        "😀",
        "\x01\n",
    ]
    for key in keys:
        work.world.put(0, key)
    monkeypatch.setattr(sweeping, "CHECKPOINT_EVERY", 1)
    real, seen = jobs.checkpoint, []

    async def noting(*args: Any, cursor: str, **more: Any) -> None:
        await real(*args, cursor=cursor, **more)
        seen.append(cursor)
        if len(seen) % 2:
            raise Crash

    monkeypatch.setattr(jobs, "checkpoint", noting)
    work.world.stores[0].versions = paged(work.world.stores[0].versions)  # type: ignore[method-assign]
    while True:
        job = await work.begin(run="the same", shards=1)
        try:
            outcomes = await work.sweep(job, batch_size=1)
            break
        except Crash:
            [shard] = await jobs.shards(work.catalog, job.claim)
            assert shard.cursor == seen[-1]
    await work.finish(job, outcomes)
    assert set(keys) <= set(seen)
    assert same(work.world.histories())


def paged(versions: Any) -> Any:
    """Pages of one key, so that every key becomes a cursor."""
    return lambda *args, **more: versions(*args, **{**more, "page_size": 1})


async def test_a_second_live_run_is_busy(
    runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "LEASE_S", 1.0)
    work = runner()
    first = await work.begin(holder="first")
    renewing = asyncio.create_task(keep(work, first))
    with pytest.raises(Busy) as busy:
        await work.begin(holder="second")
    assert busy.value.hint.startswith("first holds it")
    renewing.cancel()
    await asyncio.wait([renewing])
    assert (await work.begin(holder="second")).claim.resumed  # once the first is gone


async def keep(work: Runner, job: Any) -> None:
    while True:
        await jobs.renew(work.catalog, job.claim, lease_s=1.0)
        await asyncio.sleep(0.2)


async def test_who_was_taken_over_writes_nothing_more(runner: Callable[..., Runner]) -> None:
    work = runner()
    fill(work.world)
    old = await work.begin(run="old")
    await work.expire(old)
    new = await work.begin(run="new")
    assert (new.claim.epoch, new.shards) == (old.claim.epoch + 1, old.shards)
    for attempt in (
        work.sweep(old),
        replication.progress(work.catalog, job=old),
        work.finish(old, []),
    ):
        with pytest.raises(Fenced):
            await attempt
    # Not one object either: a lease is taken before the first byte.
    assert len(work.world.history(0)) == 20
    outcome = await work.finish(new, await work.sweep(new))
    assert outcome.totals["copied"] == 40


async def test_who_is_taken_over_in_the_middle_stops_there(
    runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = runner()
    fill(work.world)
    old = await work.begin(run="old")
    real, taken = jobs.checkpoint, []

    async def taken_over(*args: Any, **more: Any) -> None:
        if not taken:
            await work.expire(old)
            taken.append(await work.begin(run="new"))
        await real(*args, **more)

    monkeypatch.setattr(jobs, "checkpoint", taken_over)
    with pytest.raises(Fenced):
        await work.sweep(old)
    [new] = taken
    # Its batch is there, its record is not: the next one does it again, to the same end.
    assert all(shard.counters == {} for shard in await jobs.shards(work.catalog, new.claim))
    await work.finish(new, await work.sweep(new))
    assert same(work.world.histories())
    assert len(work.world.history(0)) == 40


async def test_a_dry_run_leaves_a_real_one_alone(runner: Callable[..., Runner]) -> None:
    work = runner()
    fill(work.world)
    real = await work.begin(run="real")
    before = work.world.histories()
    dry = await work.whole(run="dry", dry_run=True)
    assert (dry.totals["differing"], dry.totals["copied"]) == (40, 0)
    assert {row["why"] for row in dry.findings} == {"planned, not done"}
    assert work.world.histories() == before
    assert [shard.cursor for shard in await jobs.shards(work.catalog, real.claim)] == [
        shard.start_after for shard in real.shards
    ]
    assert (await work.finish(real, await work.sweep(real))).totals["copied"] == 40


async def test_a_prefix_is_a_job_of_its_own(runner: Callable[..., Runner]) -> None:
    work = runner(prefix="1/")
    fill(work.world)
    outcome = await work.whole()
    assert (outcome.totals["copied"], outcome.totals["verified"]) == (10, 10)
    assert {key[:2] for key in work.world.view(0)} == {"0/", "1/", "2/"}
    work.prefix = ""
    assert (await work.whole()).totals["copied"] == 30


async def test_an_object_that_fails_makes_the_job_fail(runner: Callable[..., Runner]) -> None:
    work = runner()
    fill(work.world, 4)
    denied = FaultyStore(work.world.stores[1], {"put": [Refuse(AccessDenied("no"))]})
    job = await work.begin()
    work.world.sites[1] = replace(work.world.sites[1], store=denied)
    outcome = await work.finish(job, await work.sweep(job))
    assert (outcome.totals["failed"], outcome.totals["copied"]) == (1, 3)
    assert [row["what"] for row in outcome.findings] == ["failed"]
    [job] = [j for j in await jobs.recent(work.catalog) if work.world.bucket in j.subject]
    assert job.state is JobState.FAILED
    assert (await work.whole()).totals["copied"] == 1


async def test_what_cannot_be_kept_is_refused_before_a_claim(
    control: Catalog, worlds: MakeWorld
) -> None:
    work = Runner(control, worlds(versioned=False))
    with pytest.raises(Unsupported):
        await work.begin()
    work.world.enable_versioning()
    del work.world.sites[1]
    with pytest.raises(InvalidInput):
        await work.begin()
    assert not [j for j in await jobs.recent(control) if work.world.bucket in j.subject]
