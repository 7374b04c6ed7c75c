"""Versions of other sites on their way in: which of them are here, were here, or may start.

Invariant: what was removed here is remembered in ``purges`` for ``HORIZON``, so a copy that comes
late, or again, does not bring it back. A replica's intent is found by its write id, so of two
receivers of one version both may begin, and one of them commits.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Intent, Json
from entrepot.catalog.objects.rows import as_json
from entrepot.catalog.silence import HASTY_S

HORIZON = timedelta(days=30)
"""A site that was away for longer is brought up by a sweep, which asks first."""

_BEGIN = """
    WITH k AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r
            (write_id uuid, bucket_id bigint, key text, version_id text, stamp_ms bigint,
             site text, writer text, parent text, details jsonb)
    ), here AS MATERIALIZED (
        SELECT v.bucket_id, v.key, v.version_id, v.attributes FROM k JOIN versions v
            ON v.bucket_id = k.bucket_id AND v.key = k.key AND v.version_id = k.version_id
    ), gone AS MATERIALIZED (
        SELECT p.bucket_id, p.key, p.version_id FROM k JOIN purges p
            ON p.bucket_id = k.bucket_id AND p.key = k.key AND p.version_id = k.version_id
    ), begun AS (
        INSERT INTO intents AS i (write_id, bucket_id, key, kind, version_id, stamp_ms, site,
            writer, parent, details, expires_at)
        SELECT k.write_id, k.bucket_id, k.key, 'replica', k.version_id, k.stamp_ms, k.site,
            k.writer, k.parent, k.details, clock_timestamp() + %(lease)s
        FROM k JOIN buckets b ON b.id = k.bucket_id
        WHERE NOT EXISTS (SELECT FROM here h WHERE (h.bucket_id, h.key, h.version_id)
                = (k.bucket_id, k.key, k.version_id))
            AND NOT EXISTS (SELECT FROM gone g WHERE (g.bucket_id, g.key, g.version_id)
                = (k.bucket_id, k.key, k.version_id))
        ORDER BY k.write_id
        ON CONFLICT (write_id) DO UPDATE SET expires_at = excluded.expires_at,
            details = excluded.details WHERE i.kind = 'replica'
        RETURNING bucket_id, key, version_id
    )
    SELECT bucket_id, key, version_id, 'here', attributes FROM here
    UNION ALL SELECT bucket_id, key, version_id, 'gone', NULL FROM gone
    UNION ALL SELECT bucket_id, key, version_id, 'begun', NULL FROM begun
"""
_PURGED = """
    SELECT key, version_id FROM purges
    WHERE bucket_id = %(bucket_id)s AND (key, version_id) > (%(key)s, %(version_id)s)
    ORDER BY key, version_id LIMIT 1000
"""
_IS_PURGED = """
    SELECT 1 FROM purges
    WHERE bucket_id = %(bucket_id)s AND key = %(key)s AND version_id = %(version_id)s
"""
_FORGET = text("DELETE FROM purges WHERE at < clock_timestamp() - :horizon")

Named = tuple[int, str, str]
"""Bucket id, key and version id."""


class Standing(StrEnum):
    """What is known of a version that is about to come."""

    BEGUN = "begun"  # it may come: its intent is written
    HERE = "here"
    GONE = "gone"  # it was here and was removed, or another site removed it


@dataclass(frozen=True, slots=True)
class Known:
    """How a version stands; ``attributes`` where it is here."""

    standing: Standing
    attributes: Json | None = None


async def begin_replicas(
    catalog: Catalog, intents: Sequence[Intent], *, lease_s: float
) -> Mapping[Named, Known]:
    """Record versions that are about to come, in one statement; how each of them stands.

    What is missing in the answer has lost its bucket.
    """
    rows = {one.write_id: _row(one) for one in intents}
    given = {"rows": as_json(rows.values()), "lease": timedelta(seconds=lease_s)}
    found: dict[Named, Known] = {}
    # Not waited for on disk: where the server dies, nobody has heard of a commit, and it is sent
    # again.
    for bucket_id, key, version_id, standing, attributes in await catalog.ask_soon(_BEGIN, given):
        found.setdefault((bucket_id, key, version_id), Known(Standing(standing), attributes))
    return found


async def purged(catalog: Catalog, *, bucket_id: int) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """Versions (key, version id) that were removed from a bucket for good, 1,000 at a time."""
    last = "", ""
    while found := await catalog.ask(
        _PURGED, {"bucket_id": bucket_id, "key": last[0], "version_id": last[1]}
    ):
        names = [(row[0], row[1]) for row in found]
        yield names
        last = names[-1]


async def was_purged(catalog: Catalog, version: Named) -> bool:
    """Whether a version was removed for good, within ``HORIZON``."""
    given = dict(zip(("bucket_id", "key", "version_id"), version, strict=True))
    return bool(await catalog.ask(_IS_PURGED, given, within_s=HASTY_S))


async def forget_purges(catalog: Catalog, *, horizon: timedelta = HORIZON) -> int:
    """Forget removals that are older; how many."""
    async with catalog.begin() as connection:
        return (await connection.execute(_FORGET, {"horizon": horizon})).rowcount


def _row(intent: Intent) -> dict[str, Any]:
    return {
        "write_id": intent.write_id,
        "bucket_id": intent.bucket_id,
        "key": intent.key,
        "version_id": intent.version_id,
        "stamp_ms": intent.stamp.time_ms,
        "site": intent.stamp.site,
        "writer": intent.stamp.writer,
        "parent": str(intent.parent) if intent.parent else None,
        "details": dict(intent.details),
    }
