"""Writes under way: where the next stamp of a key is chosen.

Invariant: on one site a key's stamps differ by a millisecond at least, writes under way included,
so the store, which lists milliseconds, orders them as we do. The stamp is later than every version
of the key that was committed when the intent was, and than every intent.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Intent, NewIntent, WriteKind
from entrepot.catalog.objects.rows import NEWEST, as_json, stamp_or_none
from entrepot.clock import is_uuid
from entrepot.stamp import Stamp

INTENT_COLUMNS = (
    "write_id, bucket_id, key, kind, version_id, stamp_ms, site, writer, parent, details"
)

# A write that chose its time in the same instant through another writer takes it first: then the
# conflict on (key, stamp_ms) leaves this one out, and the caller tries again. Rows go in in one
# order, so two writers never wait for each other in a circle.
_BEGIN = f"""
    INSERT INTO intents
        (write_id, bucket_id, key, kind, version_id, stamp_ms, site, writer, parent, details,
         expires_at)
    SELECT k.write_id, k.bucket_id, k.key, k.kind, k.version_id,
           greatest(k.clock_ms, n.stamp_ms + 1, p.stamp_ms + 1) + k.nth, %(site)s, %(writer)s,
           n.stamp_ms || '.' || n.site || '.' || n.writer, k.details,
           clock_timestamp() + %(lease)s
    FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS k
        (write_id uuid, bucket_id bigint, key text, kind text, version_id text, clock_ms bigint,
         nth integer, details jsonb)
    JOIN buckets b ON b.id = k.bucket_id
    LEFT JOIN LATERAL ({NEWEST}) n ON true
    LEFT JOIN LATERAL (
        SELECT i.stamp_ms FROM intents i
        WHERE i.bucket_id = k.bucket_id AND i.key = k.key AND i.kind <> 'replica'
        ORDER BY i.stamp_ms DESC LIMIT 1
    ) p ON true
    ORDER BY k.bucket_id, k.key, k.nth
    ON CONFLICT DO NOTHING
    RETURNING {INTENT_COLUMNS}
"""
_RENEW = text("""
    UPDATE intents SET expires_at = clock_timestamp() + :lease WHERE write_id = ANY(:ids)
""")
_DROP = text("DELETE FROM intents WHERE write_id = ANY(:ids)")
_UNDER_WAY = text("SELECT write_id FROM intents WHERE write_id = ANY(:ids)")
_EXPIRED = text(f"""
    UPDATE intents SET expires_at = clock_timestamp() + :lease
    WHERE write_id IN (
        SELECT write_id FROM intents WHERE expires_at < clock_timestamp()
        ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    RETURNING {INTENT_COLUMNS}
""")
_FLOOR = text("""
    UPDATE site_clock SET floor_ms = greatest(floor_ms, :floor_ms)
    RETURNING floor_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
""")


async def begin(
    catalog: Catalog, new: Sequence[NewIntent], *, site: str, writer: str, lease_s: float
) -> Mapping[UUID, Intent]:
    """Record writes about to start, in one statement, and give them their stamps.

    What is missing in the answer met another write in the same instant, or its bucket is gone;
    ask again for it.
    """
    nth: Counter[tuple[int, str]] = Counter()
    rows = []
    for one in new:
        place = one.bucket_id, one.key
        rows.append(
            {
                "write_id": one.write_id,
                "bucket_id": one.bucket_id,
                "key": one.key,
                "kind": one.kind,
                "version_id": one.version_id,
                "clock_ms": one.clock_ms,
                "nth": nth[place],
                "details": dict(one.details),
            }
        )
        nth[place] += 1
    given = {"site": site, "writer": writer, "lease": timedelta(seconds=lease_s)}
    found = await catalog.ask(_BEGIN, {"rows": as_json(rows), **given})
    return {intent.write_id: intent for intent in map(to_intent, found)}


async def renew(catalog: Catalog, ids: Sequence[UUID], *, lease_s: float) -> int:
    """Keep long writes from expiring; how many of them are still ours."""
    async with catalog.begin() as connection:
        given = {"ids": list(ids), "lease": timedelta(seconds=lease_s)}
        return (await connection.execute(_RENEW, given)).rowcount


async def drop(catalog: Catalog, ids: Sequence[UUID]) -> None:
    """Forget writes of which the store has nothing."""
    async with catalog.begin() as connection:
        await connection.execute(_DROP, {"ids": list(ids)})


async def take_expired(catalog: Catalog, *, most: int, lease_s: float) -> tuple[Intent, ...]:
    """Writes whose writer has gone, now leased to the caller; two callers never get the same."""
    async with catalog.begin() as connection:
        given = {"most": most, "lease": timedelta(seconds=lease_s)}
        return tuple(to_intent(row) for row in await connection.execute(_EXPIRED, given))


async def under_way(catalog: Catalog, *, version_ids: Sequence[str]) -> frozenset[str]:
    """Which of these versions are being written."""
    ids = [UUID(one) for one in version_ids if is_uuid(one)]  # a write's id is its version's
    async with catalog.begin() as connection:
        found = await connection.execute(_UNDER_WAY, {"ids": ids})
        return frozenset(str(one) for one in found.scalars())


async def raise_floor(catalog: Catalog, floor_ms: int) -> tuple[int, int]:
    """Keep a floor under the site's stamps; the kept one and Postgres' own wall time, in ms."""
    async with catalog.begin() as connection:
        kept_ms, wall_ms = (await connection.execute(_FLOOR, {"floor_ms": floor_ms})).one()
    return kept_ms, wall_ms


def to_intent(found: Sequence[Any]) -> Intent:
    """A row of ``intents``, read with its columns in this order."""
    write_id, bucket_id, key, kind, version_id, stamp_ms, site, writer, parent, details = found
    return Intent(
        write_id,
        bucket_id,
        key,
        WriteKind(kind),
        version_id,
        Stamp(stamp_ms, site, writer),
        stamp_or_none(parent),
        details,
    )
