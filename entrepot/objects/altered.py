"""Tags and locks of versions of adopted buckets, changed after the write: heard of, and brought.

Nothing at a store says when a tag was changed. So the row of a version keeps the tags that its
store was last known to have, and a stamp for each tag that was changed since the write: of two
sites' changes of one tag, also of its removal, the later counts, tag by tag. Locks only get
stronger, since nobody can tell a release from a copy that never had its lock.

Invariant: what replication itself gives a store is in the row before (``coming``), so what the
store then tells is no news. What a user changed meanwhile is taken into the row first.

``tags`` is missing in rows of versions that were there before anybody followed the bucket: what a
first notice shows of those counts as changed, and what is brought there meets them as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.change import alter_row
from entrepot.catalog.objects.facts import Changes, Json, ObjectRow
from entrepot.catalog.objects.read import get_version
from entrepot.errors import Unsupported
from entrepot.objects.ground import Ground
from entrepot.objects.names import stored_key
from entrepot.objects.removal import lock_in, lock_json, moment
from entrepot.objects.settle import alteration
from entrepot.replication.traits import TAGS_MAX, strictest
from entrepot.stamp import Stamp
from entrepot.store.protocol import Lock

STAMPS, COMING = "tag_stamps", "coming"
"""Attributes of rows: when which tag was changed; the tags that the store is about to be given."""

Stamping = Callable[[str], str]
"""From the name of a tag to the stamp of its change."""


async def learn(
    ground: Ground, bucket: Bucket, key: str, version_id: str, *, actor: str, is_told: bool
) -> bool:
    """Take what the store has of a version into its row; whether that was news.

    ``is_told``: the store said that something was changed. News goes into the outbox.
    """
    where = bucket.name, stored_key(key)
    place = bucket.id, key
    while True:
        before = await get_version(
            ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id
        )
        if before is None:  # it comes, or it goes
            return False
        tags = await ground.store.tags(*where, version_id=version_id)
        lock = await _lock(ground, *where, version_id) if is_told else None
        found, changes = _taken(ground, before, tags, lock, actor=actor, is_told=is_told)
        if found == before.attributes:
            return False

        decide = partial(_if_unmoved, before.attributes, (found, changes))
        done = await alter_row(ground.catalog, place, version_id, decide, recorder=ground.recorder)
        if done is None or done[0].attributes == found:
            return bool(changes.events) and done is not None


def _if_unmoved(
    before: Json, decided: tuple[Json, Changes], row: ObjectRow
) -> tuple[Json, Changes]:
    """What was decided from a look at the store, unless the row knows of something later."""
    return decided if row.attributes == before else (row.attributes, Changes())


def _taken(
    ground: Ground,
    row: ObjectRow,
    tags: Mapping[str, str],
    lock: Lock | None,
    *,
    actor: str,
    is_told: bool,
) -> tuple[Json, Changes]:
    """What becomes of a row whose store has these tags and this lock."""
    has = row.attributes
    stamps = has.get(STAMPS, {})
    found = seen(has, tags, lambda name: moment(ground, stamps, name), is_told=is_told)
    changed, had = found.get(STAMPS, {}) != stamps, lock_in(has)
    stronger = _stronger(had, lock) if lock is not None else had
    locked = stronger != had
    if lock is not None and lock != had:  # a release is noted, and goes nowhere
        found["lock"] = lock_json(stronger if locked else lock)
    if not changed and not locked:
        return found, Changes()
    action = "tag" if changed else "retain"
    changes = alteration(row, found, action=action, actor=actor)
    return found, replace(changes, effects=())  # the store was first


async def bring_tags(ground: Ground, bucket: Bucket, row: ObjectRow, *, actor: str) -> None:
    """Give the version here the tags that it has with the changes of ``row``, another site's.

    Nothing is done where it is not here. Raises ``Unsupported`` where they would be more than S3
    allows.
    """
    place, version_id = (bucket.id, row.key), row.version_id
    where = bucket.name, stored_key(row.key)
    await learn(ground, bucket, row.key, version_id, actor=actor, is_told=False)

    async def note(change: Callable[[Json], Json]) -> None:
        def decide(mine: ObjectRow) -> tuple[Json, Changes]:
            return change(mine.attributes), Changes()

        await alter_row(ground.catalog, place, version_id, decide, recorder=ground.recorder)

    while True:
        mine = await get_version(
            ground.catalog, bucket_id=bucket.id, key=row.key, version_id=version_id
        )
        if mine is None:
            return
        tags = united(mine.attributes, row.attributes)["tags"]
        if len(tags) > TAGS_MAX:
            raise Unsupported(
                f"all tags together would be more than {TAGS_MAX}",
                hint="a sweep decides which stay: entrepot replicate run RULE --attributes",
            )
        if tags != mine.attributes.get("tags", {}) or COMING in mine.attributes:
            await note(lambda has, tags=tags: {**has, COMING: tags})  # type: ignore[misc]
            await ground.store.tag(*where, tags, version_id=version_id)
        is_done = False

        def finish(has: Json, tags: Mapping[str, str] = tags) -> Json:
            nonlocal is_done
            found = united(has, row.attributes)
            if is_done := found["tags"] == tags:  # else another one brought some meanwhile
                found.pop(COMING, None)
                return found
            return has

        await note(finish)
        if is_done:
            return


async def expect_lock(ground: Ground, bucket: Bucket, row: ObjectRow, lock: Lock) -> None:
    """Note a lock that the store is about to be given."""

    def decide(mine: ObjectRow) -> tuple[Json, Changes]:
        stronger = _stronger(lock_in(mine.attributes), lock)
        return {**mine.attributes, "lock": lock_json(stronger)}, Changes()

    place = bucket.id, row.key
    await alter_row(ground.catalog, place, row.version_id, decide, recorder=ground.recorder)


async def correct_tags(
    ground: Ground, bucket: Bucket, row: ObjectRow, tags: Mapping[str, str]
) -> None:
    """Note the tags that a copy was made with, where the row says others."""

    def decide(mine: ObjectRow) -> tuple[Json, Changes]:
        return {**mine.attributes, "tags": dict(tags)}, Changes()

    place = bucket.id, row.key
    await alter_row(ground.catalog, place, row.version_id, decide, recorder=ground.recorder)


def is_altered(row: ObjectRow) -> bool:
    """Whether the version was given other tags, or a lock, since it was written."""
    return bool(row.attributes.get(STAMPS) or row.attributes.get("lock"))


def seen(
    has: Json, tags: Mapping[str, str], stamp: Stamping, *, is_told: bool = True
) -> dict[str, Any]:
    """A row's attributes once its store was seen to have ``tags``. Pure."""
    found, known = dict(has), has.get("tags")
    if tags == known or tags == has.get(COMING):
        return found
    found["tags"] = dict(tags)
    if known is not None or is_told:
        before = known or {}
        changed = {name for name in {*before, *tags} if before.get(name) != tags.get(name)}
        stamps = has.get(STAMPS, {})
        found[STAMPS] = {**stamps, **{name: stamp(name) for name in sorted(changed)}}
    return found


def united(ours: Json, theirs: Json) -> dict[str, Any]:
    """Our attributes with their later changes of tags: the same whoever asks. Pure."""
    tags, stamps = dict(ours.get("tags", {})), dict(ours.get(STAMPS, {}))
    for name, stamp in theirs.get(STAMPS, {}).items():
        if name in stamps and Stamp.parse(stamps[name]) >= Stamp.parse(stamp):
            continue
        stamps[name] = stamp
        tags.pop(name, None)
        if name in theirs.get("tags", {}):
            tags[name] = theirs["tags"][name]
    return {**ours, "tags": tags, STAMPS: stamps}


def _stronger(one: Lock, other: Lock) -> Lock:
    mode, until = strictest([one, other])
    return Lock(mode, until, one.hold or other.hold)


async def _lock(ground: Ground, bucket: str, name: str, version_id: str) -> Lock | None:
    try:
        return await ground.store.lock(bucket, name, version_id=version_id)
    except Unsupported:  # a bucket without object lock
        return None
