"""What ``/metrics`` says about jobs, usage and lag, read from the catalogs at each scrape.

Invariant: a scrape waits at most ``READ_TIMEOUT_S`` however slow Postgres is, and many scrapes at
once read once. What could not be read is left out, never repeated from before: a gap alarms, an
old figure reassures. Memory: at most ``SERIES_MAX`` samples a metric.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from sqlalchemy import func, select

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import Lag, PrefixLag, lag_from
from entrepot.catalog.states import JobState
from entrepot.clock import Clock
from entrepot.errors import EntrepotError
from entrepot.gateway.within import within
from entrepot.metrics import (
    FACTS_UP,
    JOB_LAST_SUCCESS,
    JOB_RUNNING,
    REPLICATION_BYTES,
    REPLICATION_DEAD,
    REPLICATION_DEPTH,
    REPLICATION_ERRORS,
    REPLICATION_LAG,
    REPLICATION_SHIPPED,
    STORAGE_USED,
    Sample,
)

_T = TypeVar("_T")

CACHE_S: Final = 5.0
READ_TIMEOUT_S: Final = 2.0
"""Prometheus gives a scrape 10 s; a person who looks gives it less."""
SERIES_MAX: Final = 10_000


class Facts:
    """The facts of all catalogs, at most five seconds old."""

    def __init__(self, *, control: Catalog, sites: Mapping[str, Catalog], clock: Clock) -> None:
        self._control = control
        self._sites = sites
        self._clock = clock
        self._one_reader = asyncio.Lock()
        self._samples: tuple[Sample, ...] = ()
        self._read_at: float | None = None

    async def read(self) -> tuple[Sample, ...]:
        """The samples of all facts; never raises for a catalog that does not answer."""
        async with self._one_reader:
            now = self._clock.monotonic()
            if self._read_at is None or now - self._read_at >= CACHE_S:
                self._samples = await self._fresh()
                self._read_at = self._clock.monotonic()
            return self._samples

    async def lags(self) -> dict[str, tuple[Lag, ...] | None]:
        """What each site has not brought to others, read now; None where it does not answer."""
        found = await asyncio.gather(
            *(_limited(lag_from(catalog, site=site)) for site, catalog in self._sites.items())
        )
        return dict(zip(self._sites, found, strict=True))

    async def _fresh(self) -> tuple[Sample, ...]:
        samples: list[Sample] = []
        reading = asyncio.create_task(_limited(_jobs(self._control)))
        lagging = asyncio.create_task(self.lags())
        usages = await asyncio.gather(
            *(_limited(_usage(catalog)) for catalog in self._sites.values())
        )
        for lags in (await lagging).values():
            samples += _lags(lags or ())
        jobs = await reading
        samples += [Sample(FACTS_UP, ("control",), float(jobs is not None)), *(jobs or ())]
        held: dict[str, int] = {}
        for site, usage in zip(self._sites, usages, strict=True):
            samples.append(Sample(FACTS_UP, (f"site:{site}",), float(usage is not None)))
            for tenant, size_bytes in (usage or {}).items():
                held[tenant] = held.get(tenant, 0) + size_bytes
        if None not in usages:  # a sum that lacks a site would look like objects that went away
            samples += [Sample(STORAGE_USED, (tenant,), size) for tenant, size in held.items()]
        return tuple(samples)


async def _limited(reading: Coroutine[Any, Any, _T]) -> _T | None:
    try:
        return await within(reading, timeout_s=READ_TIMEOUT_S)
    except (TimeoutError, EntrepotError):
        return None


def _lags(lags: Iterable[Lag]) -> Iterator[Sample]:
    for lag in lags:
        way = lag.rule, lag.source, lag.target
        for each in lag.prefixes or (PrefixLag("", 0, 0, 0.0),):
            yield Sample(REPLICATION_LAG, (*way, each.prefix), each.lag_s)
        yield Sample(REPLICATION_ERRORS, (lag.target, lag.rule, lag.source), lag.errors)
        yield Sample(REPLICATION_DEPTH, way, lag.depth)
        yield Sample(REPLICATION_DEAD, way, lag.dead)
        yield Sample(REPLICATION_SHIPPED, way, lag.shipped)
        yield Sample(REPLICATION_BYTES, way, lag.shipped_bytes)


async def _jobs(control: Catalog) -> list[Sample]:
    ended = (
        select(t.Job.kind, t.Job.subject, func.max(t.Job.finished_at))
        .where(t.Job.state == JobState.COMPLETED)
        .group_by(t.Job.kind, t.Job.subject)
        .order_by(t.Job.kind, t.Job.subject)
        .limit(SERIES_MAX)
    )
    running = (
        select(
            t.Job.kind,
            func.count().filter(
                t.Job.state == JobState.RUNNING, t.Job.lease_until > func.clock_timestamp()
            ),
        )
        .group_by(t.Job.kind)
        .order_by(t.Job.kind)
        .limit(SERIES_MAX)
    )
    async with control.begin() as connection:
        found = [
            Sample(JOB_LAST_SUCCESS, (kind, subject), at.timestamp())
            for kind, subject, at in await connection.execute(ended)
            if at is not None
        ]
        found += [
            Sample(JOB_RUNNING, (kind,), count) for kind, count in await connection.execute(running)
        ]
    return found


async def _usage(site: Catalog) -> dict[str, int]:
    latest = (
        select(t.UsageRun.id)
        .order_by(t.UsageRun.as_of.desc(), t.UsageRun.finished_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    held = (
        select(t.UsageRow.tenant_id, func.sum(t.UsageRow.total_bytes))
        .where(t.UsageRow.run_id == latest)
        .group_by(t.UsageRow.tenant_id)
        .order_by(t.UsageRow.tenant_id)
        .limit(SERIES_MAX)
    )
    async with site.begin() as connection:
        return {tenant: int(size) for tenant, size in await connection.execute(held)}
