"""The latest jobs of many subjects in one look, for those who show how things stand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.states import JobState


@dataclass(frozen=True, slots=True)
class Latest:
    """The last job of a subject and the last one that was completed; either may be missing.

    ``counts`` are those of the last job so far.
    """

    state: JobState
    started_at: datetime
    finished_at: datetime | None
    flow_run_id: str | None
    epoch: int
    counts: Mapping[str, int]
    completed_since: datetime | None


async def latest_jobs(catalog: Catalog, *, kind: str, subjects: Sequence[str]) -> dict[str, Latest]:
    """What is known of each subject that ever had a job of this kind."""
    async with catalog.begin() as connection:
        last = (await connection.execute(_newest(kind, subjects))).all()
        completed = {
            row.subject: row.started_at
            for row in await connection.execute(
                _newest(kind, subjects).where(t.Job.state == JobState.COMPLETED)
            )
        }
        running = [row.id for row in last if row.state is JobState.RUNNING]
        under_way = await _counts(connection, running)
    return {
        row.subject: Latest(
            state=row.state,
            started_at=row.started_at,
            finished_at=row.finished_at,
            flow_run_id=row.flow_run_id,
            epoch=row.epoch,
            counts=under_way.get(row.id, {}) if row.id in running else _totals(row.report),
            completed_since=completed.get(row.subject),
        )
        for row in last
    }


def _newest(kind: str, subjects: Sequence[str]) -> Select[Any]:
    return (
        select(*t.Job.__table__.c)
        .distinct(t.Job.subject)
        .where(t.Job.kind == kind, t.Job.subject.in_(subjects))
        .order_by(t.Job.subject, t.Job.epoch.desc())
    )


def _totals(report: Mapping[str, Any]) -> Mapping[str, int]:
    totals: Mapping[str, int] = report.get("totals", {})
    return totals


async def _counts(connection: AsyncConnection, jobs: Iterable[UUID]) -> dict[UUID, dict[str, int]]:
    query = select(t.JobShard.job_id, t.JobShard.counters).where(t.JobShard.job_id.in_(jobs))
    found: dict[UUID, dict[str, int]] = {}
    for job_id, counters in await connection.execute(query):
        total = found.setdefault(job_id, {})
        for name, count in counters.items():
            total[name] = total.get(name, 0) + count
    return found
