"""Lookups and listings. A listing of live keys reads one covering index and no table.

Lookups are hasty: who reads a key has the store to go to where the catalog does not answer.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Listed, ObjectRow, Place, Usage
from entrepot.catalog.objects.rows import COLUMNS, NEWEST_OF, as_json, by_place, places_json, to_row
from entrepot.catalog.silence import HASTY_S, PATIENT_S, WITHIN_S
from entrepot.stamp import Stamp

_LAST = chr(0x10FFFF) * 257
"""Longer than a key may be, so behind a prefix it sorts after every key that has the prefix."""

FIRST = Stamp(0, "", "")
"""Older than any."""

_LISTED = "o.key, o.version_id, o.stamp_ms, o.size_bytes, o.etag"
_PAGE = f"""
    SELECT {_LISTED} FROM objects o
    WHERE o.bucket_id = %(bucket_id)s AND o.key > %(after)s
        AND o.key >= %(prefix)s AND o.key < %(end)s
    ORDER BY o.key LIMIT %(most)s
"""
# With a delimiter each step jumps over what it folded: a folder of a million keys is one entry
# and one look into the index.
_FOLDED = f"""
    WITH RECURSIVE step AS (
        (SELECT {_LISTED}, 1 AS number FROM objects o
         WHERE o.bucket_id = %(bucket_id)s AND o.key > %(after)s
             AND o.key >= %(prefix)s AND o.key < %(end)s
         ORDER BY o.key LIMIT 1)
        UNION ALL
        SELECT n.*, s.number + 1 FROM step s CROSS JOIN LATERAL (
            SELECT {_LISTED} FROM objects o
            WHERE o.bucket_id = %(bucket_id)s AND o.key < %(end)s AND o.key >
                CASE WHEN strpos(substr(s.key, %(skip)s), %(delimiter)s) > 0
                THEN left(s.key, %(skip)s - 1 + strpos(substr(s.key, %(skip)s), %(delimiter)s)
                          + length(%(delimiter)s) - 1) || %(last)s
                ELSE s.key END
            ORDER BY o.key LIMIT 1
        ) n WHERE s.number < %(most)s
    )
    SELECT key, version_id, stamp_ms, size_bytes, etag FROM step
"""
_VERSION = f"""
    SELECT {COLUMNS} FROM versions
    WHERE bucket_id = %(bucket_id)s AND key = %(key)s AND version_id = %(version_id)s
"""
_VERSIONS = f"""
    SELECT {COLUMNS} FROM versions
    WHERE bucket_id = %(bucket_id)s AND key >= %(prefix)s AND key < %(end)s
        AND key >= %(after)s AND (key > %(after)s OR (key = %(after)s
            AND (stamp_ms, site, writer) < (%(stamp_ms)s, %(site)s, %(writer)s)))
    ORDER BY key, stamp_ms DESC, site DESC, writer DESC LIMIT %(most)s
"""
_HAS = text("""
    SELECT version_id FROM versions
    WHERE bucket_id = :bucket_id AND (key, version_id) IN (
        SELECT k.key, k.version_id
        FROM jsonb_to_recordset(CAST(:names AS jsonb)) AS k (key text, version_id text)
    )
""")
_NAMED = f"""
    SELECT {COLUMNS} FROM versions WHERE bucket_id = %(bucket_id)s AND (key, version_id) IN (
        SELECT k.key, k.version_id
        FROM jsonb_to_recordset(CAST(%(names)s AS jsonb)) AS k (key text, version_id text)
    )
"""
_USAGE = text("""
    SELECT coalesce(sum(objects), 0), coalesce(sum(versions), 0),
        coalesce(sum(delete_markers), 0), coalesce(sum(current_bytes), 0),
        coalesce(sum(total_bytes), 0), coalesce(sum(stored_bytes), 0)
    FROM usage_counters WHERE bucket_id = :bucket_id
""")
_RECOUNT = text("""
    SELECT (SELECT count(*) FROM objects WHERE bucket_id = :bucket_id),
        count(*) FILTER (WHERE NOT is_delete_marker),
        count(*) FILTER (WHERE is_delete_marker),
        (SELECT coalesce(sum(size_bytes), 0) FROM objects WHERE bucket_id = :bucket_id),
        coalesce(sum(size_bytes), 0), coalesce(sum(stored_bytes), 0)
    FROM versions WHERE bucket_id = :bucket_id
""")


async def newest_versions(catalog: Catalog, places: Sequence[Place]) -> dict[Place, ObjectRow]:
    """The newest version of each key, delete markers included, in one statement."""
    given = {"places": places_json(places)}
    return by_place(await catalog.ask(NEWEST_OF, given, within_s=HASTY_S))


async def get_version(
    catalog: Catalog, *, bucket_id: int, key: str, version_id: str
) -> ObjectRow | None:
    """One version by its id."""
    given = {"bucket_id": bucket_id, "key": key, "version_id": version_id}
    found = await catalog.ask(_VERSION, given, within_s=HASTY_S)
    return to_row(found[0]) if found else None


async def named_versions(
    catalog: Catalog, *, bucket_id: int, names: Sequence[tuple[str, str]]
) -> tuple[ObjectRow, ...]:
    """Versions by key and version id, those that there are."""
    named = as_json({"key": key, "version_id": version_id} for key, version_id in names)
    found = await catalog.ask(_NAMED, {"bucket_id": bucket_id, "names": named})
    return tuple(map(to_row, found))


async def list_objects(
    catalog: Catalog,
    *,
    bucket_id: int,
    prefix: str = "",
    after: str = "",
    delimiter: str = "",
    most: int = 1000,
) -> tuple[Listed, ...]:
    """Live keys that start with ``prefix`` and sort after ``after``, at most ``most``.

    With ``delimiter``, keys that share the part up to it are one entry: a ``Listed`` whose key
    ends with the delimiter. ``after`` may be such an entry: what it folded is passed over.
    """
    if delimiter and after.startswith(prefix) and delimiter in after[len(prefix) :]:
        after = after[: after.index(delimiter, len(prefix)) + len(delimiter)] + _LAST
    given = {"bucket_id": bucket_id, "prefix": prefix, "end": _end_of(prefix), "after": after}
    if not delimiter:
        found = await catalog.ask(_PAGE, given | {"most": most})
        return tuple(Listed(*row) for row in found)
    given |= {"delimiter": delimiter, "skip": len(prefix) + 1, "last": _LAST, "most": most}
    found = await catalog.ask(_FOLDED, given)
    return tuple(_folded(Listed(*row), len(prefix), delimiter) for row in found)


async def list_versions(
    catalog: Catalog,
    *,
    bucket_id: int,
    prefix: str = "",
    after: str = "",
    before: Stamp = FIRST,
    most: int = 1000,
) -> tuple[ObjectRow, ...]:
    """Versions and delete markers by key, newest first, at most ``most``.

    Those of keys after ``after``, and those of ``after`` itself that are older than ``before``.
    """
    given: dict[str, Any] = {"bucket_id": bucket_id, "prefix": prefix, "after": after}
    given["end"] = _end_of(prefix)
    given |= {"stamp_ms": before.time_ms, "site": before.site, "writer": before.writer}
    found = await catalog.ask(_VERSIONS, given | {"most": most})
    return tuple(map(to_row, found))


async def history_of(
    catalog: Catalog, *, bucket_id: int, key: str, most: int = 1000
) -> tuple[ObjectRow, ...]:
    """The newest versions and delete markers of one key, newest first."""
    found = await list_versions(catalog, bucket_id=bucket_id, prefix=key, most=most)
    return tuple(row for row in found if row.key == key)  # which sorts before what it begins


async def known_versions(
    catalog: Catalog, *, bucket_id: int, names: Sequence[tuple[str, str]]
) -> frozenset[str]:
    """Which of these (key, version id) have a row: their version ids."""
    given = as_json({"key": key, "version_id": version_id} for key, version_id in names)
    async with catalog.begin() as connection:
        found = await connection.execute(_HAS, {"bucket_id": bucket_id, "names": given})
        return frozenset(found.scalars())


async def usage_of(catalog: Catalog, *, bucket_id: int) -> Usage:
    """What the bucket holds, as it was kept with each change."""
    return await _usage(catalog, _USAGE, bucket_id)


async def recount_usage(catalog: Catalog, *, bucket_id: int) -> Usage:
    """What the bucket holds, counted anew from the rows: reads all of them."""
    return await _usage(catalog, _RECOUNT, bucket_id, within_s=PATIENT_S)


async def _usage(
    catalog: Catalog, statement: Any, bucket_id: int, *, within_s: float = WITHIN_S
) -> Usage:
    async with catalog.begin(within_s=within_s) as connection:
        row = (await connection.execute(statement, {"bucket_id": bucket_id})).one()
    return Usage(*map(int, row))


def _end_of(prefix: str) -> str:
    return prefix + _LAST


def _folded(entry: Listed, skip: int, delimiter: str) -> Listed:
    cut = entry.key.find(delimiter, skip)
    return entry if cut < 0 else Listed(entry.key[: cut + len(delimiter)])
