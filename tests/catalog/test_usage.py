"""Usage runs: whole or not at all, read back as of an instant."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.usage import (
    UsageRow,
    latest_usage,
    prune_usage,
    record_usage,
    usage_as_of,
)
from entrepot.errors import AlreadyExists, InvalidInput, LimitExceeded

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = UsageRow("t1", "x", "logs/", 10, 25, 2, 3, 1)


async def test_reads_back_as_of(site: Catalog) -> None:
    assert await latest_usage(site) is None
    # COPY's own escapes, and sizes past 32 bits.
    strange = replace(ROW, prefix="a\tb\\N\n\\.é", total_bytes=2**62)
    rows = [ROW, replace(ROW, bucket="y"), strange, replace(ROW, tenant_id="t0", bucket="z")]
    late = await record_usage(site, as_of=NOON + timedelta(hours=1), rows=iter(rows))
    early = await record_usage(site, as_of=NOON, rows=[])
    latest = await latest_usage(site)
    assert latest is not None
    assert (latest.run_id, latest.buckets) == (late, 3)
    assert latest.rows == (rows[3], strange, ROW, rows[1])
    assert latest.as_of == NOON + timedelta(hours=1)
    for when, run in [(59, early), (0, early), (60, late), (99, late)]:
        usage = await usage_as_of(site, when=NOON + timedelta(minutes=when))
        assert usage is not None and usage.run_id == run
    assert await usage_as_of(site, when=NOON - timedelta(seconds=1)) is None


async def test_the_later_of_two_runs_of_one_instant_counts(site: Catalog) -> None:
    await record_usage(site, as_of=NOON, rows=[ROW])
    again = await record_usage(site, as_of=NOON, rows=[ROW])
    latest = await latest_usage(site)
    assert latest is not None and latest.run_id == again


def _failing() -> Iterator[UsageRow]:
    yield ROW
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([ROW, ROW], AlreadyExists),
        ([ROW, replace(ROW, prefix="b", objects=-1)], InvalidInput),
        ([ROW, replace(ROW, prefix="b", objects=4)], InvalidInput),
        ([ROW, replace(ROW, prefix="b", current_bytes=26)], InvalidInput),
        ([ROW, replace(ROW, prefix="b\0")], InvalidInput),
        ([ROW, replace(ROW, prefix="\ud800")], InvalidInput),
        ([ROW, replace(ROW, prefix="b" * 1025)], InvalidInput),
        ((replace(ROW, prefix=str(n)) for n in range(100_001)), LimitExceeded),
        (_failing(), ZeroDivisionError),
    ],
)
async def test_a_run_is_stored_whole_or_not_at_all(
    site: Catalog, rows: list[UsageRow], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await record_usage(site, as_of=NOON, rows=rows)
    assert await latest_usage(site) is None
    async with site.begin() as connection:
        assert (await connection.execute(select(func.count(t.UsageRow.run_id)))).scalar_one() == 0
    await record_usage(site, as_of=NOON, rows=[ROW])


async def test_a_time_needs_its_zone(site: Catalog) -> None:
    naive = NOON.replace(tzinfo=None)
    with pytest.raises(InvalidInput):
        await record_usage(site, as_of=naive, rows=[])
    with pytest.raises(InvalidInput):
        await usage_as_of(site, when=naive)


async def kept(site: Catalog) -> list[datetime]:
    async with site.begin() as connection:
        found = await connection.execute(select(t.UsageRun.as_of).order_by(t.UsageRun.as_of))
        return list(found.scalars())


async def test_old_runs_are_pruned_to_one_a_day_and_then_dropped(site: Catalog) -> None:
    def ago(days: int, hours: float) -> datetime:
        midnight = NOON.replace(hour=0)
        return midnight - timedelta(days=days) + timedelta(hours=hours)

    stay = [ago(1, 3), ago(1, 4), ago(34, 1), ago(34, 2), ago(36, 23), ago(37, 12), ago(399, 9)]
    go = [ago(36, 0), ago(36, 22.9), ago(37, 11), ago(399, 8), ago(401, 12), ago(500, 12)]
    for as_of in (*go, *stay):
        await record_usage(site, as_of=as_of, rows=[ROW])
    assert await prune_usage(site, now=NOON) == len(go)
    assert await kept(site) == sorted(stay)
    assert await prune_usage(site, now=NOON) == 0
    async with site.begin() as connection:
        rows = (await connection.execute(select(func.count()).select_from(t.UsageRow))).scalar_one()
    assert rows == len(stay)


async def test_of_two_runs_of_one_instant_the_later_stands_for_the_day(site: Catalog) -> None:
    old = NOON - timedelta(days=50)
    await record_usage(site, as_of=NOON, rows=[])
    await record_usage(site, as_of=old, rows=[])
    later = await record_usage(site, as_of=old, rows=[ROW])
    assert await prune_usage(site, now=NOON) == 1
    usage = await usage_as_of(site, when=old)
    assert usage is not None and usage.run_id == later


async def test_the_newest_run_stays_and_a_long_tail_takes_several_calls(site: Catalog) -> None:
    for hour in range(60):
        await record_usage(site, as_of=NOON - timedelta(days=500, hours=hour), rows=[])
    assert await prune_usage(site, now=NOON) == 50
    assert await prune_usage(site, now=NOON) == 9
    assert await kept(site) == [NOON - timedelta(days=500)]
