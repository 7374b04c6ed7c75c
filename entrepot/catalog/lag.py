"""Replication lag as an age: how long the oldest write waits that is not everywhere yet.

Invariant: it is read from the outboxes and dead letters themselves, with the database's clock,
never from a stream's memory: it grows also while no stream runs. A consumer with nothing waiting
has a lag of zero, which is told from one that is not there.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.outbox import rule_and_target

ROWS_MAX = 1000
"""Prefixes at most of one site, those that wait longest first."""

# A rule's own prefix, or the first level of keys.
_LAG = text("""
    WITH waiting AS (
        SELECT o.consumer, o.bucket_id, o.key, o.since, 0 AS dead FROM outbox o
        UNION ALL
        SELECT d.consumer, d.bucket_id, d.key, d.since, 1 FROM dead_letters d
    )
    SELECT w.consumer,
        CASE WHEN c.prefix <> '' THEN c.prefix
             WHEN strpos(w.key, '/') > 0 THEN split_part(w.key, '/', 1) || '/' ELSE '' END,
        count(*) FILTER (WHERE dead = 0), count(*) FILTER (WHERE dead = 1),
        extract(epoch FROM clock_timestamp() - min(w.since))
    FROM waiting w JOIN outbox_consumers c
        ON c.name = w.consumer AND c.bucket_id = w.bucket_id AND NOT c.replicas
    GROUP BY 1, 2 ORDER BY 5 DESC LIMIT :most
""")
_CONSUMERS = text("""
    SELECT c.name, coalesce(p.shipped, 0), coalesce(p.shipped_bytes, 0), coalesce(p.errors, 0)
    FROM (SELECT DISTINCT name FROM outbox_consumers WHERE NOT replicas) c
    LEFT JOIN outbox_progress p ON p.consumer = c.name ORDER BY c.name LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class PrefixLag:
    """What waits under one prefix; ``lag_s`` is the age of the oldest."""

    prefix: str
    depth: int
    dead: int
    lag_s: float


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one direction of a rule is behind. Counts of what was brought are of all time."""

    rule: str
    source: str
    target: str
    shipped: int
    shipped_bytes: int
    errors: int
    prefixes: tuple[PrefixLag, ...]

    @property
    def lag_s(self) -> float:
        return max((each.lag_s for each in self.prefixes), default=0.0)

    @property
    def depth(self) -> int:
        return sum(each.depth for each in self.prefixes)

    @property
    def dead(self) -> int:
        return sum(each.dead for each in self.prefixes)


async def lag_from(catalog: Catalog, *, site: str) -> tuple[Lag, ...]:
    """What a site has not yet brought to others, of every rule that it ships for."""
    async with catalog.begin() as connection:
        waiting = (await connection.execute(_LAG, {"most": ROWS_MAX})).all()
        known = (await connection.execute(_CONSUMERS, {"most": ROWS_MAX})).all()
    found: dict[str, list[PrefixLag]] = {}
    for consumer, prefix, depth, dead, age_s in waiting:
        lag = PrefixLag(prefix, depth, dead, max(0.0, float(age_s)))
        found.setdefault(consumer, []).append(lag)
    return tuple(
        Lag(
            *_parts(consumer, site),
            shipped=shipped,
            shipped_bytes=shipped_bytes,
            errors=errors,
            prefixes=tuple(found.get(consumer, ())),
        )
        for consumer, shipped, shipped_bytes, errors in known
    )


async def lag_of(catalogs: Mapping[str, Catalog], *, rule: str = "") -> tuple[Lag, ...]:
    """The lag of a rule, or of all, in every direction; ``catalogs`` by site.

    A site whose catalog does not answer raises: of what waits there nothing is known.
    """
    found = await asyncio.gather(
        *(lag_from(catalog, site=site) for site, catalog in catalogs.items())
    )
    return tuple(lag for lags in found for lag in lags if rule in ("", lag.rule))


def _parts(consumer: str, site: str) -> tuple[str, str, str]:
    rule, target = rule_and_target(consumer)
    return rule, site, target
