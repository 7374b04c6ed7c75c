"""What a store says of an adopted bucket, taken into the catalog: new versions, removed ones,
other tags and locks.

Invariant: a notice says where to look, and the store what is there, so it may come twice, late or
in any order. It starts no loop: a version that has a row, that a receiver is bringing or that was
removed here is known, and is not shipped again. What a lifecycle removed is removed here alone.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from enum import StrEnum

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.change import strike_row
from entrepot.catalog.objects.facts import Changes, Event, ObjectRow
from entrepot.clock import is_uuid
from entrepot.errors import AccessDenied, BucketNotFound, NotFound, Unsupported
from entrepot.objects.altered import learn
from entrepot.objects.check import observe
from entrepot.objects.ground import Ground
from entrepot.objects.names import shown_key
from entrepot.objects.reads import row_of
from entrepot.objects.settle import removal
from entrepot.store.protocol import Version

ACTOR = "the store"
_PAGE = 100
_LOOK_MAX = 10_000
"""Versions of a key that are looked through; a notice is of one of the newest."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One version of a key, as the store names both.

    ``time_ms`` is its time (Unix ms), where it was told; a look knows whole seconds. ``expired``:
    a lifecycle did it. ``altered``: the version was there, and has other tags or another lock.
    """

    key: str
    version_id: str
    removed: bool = False
    expired: bool = False
    altered: bool = False
    time_ms: int | None = None


class Noticed(StrEnum):
    """What became of a notice."""

    NEW = "new"
    REMOVED = "removed"
    ALTERED = "altered"
    KNOWN = "known"  # also what is gone already, and one of our own replicas


async def take(ground: Ground, bucket: Bucket, notice: Notice) -> Noticed:
    """Record what the store has now of the version that a notice is about.

    Raises ``Unsupported`` where the version has no id, or its time cannot be known.
    """
    if not is_uuid(notice.version_id):
        raise Unsupported(
            "a version without an id of its own is left to the sweep",
            hint=f"mc version enable {ground.site}/{bucket.name}",
            version=notice.version_id,
        )
    found = await _look(ground, bucket, notice)
    if found is not None and notice.altered:
        await observe(ground, bucket, [found])
        return await _altered(ground, bucket, notice)
    if found is not None:
        new = await observe(ground, bucket, [await _tagged(ground, bucket, found)], tagged=True)
        return Noticed.NEW if new else Noticed.KNOWN
    if notice.removed and await strike(ground, bucket, notice, is_replica=notice.expired):
        return Noticed.REMOVED
    return Noticed.KNOWN


async def _altered(ground: Ground, bucket: Bucket, notice: Notice) -> Noticed:
    name = shown_key(notice.key), notice.version_id
    try:
        is_news = await learn(ground, bucket, *name, actor=ACTOR, is_told=True)
    except BucketNotFound:
        raise
    except NotFound:  # gone since
        return Noticed.KNOWN
    except AccessDenied as error:  # sent again, it would hold up all behind it
        raise Unsupported("its tags or its lock may not be read", bucket=bucket.name) from error
    return Noticed.ALTERED if is_news else Noticed.KNOWN


async def _tagged(ground: Ground, bucket: Bucket, version: Version) -> Version:
    """The version with its tags, so that later changes of them can be told."""
    attributes = version.attributes
    if attributes is None or not attributes.tag_count:
        return version
    where = bucket.name, version.key
    try:
        tags = await ground.store.tags(*where, version_id=version.version_id)
    except BucketNotFound:
        raise
    except (AccessDenied, NotFound):
        return version
    return replace(version, attributes=replace(attributes, tags=tags))


async def strike(
    ground: Ground, bucket: Bucket, notice: Notice, *, is_replica: bool, actor: str = ACTOR
) -> bool:
    """Record that a version has gone from the store; False where that was known."""
    gone = Version(key=notice.key, version_id=notice.version_id, mtime_ms=0)
    unknown = row_of(ground.site, bucket, gone)

    def decide(
        row: ObjectRow | None,
        before: ObjectRow | None,
        after: ObjectRow | None,
        announced: bool,
    ) -> Changes:
        not_ours = is_replica or announced
        if row is None:
            return _unseen(unknown, actor=actor, is_replica=not_ours)
        changes = removal(row, before, after, actor=actor, is_replica=not_ours)
        return replace(changes, effects=())  # the store went first

    place = bucket.id, unknown.key
    version_id = notice.version_id
    return await strike_row(ground.catalog, place, version_id, decide, recorder=ground.recorder)


def _unseen(row: ObjectRow, *, actor: str, is_replica: bool) -> Changes:
    """The removal of a version that never had a row, such as one from before it was followed."""
    event = Event(row.bucket_id, row.key, row.version_id, "remove", str(row.stamp), is_replica)
    named = {"bucket_id": row.bucket_id, "key": row.key, "version_id": row.version_id}
    return Changes(records=({"action": "remove", "actor": actor, **named},), events=(event,))


async def _look(ground: Ground, bucket: Bucket, notice: Notice) -> Version | None:
    """The version with its exact time; None where the store has it no more.

    A look by its id tells that for certain, where a listing may hide a key.
    """
    seen: Version | None = None
    try:
        seen = await ground.store.head(bucket.name, notice.key, version_id=notice.version_id)
    except NotFound as error:
        if error.fields.get("status") != 405:  # that is a delete marker
            return None
    else:
        if notice.time_ms is not None and notice.time_ms // 1000 == seen.mtime_ms // 1000:
            return replace(seen, mtime_ms=notice.time_ms)
    async for version in stored_versions(ground, bucket, notice.key):
        if version.version_id == notice.version_id:
            return replace(version, attributes=seen.attributes if seen else None)
    raise Unsupported(
        "no listing shows this version, so its time is not known",
        hint="it is left to the sweep",
        bucket=bucket.name,
        key=shown_key(notice.key),
    )


async def stored_versions(
    ground: Ground, bucket: Bucket, key: str, *, details: bool = False
) -> AsyncIterator[Version]:
    """The versions of one stored key, newest first, at most 10,000."""
    count = 0
    how = {"prefix": key, "page_size": _PAGE, "details": details}
    async for page in ground.store.versions(bucket.name, **how):  # type: ignore[arg-type]
        for version in page.versions:
            count += 1
            if version.key != key or count > _LOOK_MAX:
                return
            yield version
