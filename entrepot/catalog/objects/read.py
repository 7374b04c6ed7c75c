"""Lookups and listings. A listing of live keys reads one covering index and no table."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Listed, ObjectRow, Usage
from entrepot.catalog.objects.rows import COLUMNS, NEWEST, as_json, to_row

_LAST = chr(0x10FFFF)

_LISTED = "o.key, o.version_id, o.stamp_ms, o.size_bytes, o.etag"
_PAGE = text(f"""
    SELECT {_LISTED} FROM objects o
    WHERE o.bucket_id = :bucket_id AND o.key > :after AND o.key >= :prefix AND o.key < :end
    ORDER BY o.key LIMIT :most
""")
# With a delimiter each step jumps over what it folded: a folder of a million keys is one entry
# and one look into the index.
_FOLDED = text(f"""
    WITH RECURSIVE step AS (
        (SELECT {_LISTED}, 1 AS number FROM objects o
         WHERE o.bucket_id = :bucket_id AND o.key > :after AND o.key >= :prefix AND o.key < :end
         ORDER BY o.key LIMIT 1)
        UNION ALL
        SELECT n.*, s.number + 1 FROM step s CROSS JOIN LATERAL (
            SELECT {_LISTED} FROM objects o
            WHERE o.bucket_id = :bucket_id AND o.key < :end AND o.key >
                CASE WHEN strpos(substr(s.key, :skip), :delimiter) > 0
                THEN left(s.key, :skip - 1 + strpos(substr(s.key, :skip), :delimiter)
                          + length(:delimiter) - 1) || :last
                ELSE s.key END
            ORDER BY o.key LIMIT 1
        ) n WHERE s.number < :most
    )
    SELECT key, version_id, stamp_ms, size_bytes, etag FROM step
""")
_NEWEST_OF = text(f"""
    SELECT n.* FROM jsonb_to_recordset(CAST(:places AS jsonb)) AS k (bucket_id bigint, key text)
    CROSS JOIN LATERAL ({NEWEST}) n
""")
_VERSION = text(f"""
    SELECT {COLUMNS} FROM versions
    WHERE bucket_id = :bucket_id AND key = :key AND version_id = :version_id
""")
_VERSIONS = text(f"""
    SELECT {COLUMNS} FROM versions
    WHERE bucket_id = :bucket_id AND key >= :prefix AND key < :end AND (
        key > :after OR (key = :after AND stamp_ms < :before_ms))
    ORDER BY key, stamp_ms DESC, site DESC, writer DESC LIMIT :most
""")
_HAS = text("""
    SELECT version_id FROM versions
    WHERE bucket_id = :bucket_id AND (key, version_id) IN (
        SELECT k.key, k.version_id
        FROM jsonb_to_recordset(CAST(:names AS jsonb)) AS k (key text, version_id text)
    )
""")
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


async def newest_versions(
    catalog: Catalog, places: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], ObjectRow]:
    """The newest version of each key, delete markers included, in one statement."""
    given = as_json({"bucket_id": bucket_id, "key": key} for bucket_id, key in places)
    async with catalog.begin() as connection:
        rows = map(to_row, await connection.execute(_NEWEST_OF, {"places": given}))
        return {(row.bucket_id, row.key): row for row in rows}


async def get_version(
    catalog: Catalog, *, bucket_id: int, key: str, version_id: str
) -> ObjectRow | None:
    """One version by its id."""
    given = {"bucket_id": bucket_id, "key": key, "version_id": version_id}
    async with catalog.begin() as connection:
        row = (await connection.execute(_VERSION, given)).one_or_none()
    return to_row(row) if row else None


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
    async with catalog.begin() as connection:
        if not delimiter:
            found = await connection.execute(_PAGE, given | {"most": most})
            return tuple(map(_to_listed, found))
        given |= {"delimiter": delimiter, "skip": len(prefix) + 1, "last": _LAST, "most": most}
        found = await connection.execute(_FOLDED, given)
        return tuple(_folded(_to_listed(row), len(prefix), delimiter) for row in found)


async def list_versions(
    catalog: Catalog,
    *,
    bucket_id: int,
    prefix: str = "",
    after: str = "",
    before_ms: int = 0,
    most: int = 1000,
) -> tuple[ObjectRow, ...]:
    """Versions and delete markers by key, newest first, at most ``most``.

    Those of keys after ``after``, and those of ``after`` itself that are older than ``before_ms``.
    """
    given = {"bucket_id": bucket_id, "prefix": prefix, "end": _end_of(prefix), "after": after}
    async with catalog.begin() as connection:
        found = await connection.execute(_VERSIONS, given | {"before_ms": before_ms, "most": most})
        return tuple(map(to_row, found))


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
    return await _usage(catalog, _RECOUNT, bucket_id)


async def _usage(catalog: Catalog, statement: Any, bucket_id: int) -> Usage:
    async with catalog.begin() as connection:
        row = (await connection.execute(statement, {"bucket_id": bucket_id})).one()
    return Usage(*map(int, row))


def _end_of(prefix: str) -> str:
    # Every key that starts with the prefix sorts before this, and none but odd ones after it:
    # a key may hold U+10FFFF, so there are four in a row, which the length of a key allows.
    return prefix + _LAST * 4


def _to_listed(row: Row[Any]) -> Listed:
    key, version_id, mtime_ms, size_bytes, etag = row
    return Listed(key, version_id, mtime_ms, size_bytes, etag)


def _folded(entry: Listed, skip: int, delimiter: str) -> Listed:
    cut = entry.key.find(delimiter, skip)
    return entry if cut < 0 else Listed(entry.key[: cut + len(delimiter)])


def new_slot(writer: UUID, slots: int = 16) -> int:
    """The share of the usage that a writer adds to."""
    return writer.int % slots
