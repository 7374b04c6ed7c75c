"""What the store must still be told: written with the change, struck off when it is done.

Invariant: a row changes first and the store follows, so what was removed is gone for readers at
once, and a crash in between leaves an effect that somebody carries out later. Doing one twice
changes nothing. An upload of the store has its effect before it begins, and is rid of it at its
end.
"""

import json
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Effect, EffectKind

_TAKE = text("""
    UPDATE effects SET since = clock_timestamp() WHERE id IN (
        SELECT id FROM effects
        WHERE since < clock_timestamp() - CASE kind WHEN 'abort' THEN :lease ELSE :older END
        ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
    )
    RETURNING id, bucket_id, key, version_id, kind, details
""")
_DONE = text("DELETE FROM effects WHERE id = ANY(:ids)")
_PURGED = text("""
    SELECT version_id FROM effects
    WHERE kind = 'purge' AND bucket_id = :bucket_id AND version_id = ANY(:ids)
""")


_ADD = text("""
    INSERT INTO effects (bucket_id, key, version_id, kind, details)
    VALUES (:bucket_id, :key, :version_id, 'abort', CAST(:details AS jsonb)) RETURNING id
""")
_NAME = text("""
    UPDATE effects SET details = CAST(:details AS jsonb), since = clock_timestamp() WHERE id = :id
""")
_OWNED = text("""
    SELECT EXISTS (
        SELECT FROM uploads
        WHERE bucket_id = :bucket_id AND key = :key AND store_upload_id = :upload
    ) OR EXISTS (
        SELECT FROM effects e JOIN intents i ON i.write_id::text = e.version_id
        WHERE e.bucket_id = :bucket_id AND e.key = :key AND e.kind = 'abort'
            AND e.details->>'upload' = :upload
    )
""")


async def take_effects(
    catalog: Catalog, *, older_s: float, lease_s: float, most: int
) -> tuple[Effect, ...]:
    """Effects that nobody carried out for ``older_s``; two callers never get the same at once.

    For uploads that is ``lease_s``: until then whoever began one may be about to say which it is.
    """
    given = {"older": timedelta(seconds=older_s), "lease": timedelta(seconds=lease_s), "most": most}
    async with catalog.begin() as connection:
        return tuple(
            Effect(
                row.id, row.bucket_id, row.key, row.version_id, EffectKind(row.kind), row.details
            )
            for row in await connection.execute(_TAKE, given)
        )


async def done_effects(catalog: Catalog, ids: Sequence[int]) -> None:
    """Strike them off."""
    async with catalog.begin() as connection:
        await connection.execute(_DONE, {"ids": list(ids)})


async def being_purged(
    catalog: Catalog, *, bucket_id: int, version_ids: Sequence[str]
) -> frozenset[str]:
    """Which of these versions are on their way out of the store."""
    given = {"bucket_id": bucket_id, "ids": list(version_ids)}
    async with catalog.begin() as connection:
        return frozenset((await connection.execute(_PURGED, given)).scalars())


async def expect_upload(
    catalog: Catalog, *, bucket_id: int, key: str, version_id: str, upload: str = ""
) -> int:
    """Record that an upload of the store is about to begin, or that one was found; the effect."""
    given = {"bucket_id": bucket_id, "key": key, "version_id": version_id}
    async with catalog.begin() as connection:
        added = await connection.execute(_ADD, {**given, "details": _naming(upload)})
        return int(added.scalar_one())


async def name_upload(catalog: Catalog, effect: int, upload: str) -> bool:
    """Record which upload it is; False where recovery has given it up meanwhile."""
    async with catalog.begin() as connection:
        given = {"id": effect, "details": _naming(upload)}
        return (await connection.execute(_NAME, given)).rowcount == 1


async def is_owned(catalog: Catalog, *, bucket_id: int, key: str, upload: str) -> bool:
    """Whether an upload of the store belongs to a client's upload or to a write under way."""
    given = {"bucket_id": bucket_id, "key": key, "upload": upload}
    async with catalog.begin() as connection:
        return bool((await connection.execute(_OWNED, given)).scalar_one())


def _naming(upload: str) -> str:
    return json.dumps({"upload": upload} if upload else {})
