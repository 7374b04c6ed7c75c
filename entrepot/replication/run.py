"""One run of a rule over one bucket, as a job that Postgres decides.

A job is claimed (epoch), cut into shards once, swept shard by shard with a cursor each, and
finished with a report. Whoever is killed leaves the job to the next claim, which goes on from the
cursors; whoever was taken over is fenced at the next checkpoint, and its copies in flight are
idempotent or conditional.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import SecretStr

from entrepot.catalog import jobs
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lease import Lease
from entrepot.catalog.plans import seal_plan
from entrepot.catalog.rule import Drift, RuleSpec
from entrepot.catalog.states import JobState
from entrepot.catalog.version_map import VersionMap
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import Busy, EntrepotError, InvalidInput, PreconditionFailed
from entrepot.replication.agree import agree_on_traits
from entrepot.replication.ledger import Before, JobLedger, Terms, before_of
from entrepot.replication.policy import Policy
from entrepot.replication.shards import cut, find_prefixes
from entrepot.replication.sites import Site, by_rank, check_bucket
from entrepot.replication.skew import Skew, bound_ms, measure
from entrepot.replication.standing import Standing, resting
from entrepot.replication.sweep import Options, Range, sweep
from entrepot.replication.totals import Findings, Marks, Totals, thinned
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.s3 import S3Store
from entrepot.store.throttle import Purse, ThrottledStore

KIND = "replicate"
DRY_RUN_KIND = "replicate-dry-run"  # kept apart: it settles nothing
LEASE_S = 15.0  # a killed run delays the next one by this much at most; three beats of 5 s
STREAM_SHARE = 4  # 12 bodies of 64 MiB: 2.9 s with 4 streams, 3.2 s with 16 (two cores, measured)
RESUME_WITHIN_S = 24 * 3600.0  # older cursors say little about today's bucket
SHARD_MIN_ENTRIES = 20_000  # half a second of listing (measured)
COMPARE_EVERY_S = 24 * 3600.0  # a listing that tells tags and locks costs 2.5 plain ones (measured)
SKEW_MS = 5 * 60 * 1000  # S3 itself refuses requests whose clock is off by more than 15 minutes


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach one site and what it was probed to do."""

    name: str
    rank: int
    endpoint: str
    region: str
    access_key: str
    secret_key: SecretStr
    capabilities: frozenset[Capability]


@dataclass(frozen=True, slots=True)
class Force:
    """What a person asked for in spite of a guard, of a dry run (to keep its plan), or of the time
    (to compare tags and locks now).
    """

    partial: bool = False
    rejoin: bool = False
    save: bool = False
    traits: bool = False


@dataclass(frozen=True, slots=True)
class BucketJob:
    """A claimed job over one bucket of a rule, and how it is to be carried out.

    ``skews`` are the sites' clocks as measured at its begin; ``save`` keeps the plan of a dry run.
    ``compares``: tags and locks of versions that are at several sites; ``compared_at`` is when
    that was last begun and done for all of them, once this job is completed.
    """

    claim: jobs.Claim
    rule: str
    bucket: str
    prefix: str
    shards: tuple[jobs.Shard, ...]
    policy: Policy = field(default_factory=Policy)
    skews: Mapping[str, Skew] = field(default_factory=dict)
    skew_ms: int = 0
    before: Before = field(default_factory=Before)
    force_partial: bool = False
    save: bool = False
    compares: bool = False
    compared_at: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one shard or bucket came to."""

    bucket: str
    totals: Mapping[str, int]
    findings: Sequence[Mapping[str, str]] = field(default=())
    marks: Sequence[str] = field(default=())


def policy_of(rule: RuleSpec) -> Policy:
    """How a rule is carried out."""
    return Policy(
        mode=rule.mode,
        source_site=rule.source or "",
        overwrites=rule.drift is Drift.OVERWRITE,
        travels=frozenset(rule.travels),
        tag_filter=rule.tag_filter,
        conflict=rule.conflict,
        max_delete_share=rule.max_delete_share,
        max_delete_count=rule.max_delete_count,
        tombstone_horizon_s=rule.tombstone_horizon_s,
    )


@asynccontextmanager
async def open_sites(
    addresses: Sequence[Address],
    *,
    workers: int,
    retry: RetryPolicy | None = None,
    purse: Purse | None = None,
    control: Catalog | None = None,
) -> AsyncIterator[tuple[Site, ...]]:
    """Connect to every site, in rank order; ``workers`` requests at most to each, with retries.

    ``purse`` is asked before each try of a request, see ``ThrottledStore``. ``control`` keeps the
    version maps of sites that mint ids.
    """
    async with AsyncExitStack() as stack:
        sites = []
        for address in addresses:
            store = S3Store(
                endpoint=address.endpoint,
                access_key=address.access_key,
                secret_key=address.secret_key,
                region=address.region,
                max_connections=workers + 2,  # and the page being listed, and a checkpoint's HEAD
            )
            stack.push_async_callback(store.close)
            mints = Capability.ORIGIN not in address.capabilities
            sites.append(
                Site(
                    name=address.name,
                    rank=address.rank,
                    store=RetryStore(
                        ThrottledStore(store, purse) if purse else store, retry or RetryPolicy()
                    ),
                    capabilities=address.capabilities,
                    streams=asyncio.Semaphore(max(1, workers // STREAM_SHARE)),
                    version_map=VersionMap(control, address.name) if control and mints else None,
                )
            )
        yield by_rank(sites)


async def begin(
    catalog: Catalog,
    sites: Sequence[Site],
    *,
    rule: str,
    bucket: str,
    prefix: str,
    shards: int,
    holder: str,
    flow_run_id: str | None,
    dry_run: bool = False,
    policy: Policy | None = None,
    force: Force | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> BucketJob:
    """Claim the bucket's job, waiting for a dead holder's lease, and cut it into shards.

    A bucket that was small the last time is cut into fewer than ``shards``: a range costs tens of
    milliseconds whatever is in it. One that was swept before is cut where that sweep left marks,
    evenly; a new one by its prefixes.

    Raises:
        InvalidInput: fewer than two sites.
        BucketNotFound, Unsupported: the bucket is missing or unversioned at a site.
        PreconditionFailed: the sites were apart for longer than deletes are remembered.
        Busy: another run is alive and working on it.
    """
    policy, force = policy or Policy(), force or Force()
    if len(sites) < 2:
        raise InvalidInput("a rule needs two or more sites", rule=rule)
    await asyncio.gather(*(check_bucket(site, bucket) for site in sites))
    subject = f"{rule}/{bucket}/{prefix}"
    last = await jobs.last_completed(catalog, kind=KIND, subject=subject)
    if last is not None and not (dry_run or force.rejoin):
        _check_horizon(last, policy, clock, rule=rule, bucket=bucket)
    claim = await _claim(
        catalog,
        kind=DRY_RUN_KIND if dry_run else KIND,
        subject=subject,
        holder=holder,
        flow_run_id=flow_run_id,
        # What is looked at and approved is one look at all of it.
        resume_within_s=0 if force.save else RESUME_WITHIN_S,
    )
    places: Sequence[str] = ()
    if last is not None:
        shards = min(shards, 1 + _listed(last) // SHARD_MIN_ENTRIES)
        places = last.report.get("marks", ())
    if shards > 1 and not places:
        places = await find_prefixes(sites, bucket, prefix=prefix)
    ranges = cut(places, shards=shards)
    planned = await jobs.plan_shards(catalog, claim, ranges)
    skews = await measure(sites, clock=clock)
    return BucketJob(
        claim=claim,
        rule=rule,
        bucket=bucket,
        prefix=prefix,
        shards=planned,
        policy=policy,
        skews=skews,
        skew_ms=bound_ms(skews, sites=len(sites)),
        before=Before() if last is None else before_of(last.report),
        force_partial=force.partial,
        save=force.save,
        **_comparison(last, claim, clock, is_asked=force.traits),
    )


def _comparison(
    last: jobs.Job | None, claim: jobs.Claim, clock: Clock, *, is_asked: bool
) -> dict[str, Any]:
    """Whether tags and locks are compared this time, and since when they will have been."""
    before = str(last.report.get("compared_at", "")) if last else ""
    now = clock.now()
    age_s = (now - datetime.fromisoformat(before)).total_seconds() if before else COMPARE_EVERY_S
    compares = is_asked or age_s >= COMPARE_EVERY_S
    # Whoever began a job that is resumed may have compared less.
    is_whole = compares and not claim.resumed
    return {"compares": compares, "compared_at": now.isoformat() if is_whole else before}


def _check_horizon(last: jobs.Job, policy: Policy, clock: Clock, *, rule: str, bucket: str) -> None:
    """Refuse to merge sites that were apart for so long that deletes may be forgotten."""
    since = last.finished_at or last.started_at
    if (clock.now() - since).total_seconds() > policy.tombstone_horizon_s:
        raise PreconditionFailed(
            "the sites were last made equal longer ago than deletes are remembered, so what is "
            "at one of them only may have been deleted",
            hint=f"look at it: entrepot replicate run {rule} --bucket {bucket} --dry-run --save; "
            f"then approve that plan, or: entrepot replicate run {rule} --bucket {bucket} --rejoin",
            bucket=bucket,
            since=since.isoformat(timespec="seconds"),
            horizon_s=policy.tombstone_horizon_s,
        )


def _listed(job: jobs.Job) -> int:
    return int(job.report.get("totals", {}).get("listed", 0))


async def _claim(
    catalog: Catalog,
    *,
    kind: str,
    subject: str,
    holder: str,
    flow_run_id: str | None,
    resume_within_s: float,
) -> jobs.Claim:
    # One lease and a beat: a live holder renews in that time, a dead one's lease has ended.
    for attempt in range(int(LEASE_S) + 5):
        try:
            return await jobs.claim(
                catalog,
                kind=kind,
                subject=subject,
                holder=holder,
                lease_s=LEASE_S,
                resume_within_s=resume_within_s,
                flow_run_id=flow_run_id,
            )
        except Busy:
            if attempt == int(LEASE_S) + 4:
                raise
        await asyncio.sleep(1.0)
    raise AssertionError("unreachable")


async def sweep_shard(
    catalog: Catalog,
    sites: Sequence[Site],
    *,
    job: BucketJob,
    shard: jobs.Shard,
    batch_size: int,
    workers: int,
    dry_run: bool = False,
    standing: Standing | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Outcome:
    """Sweep one shard from its cursor to its end; counts include those of earlier holders.

    Where ``standing`` says that the rule may not run, it stops before the next batch, keeps its
    lease, and goes on from its cursor when the time has come.
    """
    recorded, marks = Totals(), Marks()
    recorded.add(shard.counters)
    cursor = shard.cursor

    async def checkpoint(last_key: str, since: Totals, *, done: bool = False) -> None:
        nonlocal cursor
        cursor = last_key or cursor
        recorded.add(since)
        await jobs.checkpoint(
            catalog,
            job.claim,
            number=shard.number,
            cursor=cursor,
            counters=recorded.as_dict(),
            done=done,
        )

    options = _options(job, clock, batch_size=batch_size, workers=workers, dry_run=dry_run)
    ledger = JobLedger(catalog, sites, claim=job.claim, shard=shard.number, terms=_terms(job))
    async with Lease(catalog, job.claim, lease_s=LEASE_S, release_after=False) as lease:
        how: dict[str, Any] = {"options": options, "guard": _guard(lease, standing)}

        async def from_the_cursor() -> Findings:
            _, found = await sweep(
                sites,
                job.bucket,
                keys=Range(prefix=job.prefix, after=cursor, stop_at=shard.stop_at),
                checkpoint=checkpoint,
                marks=marks,
                ledger=ledger,
                **how,
            )
            return found

        findings = await resting(from_the_cursor, standing)
        if job.compares and recorded.shared:  # what was copied just now is the same everywhere
            how |= {"standing": standing, "checkpoint": partial(checkpoint, ""), "bases": ledger}
            findings.rows += await _compare(job, shard, sites, **how)
        await checkpoint(cursor, Totals(), done=True)
    return Outcome(
        bucket=job.bucket,
        totals=recorded.as_dict(),
        findings=tuple(findings.rows),
        marks=tuple(marks.keys),
    )


def _options(
    job: BucketJob, clock: Clock, *, batch_size: int, workers: int, dry_run: bool
) -> Options:
    return Options(
        batch_size=batch_size,
        workers=workers,
        horizon_ms=lambda: round(clock.now().timestamp() * 1000) + SKEW_MS,
        dry_run=dry_run,
        policy=job.policy,
        skew_ms=job.skew_ms,
    )


async def _compare(
    job: BucketJob,
    shard: jobs.Shard,
    sites: Sequence[Site],
    *,
    standing: Standing | None,
    checkpoint: Callable[[Totals], Awaitable[None]],
    **how: Any,
) -> list[dict[str, str]]:
    """Compare tags and locks of the whole shard; a later run begins it anew."""
    after = shard.start_after

    async def note(last_key: str, since: Totals) -> None:
        nonlocal after
        after = last_key
        await checkpoint(since)

    async def from_there() -> Findings:
        _, found = await agree_on_traits(
            sites,
            job.bucket,
            keys=Range(prefix=job.prefix, after=after, stop_at=shard.stop_at),
            checkpoint=note,
            **how,
        )
        return found

    return (await resting(from_there, standing)).rows


def _guard(lease: Lease, standing: Standing | None) -> Callable[[], None]:
    """What is asked before each batch: whether the job is still ours, and may go on now."""

    def check() -> None:
        lease.check()
        if standing is not None:
            standing.check()

    return check


def _terms(job: BucketJob) -> Terms:
    return Terms(
        rule=job.rule,
        bucket=job.bucket,
        prefix=job.prefix,
        policy=job.policy,
        before=job.before,
        shards=len(job.shards),
        force_partial=job.force_partial,
        save=job.save,
    )


async def finish(
    catalog: Catalog, *, job: BucketJob, outcomes: Sequence[Outcome], more: Mapping[str, Any]
) -> Outcome:
    """Add the shards up and close the job: failed where any object failed."""
    totals, findings = Totals(), Findings()
    # Shards that an earlier run finished are in the catalog only.
    for shard in await jobs.shards(catalog, job.claim):
        totals.add(shard.counters)
    for outcome in outcomes:
        for row in outcome.findings:
            findings.note(key=row["key"], what=row["what"], why=row["why"])
    state = JobState.FAILED if totals.failed else JobState.COMPLETED
    marks = thinned(sorted((key for each in outcomes for key in each.marks), key=str.encode))
    skews = {name: asdict(skew) for name, skew in job.skews.items()}
    report = {
        "totals": totals.as_dict(),
        "findings": findings.rows,
        "marks": marks,
        "skew": skews,
        "compared_at": job.compared_at,
        **more,
    }
    if job.save:
        await seal_plan(
            catalog,
            job_id=job.claim.job_id,
            rule=job.rule,
            bucket=job.bucket,
            prefix=job.prefix,
            totals=totals.as_dict(),
        )
    await jobs.finish(catalog, job.claim, state=state, report=report)
    return Outcome(bucket=job.bucket, totals=totals.as_dict(), findings=tuple(findings.rows))


async def refuse(catalog: Catalog, *, job: BucketJob, error: EntrepotError) -> None:
    """Close a job that a guard stopped; the report says why. The next run begins anew."""
    report = {"refused": str(error)[:4000], "hint": error.hint[:1000]}
    await jobs.finish(catalog, job.claim, state=JobState.FAILED, report=report)


async def progress(catalog: Catalog, *, job: BucketJob) -> float:
    """How far the job is, 0 to 1, by the entries that its last completed run listed."""
    planned = await jobs.shards(catalog, job.claim)
    by_shards = sum(shard.done for shard in planned) / max(len(planned), 1)
    last = await jobs.last_completed(catalog, kind=job.claim.kind, subject=job.claim.subject)
    expected = _listed(last) if last else 0
    listed = sum(shard.counters.get("listed", 0) for shard in planned)
    return max(by_shards, min(listed / expected, 0.99) if expected else 0.0)
