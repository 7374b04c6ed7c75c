"""Versions taken away for good, and given tags or locks: the row first, then the store.

What the store was told is the truth of the row at that moment; where the row moved meanwhile it is
told again, so two changes at once end with both sides equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.change import alter_row, remove_row
from entrepot.catalog.objects.effects import done_effects
from entrepot.catalog.objects.facts import Changes, EffectKind, Json, ObjectRow
from entrepot.catalog.objects.read import get_version
from entrepot.errors import InvalidInput, NotFound, Unsupported
from entrepot.objects.ground import Ground
from entrepot.objects.names import stored_key
from entrepot.objects.settle import alteration, removal
from entrepot.stamp import Stamp
from entrepot.store.check import check_retention, check_tags
from entrepot.store.locks import UNLOCKED, check_change, check_removal
from entrepot.store.protocol import Lock, LockMode

TAGGED, HELD = "tagged", "held"
"""Attributes that say when the tags, and the legal hold, were last changed by themselves."""

Change = Callable[[Json], Json]
"""From a version's attributes to the new ones; may refuse by raising."""


async def remove_version(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str,
    *,
    actor: str,
    bypass: bool = False,
    is_replica: bool = False,
) -> ObjectRow | None:
    """Take a version away; None where there is none, ``AccessDenied`` where it is locked.

    ``is_replica``: another site did; what never came here will not come any more.
    """

    def decide(row: ObjectRow, newest: ObjectRow | None, following: ObjectRow | None) -> Changes:
        check_removal(lock_of(row), ground.clock.now(), bypass=bypass)
        return removal(row, newest, following, actor=actor, bypass=bypass, is_replica=is_replica)

    place = bucket.id, key
    found = await remove_row(
        ground.catalog,
        place,
        version_id,
        decide,
        recorder=ground.recorder,
        for_good=is_replica,
    )
    if found is None:
        return None
    row, effects = found
    await carry_out(ground, bucket, key, version_id, kind=EffectKind.PURGE, bypass=bypass)
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

    def change(attributes: Json) -> Json:
        return {**attributes, "tags": dict(tags), TAGGED: moment(ground, attributes, TAGGED)}

    return await alter(ground, bucket, key, version_id, change, action="tag", actor=actor)


async def retain(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str,
    *,
    mode: LockMode | None,
    until: datetime | None,
    bypass: bool,
    actor: str,
) -> ObjectRow:
    """Keep a version from being removed until then; both None ends that where it may end."""
    _check_locked(bucket)
    check_retention(mode, until)

    def change(attributes: Json) -> Json:
        now = ground.clock.now()
        check_change(lock_in(attributes), mode, until, now, bypass=bypass)
        lock = replace(lock_in(attributes), mode=mode, until=until)
        return {**attributes, "lock": lock_json(lock)}

    return await alter(
        ground, bucket, key, version_id, change, action="retain", actor=actor, bypass=bypass
    )


async def hold(
    ground: Ground, bucket: Bucket, key: str, version_id: str, *, on: bool, actor: str
) -> ObjectRow:
    """Keep a version from being removed until this is called with ``on`` False."""
    _check_locked(bucket)

    def change(attributes: Json) -> Json:
        lock = lock_json(replace(lock_in(attributes), hold=on))
        return {**attributes, "lock": lock, HELD: moment(ground, attributes, HELD)}

    return await alter(ground, bucket, key, version_id, change, action="hold", actor=actor)


def moment(ground: Ground, attributes: Json, name: str) -> str:
    """The stamp of a change of attributes: of two sites' changes the later one counts."""
    before = attributes.get(name)
    least_ms = Stamp.parse(before).time_ms + 1 if before else 0
    return str(Stamp(max(ground.hybrid.now_ms(), least_ms), ground.site, ground.writer))


def lock_of(row: ObjectRow) -> Lock:
    """The lock of a version."""
    return lock_in(row.attributes)


def lock_in(attributes: Json) -> Lock:
    """The lock in a version's attributes."""
    kept = attributes.get("lock", {})
    mode, until = kept.get("mode"), kept.get("until")
    return Lock(
        mode=LockMode(mode) if mode else None,
        until=datetime.fromisoformat(until) if until else None,
        hold=kept.get("hold", False),
    )


def lock_json(lock: Lock) -> Json:
    """The inverse of ``lock_in``: one form for one lock, since sites compare attributes."""
    until = lock.until.isoformat() if lock.until else None
    return {"mode": lock.mode, "until": until, "hold": lock.hold}


def _check_locked(bucket: Bucket) -> None:
    if not bucket.locked:
        raise Unsupported("the bucket has no object lock", hint=UNLOCKED, bucket=bucket.name)


async def alter(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str,
    change: Change,
    *,
    action: str,
    actor: str,
    bypass: bool = False,
    is_replica: bool = False,
) -> ObjectRow:
    """Give a version the attributes that ``change`` says; ``NotFound`` without such a version."""

    def decide(row: ObjectRow) -> tuple[Json, Changes]:
        if row.is_delete_marker:
            raise InvalidInput("a delete marker has no tags and no lock", key=key)
        attributes = change(row.attributes)
        how = {"bypass": bypass, "is_replica": is_replica}
        return attributes, alteration(row, attributes, action=action, actor=actor, **how)

    place = bucket.id, key
    found = await alter_row(ground.catalog, place, version_id, decide, recorder=ground.recorder)
    if found is None:
        raise NotFound("no such version", bucket=bucket.name, key=key, version=version_id)
    row, effects = found
    await carry_out(ground, bucket, key, version_id, kind=EffectKind.SETTLE, bypass=bypass)
    await done_effects(ground.catalog, effects)
    return row


async def carry_out(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str,
    *,
    kind: EffectKind,
    bypass: bool,
) -> None:
    """Tell the store; twice changes nothing."""
    name = stored_key(key)
    if kind is EffectKind.PURGE:
        await ground.store.delete(bucket.name, name, version_id=version_id, bypass=bypass)
        return
    told: Json | None = None
    while True:
        row = await get_version(ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id)
        if row is None or row.attributes == told:
            return
        told = row.attributes
        await ground.store.tag(bucket.name, name, told.get("tags", {}), version_id=version_id)
        if bucket.locked:
            await tell_lock(ground, bucket, name, row, bypass=bypass)


async def tell_lock(
    ground: Ground, bucket: Bucket, name: str, row: ObjectRow, *, bypass: bool
) -> None:
    """Give the stored version the lock that its row has; ``name`` is the key in the store."""
    wanted, version_id = lock_of(row), row.version_id
    has = await ground.store.lock(bucket.name, name, version_id=version_id)
    if wanted.hold != has.hold:
        await ground.store.hold(bucket.name, name, wanted.hold, version_id=version_id)
    if (wanted.mode, wanted.until) != (has.mode, has.until):
        await ground.store.retain(
            bucket.name,
            name,
            mode=wanted.mode,
            until=wanted.until,
            version_id=version_id,
            bypass=bypass,
        )
