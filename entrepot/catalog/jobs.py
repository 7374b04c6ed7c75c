"""Who may work on what: Postgres decides, an epoch fences.

Invariant: per (kind, subject) at most one job runs, its epoch only grows (over all jobs of that
subject), and a holder whose epoch has passed can change nothing here. Leases are compared with the
database's clock alone, because it is the one clock that all holders share; theirs may disagree.
A lease is a courtesy that says when waiting ends; the epoch is what keeps writes apart.

Words: *claim* the right to work on a job under one epoch; *shard* a range of keys of it; *cursor*
the last key of a shard that is settled; *resumed* somebody worked on this job before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Row, delete, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.states import JobState
from entrepot.clock import new_id
from entrepot.errors import Busy, Fenced, InvalidInput, LimitExceeded

LEASE_MAX_S = 86_400
SHARDS_MAX = 10_000
"""A flow run has about 100 tasks; a hundred shards for each is more than any of them plans."""
RECENT_MAX = 1000

# Not now(): that is the start of the transaction, and a claim may have waited for a lock since.
_NOW = func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job; every write in its name carries ``epoch``."""

    job_id: UUID
    kind: str
    subject: str
    epoch: int
    holder: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class Shard:
    """Keys after ``start_after`` up to and with ``stop_at`` ("": to the end).

    ``cursor`` starts as ``start_after``; going on means listing after it.
    """

    number: int
    start_after: str
    stop_at: str
    cursor: str
    done: bool
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is recorded."""

    id: UUID
    kind: str
    subject: str
    flow_run_id: str | None
    epoch: int
    holder: str
    lease_until: datetime
    state: JobState
    started_at: datetime
    finished_at: datetime | None
    report: Mapping[str, Any]


async def claim(
    catalog: Catalog,
    *,
    kind: str,
    subject: str,
    holder: str,
    lease_s: float,
    resume_within_s: float,
    flow_run_id: str | None = None,
) -> Claim:
    """Start a job, or take over the one that runs.

    A lease that still runs raises ``Busy``, unless it belongs to the same flow run (or, where
    neither names one, to the same holder): a retry takes over at once. A job older than
    ``resume_within_s`` is not resumed: it is marked failed and a new one starts.
    """
    _check_lease(lease_s)
    async with catalog.begin() as connection:
        # Claims of one subject queue here, so what follows sees a settled state. The partial
        # unique index on running jobs holds the same invariant without it.
        await connection.execute(select(_lock(kind, subject)))
        row = (await connection.execute(_running(kind, subject, resume_within_s))).one_or_none()
        if row is not None:
            if row.leased and not _is_retry(row, holder=holder, flow_run_id=flow_run_id):
                raise _busy(row)
            if row.resumable:
                return await _take_over(
                    connection, row, holder=holder, lease_s=lease_s, flow_run_id=flow_run_id
                )
            await _give_up(connection, row.id, resume_within_s)
        return await _start(
            connection,
            kind=kind,
            subject=subject,
            holder=holder,
            lease_s=lease_s,
            flow_run_id=flow_run_id,
        )


async def renew(catalog: Catalog, claim: Claim, *, lease_s: float) -> None:
    """Hold the job for another ``lease_s`` seconds from now; ``Fenced`` if it was taken over.

    A lease that ran out can be renewed as long as nobody else claimed the job.
    """
    _check_lease(lease_s)
    async with catalog.begin() as connection:
        statement = _own(claim).values(lease_until=_NOW + timedelta(seconds=lease_s))
        if (await connection.execute(statement)).rowcount == 0:
            raise _fenced(claim)


async def release(catalog: Catalog, claim: Claim) -> None:
    """End the lease, so that the next claim need not wait; does nothing once it is another's."""
    async with catalog.begin() as connection:
        await connection.execute(_own(claim).values(lease_until=_NOW))


async def plan_shards(
    catalog: Catalog, claim: Claim, ranges: Sequence[tuple[str, str]]
) -> tuple[Shard, ...]:
    """Record the shards (start after, stop at) of a job that has none; returns what it has now.

    A resumed job keeps the shards that were planned first. Raises ``Fenced``.
    """
    if len(ranges) > SHARDS_MAX:
        raise LimitExceeded("too many shards", shards=len(ranges), most=SHARDS_MAX)
    async with catalog.begin() as connection:
        await _hold(connection, claim)
        planned = await _shards(connection, claim)
        if planned or not ranges:
            return planned
        rows = [
            {
                "job_id": claim.job_id,
                "number": number,
                "start_after": start_after,
                "stop_at": stop_at,
                "cursor": start_after,
            }
            for number, (start_after, stop_at) in enumerate(ranges)
        ]
        await connection.execute(insert(t.JobShard), rows)
        return await _shards(connection, claim)


async def shards(catalog: Catalog, claim: Claim) -> tuple[Shard, ...]:
    """The shards of the job, by number. Raises ``Fenced``."""
    async with catalog.begin() as connection:
        await _hold(connection, claim)
        return await _shards(connection, claim)


async def checkpoint(
    catalog: Catalog,
    claim: Claim,
    *,
    number: int,
    cursor: str,
    counters: Mapping[str, int],
    done: bool,
) -> None:
    """Record how far a shard is; all of it replaces what was recorded.

    Raises ``Fenced``; ``InvalidInput`` for a shard that was not planned.
    """
    async with catalog.begin() as connection:
        await _hold(connection, claim)
        shard = (t.JobShard.job_id == claim.job_id) & (t.JobShard.number == number)
        values = {"cursor": cursor, "counters": dict(counters), "done": done}
        result = await connection.execute(update(t.JobShard).where(shard).values(values))
        if result.rowcount == 0:
            raise InvalidInput("the job has no such shard", job=str(claim.job_id), shard=number)


async def finish(
    catalog: Catalog, claim: Claim, *, state: JobState, report: Mapping[str, Any]
) -> None:
    """Close the job with a report (JSON, at most 1 MiB). Raises ``Fenced``.

    Finishing again in the same state is no error: the first answer may have been lost.
    """
    if state is JobState.RUNNING:
        raise InvalidInput("a finished job cannot be running", job=str(claim.job_id))
    statement = (
        update(t.Job)
        .where(t.Job.id == claim.job_id, t.Job.epoch == claim.epoch)
        .where(or_(t.Job.state == JobState.RUNNING, t.Job.state == state))
        .values(
            state=state,
            finished_at=func.coalesce(t.Job.finished_at, _NOW),
            report=dict(report),
        )
    )
    async with catalog.begin() as connection:
        if (await connection.execute(statement)).rowcount == 0:
            raise _fenced(claim)


async def last_completed(catalog: Catalog, *, kind: str, subject: str) -> Job | None:
    """The job of that subject that completed last."""
    query = (
        select(t.Job)
        .where(t.Job.kind == kind, t.Job.subject == subject)
        .where(t.Job.state == JobState.COMPLETED)
        .order_by(t.Job.epoch.desc())
        .limit(1)
    )
    async with catalog.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else _job(row)


async def holder_of(catalog: Catalog, *, kind: str, subject: str) -> str | None:
    """Who holds the job of that subject just now; None where nobody does."""
    held = (t.Job.state == JobState.RUNNING) & (t.Job.lease_until > _NOW)
    query = select(t.Job.holder).where(t.Job.kind == kind, t.Job.subject == subject).where(held)
    async with catalog.begin() as connection:
        found: str | None = await connection.scalar(query.limit(1))
        return found


async def recent(catalog: Catalog, *, limit: int = 50) -> tuple[Job, ...]:
    """The jobs that started last, newest first; at most 1,000."""
    if not 1 <= limit <= RECENT_MAX:
        raise InvalidInput("limit is out of range", limit=limit, most=RECENT_MAX)
    query = select(t.Job).order_by(t.Job.started_at.desc(), t.Job.id).limit(limit)
    async with catalog.begin() as connection:
        return tuple(map(_job, await connection.execute(query)))


async def prune_jobs(catalog: Catalog, *, older_than: timedelta) -> int:
    """Forget jobs that finished that long ago; returns how many.

    Of each subject the last job (which carries the epoch) and the last completed one stay.
    """
    newer = t.Job.__table__.alias("newer")
    of_subject = (newer.c.kind == t.Job.kind) & (newer.c.subject == t.Job.subject)
    later = select(literal(1)).where(of_subject, newer.c.epoch > t.Job.epoch)
    completed_later = later.where(newer.c.state == JobState.COMPLETED)
    statement = (
        delete(t.Job)
        .where(t.Job.state != JobState.RUNNING, t.Job.finished_at < _NOW - older_than)
        .where(later.exists())
        .where(or_(t.Job.state != JobState.COMPLETED, completed_later.exists()))
    )
    async with catalog.begin() as connection:
        return (await connection.execute(statement)).rowcount


def _check_lease(lease_s: float) -> None:
    if not 0 < lease_s <= LEASE_MAX_S:
        raise InvalidInput("lease is out of range", lease_s=lease_s, most=LEASE_MAX_S)


def _lock(kind: str, subject: str) -> Any:
    return func.pg_advisory_xact_lock(func.hashtextextended(f"job\n{kind}\n{subject}", 0))


def _running(kind: str, subject: str, resume_within_s: float) -> Executable:
    within = timedelta(seconds=resume_within_s)
    return (
        select(
            t.Job,
            (t.Job.lease_until > _NOW).label("leased"),
            (t.Job.started_at + within >= _NOW).label("resumable"),
        )
        .where(t.Job.kind == kind, t.Job.subject == subject)
        .where(t.Job.state == JobState.RUNNING)
        .with_for_update()
    )


def _is_retry(row: Row[Any], *, holder: str, flow_run_id: str | None) -> bool:
    if row.flow_run_id is None and flow_run_id is None:
        return bool(row.holder == holder)
    # Two flow runs on one worker may carry one holder name, but they are not retries.
    return bool(row.flow_run_id == flow_run_id)


def _busy(row: Row[Any]) -> Busy:
    until = row.lease_until.isoformat(timespec="seconds")
    return Busy(
        "another holder works on this",
        hint=f"{row.holder} holds it until {until}; wait, or cancel its flow run",
        kind=row.kind,
        subject=row.subject,
        holder=row.holder,
        flow_run_id=row.flow_run_id,
        until=until,
    )


def _fenced(claim: Claim) -> Fenced:
    return Fenced(
        "the job was finished or taken over",
        kind=claim.kind,
        subject=claim.subject,
        job=str(claim.job_id),
        epoch=claim.epoch,
    )


async def _take_over(
    connection: AsyncConnection,
    row: Row[Any],
    *,
    holder: str,
    lease_s: float,
    flow_run_id: str | None,
) -> Claim:
    epoch = row.epoch + 1
    await connection.execute(
        update(t.Job)
        .where(t.Job.id == row.id)
        .values(
            epoch=epoch,
            holder=holder,
            flow_run_id=flow_run_id,
            lease_until=_NOW + timedelta(seconds=lease_s),
        )
    )
    return Claim(row.id, row.kind, row.subject, epoch, holder, resumed=True)


async def _give_up(connection: AsyncConnection, job_id: UUID, resume_within_s: float) -> None:
    await connection.execute(
        update(t.Job)
        .where(t.Job.id == job_id)
        .values(
            epoch=t.Job.epoch + 1,  # fences who may still be at it
            state=JobState.FAILED,
            finished_at=_NOW,
            report={"error": f"not resumed within {resume_within_s:g} s of its start"},
        )
    )


async def _start(
    connection: AsyncConnection,
    *,
    kind: str,
    subject: str,
    holder: str,
    lease_s: float,
    flow_run_id: str | None,
) -> Claim:
    latest = select(func.coalesce(func.max(t.Job.epoch), 0)).where(
        t.Job.kind == kind, t.Job.subject == subject
    )
    epoch = (await connection.execute(latest)).scalar_one() + 1
    job_id = new_id()
    await connection.execute(
        insert(t.Job).values(
            id=job_id,
            kind=kind,
            subject=subject,
            flow_run_id=flow_run_id,
            epoch=epoch,
            holder=holder,
            lease_until=_NOW + timedelta(seconds=lease_s),
            state=JobState.RUNNING,
            started_at=_NOW,
        )
    )
    return Claim(job_id, kind, subject, epoch, holder, resumed=False)


def _own(claim: Claim) -> Any:
    return update(t.Job).where(
        t.Job.id == claim.job_id,
        t.Job.epoch == claim.epoch,
        t.Job.state == JobState.RUNNING,
    )


async def _hold(connection: AsyncConnection, claim: Claim) -> None:
    """Raise ``Fenced`` unless the claim stands, and keep it standing until the commit.

    The lock matters: without it a takeover could commit between this look and the write.
    """
    query = select(t.Job.id).where(
        t.Job.id == claim.job_id,
        t.Job.epoch == claim.epoch,
        t.Job.state == JobState.RUNNING,
    )
    if (await connection.execute(query.with_for_update(read=True))).one_or_none() is None:
        raise _fenced(claim)


async def _shards(connection: AsyncConnection, claim: Claim) -> tuple[Shard, ...]:
    columns = [getattr(t.JobShard, name) for name in Shard.__slots__]
    query = select(*columns).where(t.JobShard.job_id == claim.job_id).order_by(t.JobShard.number)
    return tuple(Shard(**row._mapping) for row in await connection.execute(query))


def _job(row: Row[Any]) -> Job:
    return Job(**row._mapping)
