"""Multipart uploads that are under way, and their parts. The last attempt at a part counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Json
from entrepot.errors import NotFound

_START = text("""
    INSERT INTO uploads (upload_id, bucket_id, key, store_upload_id, details)
    VALUES (:upload_id, :bucket_id, :key, :store_upload_id, CAST(:details AS jsonb))
""")
_GET = text("""
    SELECT upload_id, bucket_id, key, started_at, store_upload_id, details FROM uploads
    WHERE upload_id = :upload_id AND bucket_id = :bucket_id AND key = :key
""")
_LIST = text("""
    SELECT upload_id, bucket_id, key, started_at, store_upload_id, details FROM uploads
    WHERE bucket_id = :bucket_id AND (key, upload_id) > (:after, CAST(:after_id AS uuid))
        AND starts_with(key, :prefix)
    ORDER BY key, upload_id LIMIT :most
""")
_END = text("DELETE FROM uploads WHERE upload_id = :upload_id")
_PART = text("""
    INSERT INTO upload_parts AS p (upload_id, number, size_bytes, etag, details)
    VALUES (:upload_id, :number, :size_bytes, :etag, CAST(:details AS jsonb))
    ON CONFLICT (upload_id, number) DO UPDATE SET size_bytes = excluded.size_bytes,
        etag = excluded.etag, details = excluded.details, uploaded_at = now()
    RETURNING number, size_bytes, etag, uploaded_at, details
""")
_PARTS = text("""
    SELECT number, size_bytes, etag, uploaded_at, details FROM upload_parts
    WHERE upload_id = :upload_id AND number > :after ORDER BY number LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload; ``details`` are of whoever started it."""

    upload_id: UUID
    bucket_id: int
    key: str
    started_at: datetime
    store_upload_id: str
    details: Json


@dataclass(frozen=True, slots=True)
class UploadPart:
    """A part that the store has. Size in bytes and ETag are of what the client sent."""

    number: int
    size_bytes: int
    etag: str
    uploaded_at: datetime
    details: Json


async def start_upload(
    catalog: Catalog,
    *,
    upload_id: UUID,
    bucket_id: int,
    key: str,
    store_upload_id: str,
    details: Json,
) -> None:
    """Record an upload that the store has begun."""
    given = {"upload_id": upload_id, "bucket_id": bucket_id, "key": key}
    given |= {"store_upload_id": store_upload_id, "details": json.dumps(dict(details))}
    async with catalog.begin() as connection:
        await connection.execute(_START, given)


async def get_upload(catalog: Catalog, *, upload_id: UUID, bucket_id: int, key: str) -> Upload:
    """One upload, or ``NotFound``."""
    given = {"upload_id": upload_id, "bucket_id": bucket_id, "key": key}
    async with catalog.begin() as connection:
        row = (await connection.execute(_GET, given)).one_or_none()
    if row is None:
        raise NotFound("no such upload: it was completed, aborted or never begun", key=key)
    return _to_upload(row)


async def list_uploads(
    catalog: Catalog,
    *,
    bucket_id: int,
    prefix: str = "",
    after: tuple[str, UUID | None] = ("", None),
    most: int = 1000,
) -> tuple[Upload, ...]:
    """Uploads by key and id, those after the one named."""
    after_id = after[1] or UUID(int=2**128 - 1 if after[0] else 0)
    given: Mapping[str, Any] = {"bucket_id": bucket_id, "prefix": prefix, "after": after[0]}
    async with catalog.begin() as connection:
        found = await connection.execute(_LIST, {**given, "after_id": str(after_id), "most": most})
        return tuple(map(_to_upload, found))


async def end_upload(catalog: Catalog, upload_id: UUID) -> None:
    """Forget an upload and its parts; no error where it is gone."""
    async with catalog.begin() as connection:
        await connection.execute(_END, {"upload_id": upload_id})


async def save_part(
    catalog: Catalog, upload_id: UUID, *, number: int, size_bytes: int, etag: str, details: Json
) -> UploadPart:
    """Record a part that the store has; ``NotFound`` where the upload is gone."""
    given = {"upload_id": upload_id, "number": number, "size_bytes": size_bytes, "etag": etag}
    async with catalog.begin() as connection:
        saved = await connection.execute(_PART, {**given, "details": json.dumps(dict(details))})
        return UploadPart(*saved.one())


async def list_parts(
    catalog: Catalog, upload_id: UUID, *, after: int = 0, most: int = 10_000
) -> Sequence[UploadPart]:
    """Parts by number."""
    given = {"upload_id": upload_id, "after": after, "most": most}
    async with catalog.begin() as connection:
        found = await connection.execute(_PARTS, given)
        return tuple(UploadPart(*row) for row in found)


def _to_upload(row: Row[Any]) -> Upload:
    return Upload(
        row.upload_id, row.bucket_id, row.key, row.started_at, row.store_upload_id, row.details
    )
