"""The steps of a replication run, a task each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from blocks.rule import find_rule
from entrepot.catalog import jobs
from entrepot.catalog.plans import Plan, get_plan
from entrepot.catalog.rules import Rule, list_rules
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import EntrepotError
from entrepot.replication import approve
from entrepot.replication import run as replication
from entrepot.replication.hours import in_turn
from entrepot.replication.promises import check_swept
from entrepot.replication.sites import Site
from tasks.library import catalog, run, standing, worth_retrying
from tasks.library import sites as opened_sites
from tasks.managed import RowsAt, share_removals, took_at

RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
SHORT_S = 120


async def _sites(names: Sequence[str], *, workers: int, rule: str) -> tuple[Site, ...]:
    found = await opened_sites(names, workers=workers, rule=rule)
    return tuple(replace(site, took=took_at(site.name), rows=RowsAt(site.name)) for site in found)


@task(task_run_name="open rules", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def open_rules(name: str) -> tuple[Rule, ...]:
    """The named rule; where the name is empty every one that may run, those that rest last.

    A rule that is disabled, or paused until somebody resumes it, is only run by its name.
    """

    async def find() -> tuple[Rule, ...]:
        control = await catalog()
        if name:
            return (await find_rule(name, catalog=control),)
        now = SYSTEM_CLOCK.now()
        return tuple(in_turn(await list_rules(control), now))

    return run(find())


def rest(rule: Rule) -> None:
    """Wait until the rule may run (no task: it may take hours); ``Paused`` where none knows when.

    Whoever runs a rule calls this first, since an endpoint in maintenance answers nothing.
    """

    async def wait() -> None:
        await (await standing(rule.name)).wait()

    run(wait())


@task(task_run_name="claim {bucket}", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def begin_bucket(
    rule: Rule,
    bucket: str,
    *,
    prefix: str,
    shards: int,
    workers: int,
    dry_run: bool,
    force: replication.Force,
) -> replication.BucketJob:
    """Claim the bucket's job and cut it into shards."""
    how = {"prefix": prefix, "shards": shards, "dry_run": dry_run, "force": force, **_who()}
    return run(_begin(rule, bucket, workers=workers, **how))


async def _begin(rule: Rule, bucket: str, *, workers: int, **how: Any) -> replication.BucketJob:
    check_swept(rule)
    await share_removals(rule.sites, bucket)
    return await replication.begin(
        await catalog(),
        await _sites(rule.sites, workers=workers, rule=rule.name),
        rule=rule.name,
        bucket=bucket,
        policy=replication.policy_of(rule),
        **how,
    )


def _who() -> dict[str, str]:
    return {"holder": f"flow run {runtime.flow_run.name}", "flow_run_id": runtime.flow_run.id}


@task(task_run_name="sweep {job.bucket} {shard.number}", tags=["entrepot"], **RETRY)
def sweep_shard(
    job: replication.BucketJob,
    shard: jobs.Shard,
    *,
    site_names: Sequence[str],
    batch_size: int,
    workers: int,
    dry_run: bool,
) -> replication.Outcome:
    """Bring one range of keys to agreement, from its cursor on."""

    how = {"batch_size": batch_size, "workers": workers, "dry_run": dry_run}
    return run(_sweep(job, shard.number, site_names, **how))


async def _sweep(
    job: replication.BucketJob, number: int, names: Sequence[str], *, workers: int, **how: Any
) -> replication.Outcome:
    control = await catalog()
    return await replication.sweep_shard(
        control,
        await _sites(names, workers=workers, rule=job.rule),
        job=job,
        # A retry goes on from the cursor, not from what the flow once read.
        shard=(await jobs.shards(control, job.claim))[number],
        workers=workers,
        standing=await standing(job.rule),
        **how,
    )


@task(task_run_name="finish {job.bucket}", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def finish_bucket(
    job: replication.BucketJob, outcomes: Sequence[replication.Outcome], *, seconds: float
) -> replication.Outcome:
    """Add up the shards and close the job."""

    async def finish() -> replication.Outcome:
        more = {"seconds": round(seconds, 3), "resumed": job.claim.resumed}
        return await replication.finish(await catalog(), job=job, outcomes=outcomes, more=more)

    return run(finish())


@task(task_run_name="apply plan {plan_id}", tags=["entrepot"], **RETRY)
def apply_plan(plan_id: str, *, workers: int) -> tuple[Plan, replication.Outcome]:
    """Carry out a saved plan, at the sites of its rule."""
    return run(_apply(plan_id, workers=workers, **_who()))


async def _apply(plan_id: str, *, workers: int, **who: str) -> tuple[Plan, replication.Outcome]:
    control = await catalog()
    plan = await get_plan(control, plan_id=UUID(plan_id))
    rule = await find_rule(plan.rule, catalog=control)
    totals, findings = await approve.apply_plan(
        control,
        await _sites(rule.sites, workers=workers, rule=rule.name),
        plan=plan,
        policy=replication.policy_of(rule),
        workers=workers,
        **who,
    )
    return plan, replication.Outcome(plan.bucket, totals.as_dict(), tuple(findings.rows))


def refuse_bucket(job: replication.BucketJob, error: EntrepotError) -> None:
    """Close the job of a bucket that a guard stopped (no task: it runs when tasks have failed)."""

    async def refuse() -> None:
        await replication.refuse(await catalog(), job=job, error=error)

    run(refuse())


def release_bucket(job: replication.BucketJob) -> None:
    """Let the next run take the job over at once (no task: it runs when tasks have failed)."""

    async def release() -> None:
        await jobs.release(await catalog(), job.claim)

    run(release())


def progress_of(job: replication.BucketJob) -> float:
    """How far the bucket is, 0 to 1 (no task: it is asked every two seconds)."""

    async def ask() -> float:
        return await replication.progress(await catalog(), job=job)

    return run(ask())
