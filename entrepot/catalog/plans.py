"""Saved plans: what a dry run found, kept so that exactly that can be approved and applied.

Invariant: a plan is readable once it is sealed, and then never changes; its SHA-256 is over all of
its pages in order, so what is applied is what was looked at. Pages are the caller's bytes.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.errors import IntegrityError, LimitExceeded, NotFound

PAGES_MAX = 1000
"""Pages of one plan, 4 MiB at most each; a batch of 1,000 keys comes to about 100 KiB."""


RESTORE = ":restore"
"""In place of a rule's name: a plan that brings a bucket back; no rule can be called so."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A sealed plan of one bucket."""

    id: UUID
    rule: str
    bucket: str
    prefix: str
    sha256: str
    totals: Mapping[str, Any]
    created_at: datetime
    applied_at: datetime | None


async def add_page(catalog: Catalog, *, job_id: UUID, shard: int, number: int, body: bytes) -> None:
    """Keep a page; again with the same number, it takes the place of the first."""
    if number >= PAGES_MAX:
        raise LimitExceeded(
            "the plan is too long to be kept",
            hint="plan a prefix at a time: --prefix P",
            pages=number,
            most=PAGES_MAX,
        )
    statement = insert(t.PlanPage).values(job_id=job_id, shard=shard, number=number, body=body)
    statement = statement.on_conflict_do_update(
        index_elements=[t.PlanPage.job_id, t.PlanPage.shard, t.PlanPage.number],
        set_={"body": body},
    )
    async with catalog.begin() as connection:
        await connection.execute(statement)


async def next_page(catalog: Catalog, *, job_id: UUID, shard: int) -> int:
    """The number of the page that comes next."""
    query = select(func.coalesce(func.max(t.PlanPage.number), -1)).where(
        t.PlanPage.job_id == job_id, t.PlanPage.shard == shard
    )
    async with catalog.begin() as connection:
        return int((await connection.execute(query)).scalar_one()) + 1


async def seal_plan(
    catalog: Catalog,
    *,
    job_id: UUID,
    rule: str,
    bucket: str,
    prefix: str,
    totals: Mapping[str, Any],
) -> Plan:
    """Make the pages of a job a plan."""
    digest = await _digest(catalog, job_id)
    values = {"rule": rule, "bucket": bucket, "prefix": prefix, "totals": dict(totals)}
    statement = (
        insert(t.Plan)
        .values(id=job_id, sha256=digest, **values)
        .on_conflict_do_update(index_elements=[t.Plan.id], set_={"sha256": digest, **values})
        .returning(*t.Plan.__table__.c)
    )
    async with catalog.begin() as connection:
        return _plan((await connection.execute(statement)).one())


async def get_plan(catalog: Catalog, *, plan_id: UUID) -> Plan:
    """The plan; ``NotFound``, or ``IntegrityError`` where its pages are others by now."""
    async with catalog.begin() as connection:
        row = (await connection.execute(select(t.Plan).where(t.Plan.id == plan_id))).one_or_none()
    if row is None:
        hint = "entrepot replicate plans, entrepot restore status"
        raise NotFound("no such plan", hint=hint, plan=str(plan_id))
    plan = _plan(row)
    if await _digest(catalog, plan_id) != plan.sha256:
        raise IntegrityError("the plan was changed since it was saved", plan=str(plan_id))
    return plan


async def list_plans(
    catalog: Catalog, *, limit: int = 20, restores: bool = False
) -> tuple[Plan, ...]:
    """The plans that were made last, newest first: of rules, or of restores."""
    kind = t.Plan.rule == RESTORE if restores else t.Plan.rule != RESTORE
    query = select(t.Plan).where(kind).order_by(t.Plan.created_at.desc()).limit(limit)
    async with catalog.begin() as connection:
        return tuple(map(_plan, await connection.execute(query)))


async def undo_plan(catalog: Catalog, *, plan_id: UUID) -> Plan:
    """The plan back, which was recorded while ``plan_id`` was carried out; ``NotFound``."""
    undoes = t.Plan.totals["undoes"].astext == str(plan_id)
    query = select(t.Plan).where(t.Plan.rule == RESTORE, undoes)
    async with catalog.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(
            "the plan was not carried out to its end, so nothing is to be undone yet",
            hint=f"entrepot restore apply {plan_id}, then undo it",
            plan=str(plan_id),
        )
    return _plan(row)


async def pages(catalog: Catalog, *, plan_id: UUID) -> AsyncIterator[bytes]:
    """The pages in order, one in memory at a time."""
    after = (-1, -1)
    columns = t.PlanPage.shard, t.PlanPage.number
    while True:
        query = (
            select(*columns, t.PlanPage.body)
            .where(t.PlanPage.job_id == plan_id, func.row(*columns) > func.row(*after))
            .order_by(*columns)
            .limit(1)
        )
        async with catalog.begin() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return
        after = row.shard, row.number
        yield row.body


async def mark_applied(catalog: Catalog, *, plan_id: UUID) -> None:
    """Record that the plan was carried out, for the first time now or before."""
    now = func.coalesce(t.Plan.applied_at, func.clock_timestamp())
    async with catalog.begin() as connection:
        await connection.execute(update(t.Plan).where(t.Plan.id == plan_id).values(applied_at=now))


async def prune_plans(catalog: Catalog, *, older_than: timedelta) -> int:
    """Forget plans, and pages that never became one, that were made that long ago."""
    async with catalog.begin() as connection:
        statement = delete(t.Plan).where(t.Plan.created_at < func.clock_timestamp() - older_than)
        count = (await connection.execute(statement)).rowcount
        running = select(t.Job.id).where(t.Job.finished_at.is_(None))
        kept = select(t.Plan.id).union(running)
        await connection.execute(delete(t.PlanPage).where(t.PlanPage.job_id.not_in(kept)))
        return count


async def _digest(catalog: Catalog, job_id: UUID) -> str:
    whole = hashlib.sha256()
    async for body in pages(catalog, plan_id=job_id):
        whole.update(hashlib.sha256(body).digest())
    return whole.hexdigest()


def _plan(row: Row[Any]) -> Plan:
    return Plan(**row._mapping)
