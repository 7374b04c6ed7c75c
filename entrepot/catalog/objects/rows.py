"""Between Postgres rows and our values: one place knows the columns of ``versions``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from entrepot.catalog.objects.facts import ObjectRow, Place
from entrepot.stamp import Stamp

COLUMNS = (
    "bucket_id, key, version_id, stamp_ms, site, writer, parent, write_id, is_delete_marker, "
    "is_quarantined, size_bytes, stored_bytes, etag, seal, attributes"
)
RECORD = (
    "bucket_id bigint, key text, version_id text, stamp_ms bigint, site text, writer text, "
    "parent text, write_id uuid, is_delete_marker boolean, is_quarantined boolean, "
    "size_bytes bigint, stored_bytes bigint, etag text, seal text, attributes jsonb"
)

NEWEST = f"""
    SELECT {COLUMNS} FROM versions v
    WHERE v.bucket_id = k.bucket_id AND v.key = k.key AND NOT v.is_quarantined
    ORDER BY v.stamp_ms DESC, v.site DESC, v.writer DESC LIMIT 1
"""
"""The newest version of key ``k``: one step into one index."""

NEWEST_OF = f"""
    SELECT n.* FROM jsonb_to_recordset(CAST(%(places)s AS jsonb)) AS k (bucket_id bigint, key text)
    CROSS JOIN LATERAL ({NEWEST}) n
"""
"""The newest version of each of the ``places``, delete markers included."""


def as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the one parameter of a statement; identifiers become text."""
    return json.dumps(list(rows), default=str)


def stamp_or_none(text: str | None) -> Stamp | None:
    """A stamp as a column holds it."""
    return Stamp.parse(text) if text else None


def to_row(found: Sequence[Any]) -> ObjectRow:
    """A row of ``versions``, read with ``COLUMNS``."""
    bucket_id, key, version_id, stamp_ms, site, writer, parent, write_id, *rest = found
    return ObjectRow(
        bucket_id,
        key,
        version_id,
        Stamp(stamp_ms, site, writer),
        write_id,
        stamp_or_none(parent),
        *rest,
    )


def from_row(row: ObjectRow) -> dict[str, Any]:
    """The inverse, by column."""
    return {
        "bucket_id": row.bucket_id,
        "key": row.key,
        "version_id": row.version_id,
        "stamp_ms": row.stamp.time_ms,
        "site": row.stamp.site,
        "writer": row.stamp.writer,
        "parent": str(row.parent) if row.parent else None,
        "write_id": row.write_id,
        "is_delete_marker": row.is_delete_marker,
        "is_quarantined": row.is_quarantined,
        "size_bytes": row.size_bytes,
        "stored_bytes": row.stored_bytes,
        "etag": row.etag,
        "seal": row.seal,
        "attributes": dict(row.attributes),
    }


def places_json(places: Iterable[Place]) -> str:
    """Keys as the one parameter of a statement, each once."""
    return as_json({"bucket_id": bucket_id, "key": key} for bucket_id, key in dict.fromkeys(places))


def by_place(found: Iterable[Sequence[Any]]) -> dict[Place, ObjectRow]:
    """Rows of ``versions``, one of each key."""
    return {(row.bucket_id, row.key): row for row in map(to_row, found)}
