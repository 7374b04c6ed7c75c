"""Guards, saved plans, and runs that were stopped, over real servers and a real Postgres."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from entrepot.catalog import jobs
from entrepot.catalog.plans import get_plan
from entrepot.catalog.removals import prune_removals, record_removals
from entrepot.catalog.states import JobState
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import (
    IntegrityError,
    LimitExceeded,
    PreconditionFailed,
)
from entrepot.replication import run as replication
from entrepot.replication.approve import apply_plan
from entrepot.replication.policy import Policy
from entrepot.terms import Travel
from tests.replication.conftest import MakeWorld
from tests.replication.ruled import Ruled, conflicting
from tests.replication.worlds import MINTS, World, same

# --- Guards -----------------------------------------------------------------------------------


def fill(world: World, count: int, site: int = 0) -> None:
    for number in range(count):
        world.put(site, f"k{number:03}", str(number).encode())


async def test_a_mass_deletion_stops_and_an_approved_plan_goes_on(
    ruled: Callable[..., Ruled],
) -> None:
    work = ruled()
    fill(work.world, 40)
    await work.run()
    for number in range(30):
        work.world.delete(0, f"k{number:03}")
    with pytest.raises(LimitExceeded) as refused:
        await work.run()
    assert "--dry-run --save" in refused.value.hint
    assert len(work.world.view(1)) == 40
    (last,) = [
        j for j in await jobs.recent(work.catalog, limit=1) if work.world.bucket in j.subject
    ]
    assert (last.state, "would delete more" in last.report["refused"]) == (JobState.FAILED, True)

    job, outcome = await work.run(dry_run=True, force=replication.Force(save=True))
    assert outcome.totals["deletes"] == 30
    work.world.put(1, "k000", b"written since the plan was made")
    plan = await get_plan(work.catalog, plan_id=job.claim.job_id)
    totals, findings = await approve(work, plan)
    assert (totals.marked, totals.verified, totals.moved, totals.failed) == (29, 29, 1, 0)
    assert [row["key"] for row in findings.rows] == ["k000"]
    assert sorted(work.world.view(1)) == ["k000", *(f"k{n:03}" for n in range(30, 40))]
    again, _ = await approve(work, plan)
    assert (again.marked, again.moved) == (0, 30)
    assert (await get_plan(work.catalog, plan_id=plan.id)).applied_at is not None
    await work.run()
    assert same(work.world.histories())


async def approve(work: Ruled, plan: Any) -> Any:
    return await apply_plan(
        work.catalog,
        work.world.sites,
        plan=plan,
        policy=work.policy,
        workers=4,
        holder="ada",
        flow_run_id=None,
    )


async def test_an_approved_plan_does_what_a_sweep_would(ruled: Callable[..., Ruled]) -> None:
    """Copies, histories, conflicts and their ledger, over several pages."""
    work = ruled(Policy(conflict={"": "first-write-wins"}))
    await conflicting(work)
    fill(work.world, 12, site=1)
    job = await work.begin(dry_run=True, policy=work.policy, force=replication.Force(save=True))
    await work.finish(job, await work.sweep(job, dry_run=True, batch_size=5))
    assert await work.ledger() == []
    plan = await get_plan(work.catalog, plan_id=job.claim.job_id)
    totals, findings = await approve(work, plan)
    assert (totals.failed, totals.moved) == (0, 0), findings.rows
    assert same(work.world.histories())
    assert work.world.body(1, "k") == b"by 0"
    assert len(await work.ledger()) == 1
    _, outcome = await work.run()
    assert outcome.totals["differing"] == 0


async def test_a_count_stops_as_well_as_a_share(ruled: Callable[..., Ruled]) -> None:
    work = ruled(Policy(max_delete_count=2, max_delete_share=1.0))
    fill(work.world, 40)
    await work.run()
    for number in range(3):
        work.world.delete(0, f"k{number:03}")
    with pytest.raises(LimitExceeded):
        await work.run()
    work.policy = Policy(max_delete_count=3)
    _, outcome = await work.run()
    assert outcome.totals["marked"] == 3


async def test_scenario_12_a_site_that_lists_nothing_or_little_is_not_filled(
    ruled: Callable[..., Ruled],
) -> None:
    for left in (0, 7):
        work = ruled()
        fill(work.world, 20)  # an empty site is filled the first time
        _, outcome = await work.run()
        assert outcome.totals["copied"] == 20
        for entry in work.world.history(1)[left:]:
            where = {"Bucket": work.world.bucket, "Key": entry.key}
            work.world.s3[1].delete_object(**where, VersionId=entry.version_id)
        with pytest.raises(IntegrityError) as refused:
            await work.run()
        assert refused.value.fields["site"] == "site-1"
        assert "--force-partial" in refused.value.hint
        assert len(work.world.history(1)) == left
        _, outcome = await work.run(force=replication.Force(partial=True))
        assert outcome.totals["copied"] == 20 - left
        assert same(work.world.histories())


async def test_a_site_that_grew_elsewhere_is_no_partial_listing(
    ruled: Callable[..., Ruled],
) -> None:
    work = ruled()
    fill(work.world, 20)
    await work.run()
    for number in range(60):
        work.world.put(0, f"a{number:03}", b"new")
    _, outcome = await work.run()
    assert outcome.totals["copied"] == 60


async def test_sites_apart_for_longer_than_the_horizon_are_not_merged(
    ruled: Callable[..., Ruled],
) -> None:
    work = ruled(Policy(tombstone_horizon_s=3600))
    fill(work.world, 3)
    await work.run()
    work.world.put(0, "later")

    class Later:
        """A clock two hours on."""

        def now(self) -> Any:
            return SYSTEM_CLOCK.now() + timedelta(hours=2)

        def monotonic(self) -> float:
            return SYSTEM_CLOCK.monotonic()

    with pytest.raises(PreconditionFailed) as refused:
        await work.run(clock=Later())
    assert "--rejoin" in refused.value.hint
    assert "later" not in work.world.view(1)
    await work.run(clock=Later(), force=replication.Force(rejoin=True))
    assert same(work.world.histories())


async def test_a_recorded_removal_travels_once_and_is_forgotten_later(
    ruled: Callable[..., Ruled],
) -> None:
    work = ruled(Policy(travels=frozenset(Travel)))
    work.world.put(0, "k", b"old")
    work.world.put(0, "k", b"new")
    await work.run()
    old = next(entry for entry in work.world.history(0) if not entry.is_current)
    work.world.s3[0].delete_object(Bucket=work.world.bucket, Key="k", VersionId=old.version_id)
    for _ in range(2):
        await record_removals(
            work.catalog, [("k", old.version_id)], bucket=work.world.bucket, site="site-0"
        )
    _, outcome = await work.run()
    assert outcome.totals["removed"] == 1
    assert same(work.world.histories())
    await prune_removals(work.catalog, older_than=timedelta(seconds=-60))


async def test_scenario_23_cancelled_and_begun_again_with_a_lower_limit(
    ruled: Callable[..., Ruled], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on from where it was, with what the next run says."""
    work = ruled()
    fill(work.world, 40)
    job = await work.begin(shards=1)
    real, settled = jobs.checkpoint, asyncio.Event()

    async def telling(*args: Any, **more: Any) -> None:
        await real(*args, **more)
        settled.set()

    monkeypatch.setattr(jobs, "checkpoint", telling)
    cancelled = asyncio.ensure_future(work.sweep(job, batch_size=4))
    await settled.wait()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await jobs.release(work.catalog, job.claim)
    again = await work.begin(shards=1)
    (shard,) = again.shards
    assert again.claim.resumed and shard.cursor
    done = shard.counters["copied"]
    assert done and done % 4 == 0
    outcome = await work.finish(again, await work.sweep(again, batch_size=2))
    assert outcome.totals["failed"] == 0
    assert same(work.world.histories())


async def test_scenario_5_where_ids_are_minted_markers_do_not_grow(
    ruled: Callable[..., Ruled],
) -> None:
    work = ruled(capabilities={1: MINTS})
    work.world.put(0, "k", b"x")
    await work.run()
    work.world.delete(0, "k")
    for _ in range(3):
        await work.run()
    markers = [[entry.is_marker for entry in history] for history in work.world.histories()]
    assert markers == [[False, True], [False, True]]
    assert work.world.views() == [{}, {}]


async def test_scenario_10_it_does_not_matter_which_site_is_named_first(
    worlds: MakeWorld,
) -> None:
    world = worlds()
    fill(world, 3)
    fill(world, 5, site=1)
    first = await world.sweep(dry_run=True)
    world.sites = [replace(site, rank=rank) for rank, site in enumerate(reversed(world.sites))]
    second = await world.sweep(dry_run=True)
    assert (first.differing, first.conflicts) == (second.differing, second.conflicts) == (5, 0)
