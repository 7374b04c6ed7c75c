"""Claims: one winner, growing epochs, and nothing that a fenced holder could still write."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from entrepot.catalog import jobs
from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.jobs import Claim
from entrepot.catalog.states import JobState
from entrepot.clock import new_id, new_token
from entrepot.errors import Busy, EntrepotError, Fenced, InvalidInput, LimitExceeded

RANGES = [("", "g"), ("g", "p"), ("p", "")]


async def claim(catalog: Catalog, holder: str, **changes: Any) -> Claim:
    usual: dict[str, Any] = {
        "kind": "replicate",
        "subject": "rule",
        "lease_s": 60,
        "resume_within_s": 3600,
    }
    return await jobs.claim(catalog, holder=holder, **{**usual, **changes})


async def expire(catalog: Catalog, held: Claim) -> None:
    """Let the lease of that job run out."""
    past = func.now() - timedelta(seconds=1)
    async with catalog.begin() as connection:
        await connection.execute(
            update(t.Job).where(t.Job.id == held.job_id).values(lease_until=past)
        )


async def test_a_running_lease_keeps_others_out_and_says_who(control: Catalog) -> None:
    first = await claim(control, "a", flow_run_id="run-1")
    assert (first.epoch, first.resumed) == (1, False)
    with pytest.raises(Busy) as busy:
        await claim(control, "b", flow_run_id="run-2")
    assert busy.value.hint.startswith("a holds it until 20")
    assert busy.value.fields["flow_run_id"] == "run-1"
    assert (await claim(control, "b", subject="other")).epoch == 1
    assert (await claim(control, "b", kind="other")).epoch == 1


async def test_who_asks_is_told_whether_somebody_is_at_work(control: Catalog) -> None:
    subject = {"kind": "replicate", "subject": f"asked-{new_id().hex[:8]}"}
    assert await jobs.holder_of(control, **subject) is None
    held = await claim(control, "a", **subject)
    assert await jobs.holder_of(control, **subject)
    await expire(control, held)
    assert await jobs.holder_of(control, **subject) is None
    await jobs.finish(control, held, state=JobState.COMPLETED, report={})
    assert await jobs.holder_of(control, **subject) is None


async def test_a_retry_takes_over_at_once(control: Catalog) -> None:
    first = await claim(control, "a", flow_run_id="run-1")
    second = await claim(control, "b", flow_run_id="run-1")
    assert second == replace(first, holder="b", epoch=2, resumed=True)
    with pytest.raises(Busy):  # one worker, another flow run
        await claim(control, "b", flow_run_id="run-2")
    with pytest.raises(Busy):
        await claim(control, "b")
    third = await claim(control, "h", subject="by hand")
    again = await claim(control, "h", subject="by hand")
    assert again == replace(third, epoch=2, resumed=True)


async def test_takeover_keeps_the_shards_and_fences_the_old_holder(control: Catalog) -> None:
    first = await claim(control, "a")
    planned = await jobs.plan_shards(control, first, RANGES)
    assert [(shard.number, shard.start_after, shard.stop_at) for shard in planned] == [
        (0, "", "g"),
        (1, "g", "p"),
        (2, "p", ""),
    ]
    assert [shard.cursor for shard in planned] == ["", "g", "p"]
    await jobs.checkpoint(
        control, first, number=1, cursor="ключ\n", counters={"copied": 7}, done=True
    )
    await expire(control, first)
    second = await claim(control, "b")
    assert (second.job_id, second.epoch, second.resumed) == (first.job_id, 2, True)
    kept = await jobs.plan_shards(control, second, [("", "")])
    assert kept == await jobs.shards(control, second)
    assert kept[1] == replace(planned[1], cursor="ключ\n", counters={"copied": 7}, done=True)
    await _writes_nothing(control, first)
    assert kept == await jobs.shards(control, second)


async def _writes_nothing(catalog: Catalog, stale: Claim) -> None:
    attempts: list[Awaitable[object]] = [
        jobs.renew(catalog, stale, lease_s=60),
        jobs.plan_shards(catalog, stale, RANGES),
        jobs.shards(catalog, stale),
        jobs.checkpoint(catalog, stale, number=0, cursor="z", counters={}, done=True),
        *(
            jobs.finish(catalog, stale, state=state, report={"by": "stale"})
            for state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
        ),
    ]
    before = await jobs.recent(catalog, limit=1000)
    for attempt in attempts:
        with pytest.raises(Fenced):
            await attempt
    await jobs.release(catalog, stale)
    assert await jobs.recent(catalog, limit=1000) == before


async def test_release_makes_room_at_once(control: Catalog) -> None:
    first = await claim(control, "a", lease_s=3600)
    await jobs.release(control, first)
    assert (await claim(control, "b")).resumed


async def test_a_job_too_old_to_resume_fails_and_a_new_one_starts(control: Catalog) -> None:
    first = await claim(control, "a")
    await jobs.plan_shards(control, first, RANGES)
    await jobs.release(control, first)
    second = await claim(control, "b", resume_within_s=0)
    assert second.job_id != first.job_id
    assert (second.epoch, second.resumed) == (3, False)  # giving up took one to fence the first
    assert await jobs.shards(control, second) == ()
    old = (await jobs.recent(control))[1]
    assert (old.id, old.state) == (first.job_id, JobState.FAILED)
    assert "not resumed within 0 s" in old.report["error"]
    await _writes_nothing(control, first)


async def test_finish_is_final_and_may_be_repeated(control: Catalog) -> None:
    assert await jobs.last_completed(control, kind="replicate", subject="rule") is None
    first = await claim(control, "a")
    for _ in range(2):
        await jobs.finish(control, first, state=JobState.COMPLETED, report={"copied": 3})
    with pytest.raises(Fenced):
        await jobs.finish(control, first, state=JobState.FAILED, report={})
    second = await claim(control, "a")
    assert (second.epoch, second.resumed) == (2, False)
    await jobs.finish(control, second, state=JobState.FAILED, report={})
    done = await jobs.last_completed(control, kind="replicate", subject="rule")
    assert done is not None
    assert (done.id, done.report, done.epoch) == (first.job_id, {"copied": 3}, 1)
    assert done.finished_at is not None and done.finished_at >= done.started_at
    assert [job.id for job in await jobs.recent(control)] == [second.job_id, first.job_id]
    assert len(await jobs.recent(control, limit=1)) == 1


async def test_bounds(control: Catalog) -> None:
    held = await claim(control, "a")
    refusals: list[tuple[type[EntrepotError], Awaitable[object]]] = [
        (InvalidInput, claim(control, "a", lease_s=0)),
        (InvalidInput, claim(control, "a", subject="s" * 257)),
        (InvalidInput, jobs.renew(control, held, lease_s=1e9)),
        (InvalidInput, jobs.recent(control, limit=1001)),
        (InvalidInput, jobs.finish(control, held, state=JobState.RUNNING, report={})),
        (LimitExceeded, jobs.plan_shards(control, held, [("", "")] * 10_001)),
        (InvalidInput, jobs.plan_shards(control, held, [("", "k" * 1025)])),
        (InvalidInput, jobs.checkpoint(control, held, number=9, cursor="", counters={}, done=True)),
        (
            InvalidInput,
            jobs.finish(control, held, state=JobState.FAILED, report={"error": "x" * (1 << 20)}),
        ),
    ]
    for kind, refused in refusals:
        with pytest.raises(kind):
            await refused
    assert (await jobs.recent(control))[0].state is JobState.RUNNING


async def test_prune_keeps_epochs_and_the_last_completed(control: Catalog) -> None:
    states = (JobState.COMPLETED, JobState.COMPLETED, JobState.FAILED, JobState.FAILED)
    for state in states:
        await jobs.finish(control, await claim(control, "a"), state=state, report={})
    running = await claim(control, "a", subject="running")
    assert await jobs.prune_jobs(control, older_than=timedelta(hours=1)) == 0
    assert await jobs.prune_jobs(control, older_than=timedelta(0)) == 2
    left = await jobs.recent(control)
    assert [job.epoch for job in left] == [running.epoch, 4, 2]
    assert (await claim(control, "a")).epoch == 5


async def test_no_checkpoint_lands_after_a_takeover(control: Catalog) -> None:
    """The new holder reads the cursors; a write by the old one after that would be lost work.

    So a takeover waits for a write that is under way, here held up between check and write.
    """
    held = await claim(control, "a", flow_run_id="run")
    await jobs.plan_shards(control, held, [("", "")])
    async with control.begin() as connection:
        await connection.execute(select(t.JobShard).with_for_update())
        writes = asyncio.create_task(
            jobs.checkpoint(control, held, number=0, cursor="k", counters={}, done=False)
        )
        await asyncio.sleep(0.3)
        takes_over = asyncio.create_task(claim(control, "b", flow_run_id="run"))
        await asyncio.sleep(0.3)
        assert not writes.done() and not takes_over.done()
    await writes
    [shard] = await jobs.shards(control, await takes_over)
    assert shard.cursor == "k"
    await _writes_nothing(control, held)


@settings(max_examples=15, deadline=None)
@given(claimers=st.integers(2, 8), left=st.sampled_from(["nothing", "expired", "released", "done"]))
async def test_of_many_claimers_one_wins(shared_control: Catalog, claimers: int, left: str) -> None:
    subject, epoch = new_token(8), 0
    if left != "nothing":
        before = await claim(shared_control, "before", subject=subject)
        epoch = before.epoch
        if left == "expired":
            await expire(shared_control, before)
        elif left == "released":
            await jobs.release(shared_control, before)
        else:
            await jobs.finish(shared_control, before, state=JobState.COMPLETED, report={})
    tries = (claim(shared_control, f"h{number}", subject=subject) for number in range(claimers))
    results = await asyncio.gather(*tries, return_exceptions=True)
    [winner] = [result for result in results if isinstance(result, Claim)]
    assert sum(isinstance(result, Busy) for result in results) == claimers - 1
    assert winner.epoch == epoch + 1
    assert winner.resumed == (left in ("expired", "released"))


STEP = st.tuples(
    st.sampled_from(["claim", "renew", "expire", "release", "checkpoint", "finish"]),
    st.integers(0, 2),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEP, max_size=25))
async def test_claims_follow_a_small_model(
    shared_control: Catalog, steps: list[tuple[str, int]]
) -> None:
    """The model: an owner (or none), whether its lease runs, and the last epoch."""
    catalog, subject = shared_control, new_token(8)
    claims: dict[int, Claim] = {}
    owner: int | None = None
    leased, epoch = False, 0
    for action, who in steps:
        if action == "claim":
            if owner is not None and leased and owner != who:
                with pytest.raises(Busy):
                    await claim(catalog, f"h{who}", subject=subject)
                continue
            claims[who] = await claim(catalog, f"h{who}", subject=subject)
            assert claims[who].epoch > epoch
            assert claims[who].resumed == (owner is not None)
            owner, leased, epoch = who, True, claims[who].epoch
            if not claims[who].resumed:
                await jobs.plan_shards(catalog, claims[who], [("", "")])
        elif who in claims and owner == who:
            await _act(catalog, claims[who], action)
            leased = {"renew": True, "expire": False, "release": False}.get(action, leased)
            owner = None if action == "finish" else owner
        elif who in claims and action not in ("expire", "release", "finish"):
            with pytest.raises(Fenced):
                await _act(catalog, claims[who], action)
    async with catalog.begin() as connection:
        running = select(func.count()).where(t.Job.subject == subject, t.Job.state == "running")
        assert (await connection.execute(running)).scalar_one() == (owner is not None)


async def _act(catalog: Catalog, held: Claim, action: str) -> None:
    match action:
        case "renew":
            await jobs.renew(catalog, held, lease_s=60)
        case "expire":
            await expire(catalog, held)
        case "release":
            await jobs.release(catalog, held)
        case "checkpoint":
            await jobs.checkpoint(catalog, held, number=0, cursor="k", counters={}, done=False)
        case "finish":
            await jobs.finish(catalog, held, state=JobState.COMPLETED, report={})
