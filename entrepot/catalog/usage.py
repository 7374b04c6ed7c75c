"""Usage as of an instant: what each tenant holds under each prefix of a site.

Invariant: a run is visible whole or not at all; its rows come with it in one transaction and never
change. Rows are streamed by COPY, so recording needs the memory of one row.

Words: *current* bytes are those of current versions; *total* adds noncurrent ones; *objects* are
keys whose current version is no delete marker; *versions* counts current and noncurrent ones
without delete markers.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta
from uuid import UUID

from psycopg import AsyncConnection as PsycopgConnection
from sqlalchemy import ColumnElement, func, insert, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.clock import new_id
from entrepot.errors import InvalidInput, LimitExceeded

ROWS_MAX = 100_000
"""Rows of a run; read back whole they take some 70 MiB (measured: 0.7 KiB a row)."""

KEEP_ALL = timedelta(days=35)
"""A month can be looked at hour by hour, from the month after."""
KEEP_DAILY = timedelta(days=400)
"""A year can be compared with the one before, day by day. A run of 10,000 rows takes some 1.5 MB,
so hourly ones take 1.3 GB in 35 days and daily ones half of that in the year."""
PRUNED_AT_ONCE = 50
"""More than an hour brings; a long tail is caught up with by and by, in short transactions."""

# The last run of a day stands for it. The newest of all stays, however old it is.
_PRUNE = text("""
    DELETE FROM usage_runs WHERE id IN (
        SELECT r.id FROM usage_runs r
        WHERE r.as_of < :all_since
            AND EXISTS (SELECT FROM usage_runs n WHERE n.as_of > r.as_of)
            AND (r.as_of < :daily_since OR EXISTS (
                SELECT FROM usage_runs n
                WHERE (n.as_of, n.finished_at, n.id) > (r.as_of, r.finished_at, r.id)
                    AND n.as_of < date_trunc('day', r.as_of, 'UTC') + interval '1 day'
            ))
        ORDER BY r.as_of LIMIT :most
    )
""")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one tenant holds under one prefix ("": what is under no other) of one bucket."""

    tenant_id: str
    bucket: str
    prefix: str
    current_bytes: int
    total_bytes: int
    objects: int
    versions: int
    delete_markers: int


@dataclass(frozen=True, slots=True)
class Usage:
    """One run with its rows, by tenant, bucket and prefix; ``buckets`` counts distinct ones."""

    run_id: UUID
    as_of: datetime
    finished_at: datetime
    buckets: int
    rows: tuple[UsageRow, ...]


async def record_usage(catalog: Catalog, *, as_of: datetime, rows: Iterable[UsageRow]) -> UUID:
    """Store one complete account; returns the run's id.

    Raises ``InvalidInput`` for a time without zone or a row out of bounds, ``AlreadyExists`` for
    a prefix that comes twice, ``LimitExceeded`` above ``ROWS_MAX``; then nothing is stored.
    """
    _check_zone(as_of)
    run_id = new_id()
    async with catalog.begin() as connection:
        run = {"id": run_id, "as_of": as_of, "buckets": 0, "finished_at": func.now()}
        await connection.execute(insert(t.UsageRun).values(run))
        await _copy(connection, run_id, rows)
        buckets = select(func.count(t.UsageRow.bucket.distinct())).where(
            t.UsageRow.run_id == run_id
        )
        await connection.execute(
            update(t.UsageRun)
            .where(t.UsageRun.id == run_id)
            .values(buckets=buckets.scalar_subquery(), finished_at=func.clock_timestamp())
        )
    return run_id


async def prune_usage(catalog: Catalog, *, now: datetime) -> int:
    """Drop runs that are past their time: all are kept for 35 days, then one a day for 400.

    At most 50 a call, the oldest first; how many there were.
    """
    _check_zone(now)
    given = {"all_since": now - KEEP_ALL, "daily_since": now - KEEP_DAILY, "most": PRUNED_AT_ONCE}
    async with catalog.begin() as connection:
        return (await connection.execute(_PRUNE, given)).rowcount


async def latest_usage(catalog: Catalog) -> Usage | None:
    """The run with the latest instant; ``None`` before the first."""
    return await _usage(catalog, true())


async def usage_as_of(catalog: Catalog, *, when: datetime) -> Usage | None:
    """The last run whose instant is not after ``when``."""
    _check_zone(when)
    return await _usage(catalog, t.UsageRun.as_of <= when)


async def _copy(connection: AsyncConnection, run_id: UUID, rows: Iterable[UsageRow]) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, PsycopgConnection)
    columns = ", ".join(field.name for field in fields(UsageRow))
    count = 0
    async with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY usage_rows (run_id, {columns}) FROM STDIN") as copy,
    ):
        for row in rows:
            count += 1
            if count > ROWS_MAX:
                raise LimitExceeded("too many rows in one account of usage", most=ROWS_MAX)
            await copy.write_row((run_id, *astuple(row)))


async def _usage(catalog: Catalog, condition: ColumnElement[bool]) -> Usage | None:
    latest = (
        select(t.UsageRun)
        .where(condition)
        .order_by(t.UsageRun.as_of.desc(), t.UsageRun.finished_at.desc())
        .limit(1)
    )
    async with catalog.begin() as connection:
        run = (await connection.execute(latest)).one_or_none()
        if run is None:
            return None
        columns = [getattr(t.UsageRow, field.name) for field in fields(UsageRow)]
        query = (
            select(*columns)
            .where(t.UsageRow.run_id == run.id)
            .order_by(t.UsageRow.tenant_id, t.UsageRow.bucket, t.UsageRow.prefix.collate("C"))
        )
        rows = tuple(UsageRow(*row) for row in await connection.execute(query))
    return Usage(run.id, run.as_of, run.finished_at, run.buckets, rows)


def _check_zone(when: datetime) -> None:
    if when.tzinfo is None:
        raise InvalidInput("a time needs its zone", time=when.isoformat())
