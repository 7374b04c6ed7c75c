"""What the store must still be told: written with the change, struck off when it is done.

Invariant: a row changes first and the store follows, so what was removed is gone for readers at
once, and a crash in between leaves an effect that somebody carries out later. Doing one twice
changes nothing.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Effect, EffectKind

_TAKE = text("""
    UPDATE effects SET since = clock_timestamp() WHERE id IN (
        SELECT id FROM effects WHERE since < clock_timestamp() - :older ORDER BY id
        LIMIT :most FOR UPDATE SKIP LOCKED
    )
    RETURNING id, bucket_id, key, version_id, kind, details
""")
_DONE = text("DELETE FROM effects WHERE id = ANY(:ids)")
_PURGED = text("""
    SELECT version_id FROM effects
    WHERE kind = 'purge' AND bucket_id = :bucket_id AND version_id = ANY(:ids)
""")


async def take_effects(catalog: Catalog, *, older_s: float, most: int) -> tuple[Effect, ...]:
    """Effects that nobody carried out for ``older_s``; two callers never get the same at once."""
    given = {"older": timedelta(seconds=older_s), "most": most}
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
