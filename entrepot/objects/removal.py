"""Versions taken away for good, and tags given: the row first, then the store.

What the store was told is the truth of the row at that moment; where the row moved meanwhile it is
told again, so two changes at once end with both sides equal.
"""

from collections.abc import Mapping

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.change import alter_row, remove_row
from entrepot.catalog.objects.effects import done_effects
from entrepot.catalog.objects.facts import Changes, EffectKind, Json, ObjectRow
from entrepot.catalog.objects.read import get_version
from entrepot.errors import NotFound
from entrepot.objects.ground import Ground
from entrepot.objects.names import stored_key
from entrepot.objects.settle import alteration, removal
from entrepot.store.check import check_tags


async def remove_version(
    ground: Ground, bucket: Bucket, key: str, version_id: str, *, actor: str
) -> ObjectRow | None:
    """Take a version away; None where there is none."""

    def decide(row: ObjectRow, newest: ObjectRow | None, following: ObjectRow | None) -> Changes:
        return removal(row, newest, following, actor=actor)

    place = bucket.id, key
    found = await remove_row(ground.catalog, place, version_id, decide, recorder=ground.recorder)
    if found is None:
        return None
    row, effects = found
    await carry_out(ground, bucket, key, version_id, EffectKind.PURGE)
    await done_effects(ground.catalog, effects)
    return row


async def set_tags(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str,
    tags: Mapping[str, str],
    *,
    actor: str,
) -> ObjectRow:
    """Replace a version's tags; ``NotFound`` where there is no such version."""
    check_tags(tags)

    def decide(row: ObjectRow) -> tuple[Json, Changes]:
        attributes = {**row.attributes, "tags": dict(tags)}
        return attributes, alteration(row, attributes, action="tag", actor=actor)

    place = bucket.id, key
    found = await alter_row(ground.catalog, place, version_id, decide, recorder=ground.recorder)
    if found is None:
        raise NotFound("no such version", bucket=bucket.name, key=key, version=version_id)
    row, effects = found
    await carry_out(ground, bucket, key, version_id, EffectKind.SETTLE)
    await done_effects(ground.catalog, effects)
    return row


async def carry_out(
    ground: Ground, bucket: Bucket, key: str, version_id: str, kind: EffectKind
) -> None:
    """Tell the store; twice changes nothing."""
    if kind is EffectKind.PURGE:
        await ground.store.delete(bucket.name, stored_key(key), version_id=version_id)
        return
    told: Mapping[str, str] | None = None
    while True:
        row = await get_version(ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id)
        if row is None or row.attributes.get("tags", {}) == told:
            return
        told = row.attributes.get("tags", {})
        await ground.store.tag(bucket.name, stored_key(key), told, version_id=version_id)
