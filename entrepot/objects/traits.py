"""Tags and locks of managed versions for a sweep: what their rows say, and what becomes of them.

The row decides, then the store is told, as with any change. What sites agreed on goes through the
same merge as what the stream brings, so whoever is first, both end the same.
"""

from collections.abc import Sequence
from typing import Any

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import EffectKind, Json
from entrepot.catalog.objects.read import get_version, named_versions
from entrepot.errors import PreconditionFailed
from entrepot.objects.ground import Ground
from entrepot.objects.names import shown_key, stored_key
from entrepot.objects.receive import merge, merged
from entrepot.objects.removal import HELD, TAGGED, carry_out, lock_in, lock_json, moment
from entrepot.replication.sites import Named
from entrepot.replication.traits import Agreed, Traits
from entrepot.stamp import Stamp

ACTOR = "replication"


async def traits_of(ground: Ground, bucket: Bucket, names: Sequence[Named]) -> dict[Named, Traits]:
    """What the rows of versions say; ``names`` are keys as stored, and version ids."""
    shown = [(shown_key(key), version_id) for key, version_id in names]
    rows = await named_versions(ground.catalog, bucket_id=bucket.id, names=shown)
    return {(stored_key(row.key), row.version_id): _traits(row.attributes) for row in rows}


async def give(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str,
    *,
    seen: Traits,
    agreed: Agreed,
) -> bool:
    """Give a version what sites agreed on; where its row has it, the store is told once more.

    False where the row is gone, or says something else by now than ``seen``.
    """

    def change(attributes: Json) -> Json:
        return merged(attributes, _told(ground, attributes, seen, agreed))

    row = await get_version(ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id)
    if row is None:
        return False
    try:
        if change(row.attributes) == row.attributes:
            kind = EffectKind.SETTLE
            await carry_out(ground, bucket, key, version_id, kind=kind, bypass=True)
            return True
        await merge(ground, bucket, key, version_id, change, actor=ACTOR)
    except PreconditionFailed:
        return False
    return True


def _told(ground: Ground, attributes: Json, seen: Traits, agreed: Agreed) -> dict[str, Any]:
    """What another site would have, had it what was agreed on; ``PreconditionFailed`` where that
    was decided about other tags.
    """
    told: dict[str, Any] = {}
    if agreed.tagged:
        told |= {"tags": dict(agreed.tags), TAGGED: str(agreed.tagged)}
    elif agreed.tags != seen.tags:
        if attributes.get("tags", {}) not in (seen.tags, agreed.tags):
            raise PreconditionFailed("its tags were changed since")
        told |= {"tags": dict(agreed.tags), TAGGED: moment(ground, attributes, TAGGED)}
    if agreed.lock != seen.lock or agreed.held:
        told |= {"lock": lock_json(agreed.lock)}
    if agreed.held:
        told |= {HELD: str(agreed.held)}
    elif agreed.lock.hold != seen.lock.hold:
        told |= {HELD: moment(ground, attributes, HELD)}
    return told


def _traits(attributes: Json) -> Traits:
    return Traits(
        tags=attributes.get("tags", {}),
        lock=lock_in(attributes),
        tagged=_stamp(attributes.get(TAGGED)),
        held=_stamp(attributes.get(HELD)),
        is_managed=True,
    )


def _stamp(text: str | None) -> Stamp | None:
    return Stamp.parse(text) if text else None
