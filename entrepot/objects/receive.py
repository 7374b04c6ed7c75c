"""Taking in versions of other sites: under their own id, time and stamp, as they lie there.

Invariant: a replica is never shipped again. Each site ships its own writes to every other one, so
what comes from a site has gone everywhere already; the outbox marks it, and the stream leaves it.
A version arrives whole or not at all, once however often it is sent, in any order: its place in
the key's history is its stamp's. What was removed here does not come back (``purges``). Steps as
in ``writes``: intent, bytes, one transaction; recovery goes on from the intent.

Stored bytes travel verbatim, with metadata, seal and mark: the key ring is the sites' common one,
and a data key is bound to tenant, bucket and key, which are the same. The ETag of bytes that were
stored in one piece is their MD5, so the target's endpoint refuses others.

Tags and locks of a version that is here are merged: of two changes of its tags, or of its legal
hold, the later stamp counts; a retention is the longer and the stricter of both.

Memory: 1 MiB for each version on its way, or the buffers of one read and one write.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import EffectKind, Intent, Json, ObjectRow, WriteKind
from entrepot.catalog.objects.intents import raise_floor
from entrepot.catalog.objects.replicas import Known, Standing, begin_replicas
from entrepot.errors import (
    AccessDenied,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
)
from entrepot.objects.ground import End, Ground
from entrepot.objects.lanes import Lane
from entrepot.objects.names import stored_key
from entrepot.objects.removal import (
    HELD,
    TAGGED,
    Change,
    alter,
    carry_out,
    remove_version,
    tell_lock,
)
from entrepot.objects.settle import Outcome, Overtook, replica_of
from entrepot.stamp import Stamp
from entrepot.store.locks import UNLOCKED
from entrepot.store.protocol import Attributes, Body, Origin, Source, Version

SMALL_BYTES = 1 << 20
"""Read whole: then a request that broke is sent again by itself."""

Opener = Callable[[], AbstractAsyncContextManager[Body]]
"""Opens the stored bytes of a version where it comes from."""

Heed = Callable[[ObjectRow | None], Awaitable[None]]
"""Is told of the version that an arrival took the place of, where that is not its parent; None
where the arrival is an old one, so that nobody knows any more.
"""


class Received(StrEnum):
    """What became of an arrival."""

    TAKEN = "taken"
    QUARANTINED = "quarantined"  # kept and shown, never current: its time is beyond the bound
    MERGED = "merged"  # it is here, and has the other's tags or lock now
    KNOWN = "known"  # it is here as it is there
    REMOVED = "removed"  # it was here, and was removed for good


@dataclass(frozen=True, slots=True)
class _Coming:
    bucket: Bucket
    row: ObjectRow


@dataclass(frozen=True, slots=True)
class _Begun:
    intent: Intent
    known: Known


class Receiver:
    """Takes versions in at one site; ``actor`` stands in the audit trail."""

    def __init__(self, ground: Ground, *, actor: str) -> None:
        self.ground = ground
        self._actor = actor
        self._begins: Lane[_Coming, _Begun] = Lane(self._begin)

    async def receive(
        self,
        bucket: Bucket,
        row: ObjectRow,
        opener: Opener,
        *,
        at_once: bool = False,
        heed: Heed | None = None,
    ) -> Received:
        """Take a version in; ``row`` is the one of the site that it comes from.

        ``at_once``: a small body is read while the catalog is asked, since it is not here in all
        likelihood. ``heed`` has returned when this does. Raises ``Unsupported`` where it is locked
        and the bucket here cannot be.
        """
        reading = None
        if at_once and row.stored_bytes <= SMALL_BYTES and not row.is_delete_marker:
            reading = asyncio.create_task(_read(opener))
        try:
            begun = await self._begins.submit(_Coming(bucket, row))
            if begun.known.standing is Standing.BEGUN:
                return await self._take(bucket, row, reading or opener, begun.intent, heed)
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])
        if begun.known.attributes is not None:
            if heed is not None:
                await heed(None)
            return await self._merge(bucket, row, begun.known.attributes)
        # An earlier try may have left its bytes.
        name = stored_key(row.key)
        await self.ground.store.delete(bucket.name, name, version_id=row.version_id)
        return Received.REMOVED

    async def admit(
        self, bucket: Bucket, row: ObjectRow, bring: Callable[[], Awaitable[None]]
    ) -> Received:
        """Take a version of an adopted bucket in, which ``bring`` makes the store have.

        Its intent is there before its bytes, so what the store tells of it is known as ours.
        """
        begun = await self._begins.submit(_Coming(bucket, row))
        if begun.known.standing is not Standing.BEGUN:
            is_here = begun.known.standing is Standing.HERE
            return Received.KNOWN if is_here else Received.REMOVED
        try:
            await bring()
            await self.ground.ends.submit(End(begun.intent, Outcome()))
        finally:
            self.ground.under_way.discard(begun.intent.write_id)
        return Received.TAKEN

    async def _take(
        self,
        bucket: Bucket,
        row: ObjectRow,
        content: "Opener | asyncio.Task[_Read]",
        intent: Intent,
        heed: Heed | None,
    ) -> Received:
        try:
            await self._store(bucket, row, content)
            verdict = await self.ground.ends.submit(End(intent, Outcome()))
        finally:
            self.ground.under_way.discard(intent.write_id)
        if isinstance(verdict, Overtook):
            if heed is not None:
                await heed(verdict.before)
            verdict = verdict.row
        if not isinstance(verdict, ObjectRow):
            return Received.TAKEN
        if verdict.attributes != row.attributes:  # another receiver brought them later, or earlier
            place = bucket, row.key, row.version_id
            if await self._merge(bucket, row, verdict.attributes) is Received.KNOWN:
                await carry_out(self.ground, *place, kind=EffectKind.SETTLE, bypass=True)
        return Received.QUARANTINED if verdict.is_quarantined else Received.TAKEN

    async def remove(self, bucket: Bucket, key: str, version_id: str) -> Received:
        """Take a version away for good; ``AccessDenied`` where it is locked here."""
        gone = await remove_version(
            self.ground, bucket, key, version_id, actor=self._actor, is_replica=True
        )
        if gone is None:  # it may be on its way, or its bytes left by an earlier try
            await self.ground.store.delete(bucket.name, stored_key(key), version_id=version_id)
        return Received.REMOVED

    async def _begin(self, coming: Sequence[_Coming]) -> Sequence[_Begun | Exception]:
        hybrid = self.ground.hybrid
        intents = []
        for one in coming:
            time_ms = one.row.stamp.time_ms
            beyond = hybrid.is_beyond(time_ms)
            if not beyond:
                hybrid.observe(time_ms)
            intents.append(_intent(one.bucket, one.row, actor=self._actor, quarantined=beyond))
        if floor_ms := hybrid.next_floor_ms():
            hybrid.floor_ms, _ = await raise_floor(self.ground.catalog, floor_ms)
        # The same version twice in a batch: one intent serves both, and one of them commits.
        known = await begin_replicas(
            self.ground.catalog, intents, lease_s=self.ground.limits.lease_s
        )
        found: list[_Begun | Exception] = []
        for intent in intents:
            how = known.get((intent.bucket_id, intent.key, intent.version_id))
            if how is None:
                found.append(Unavailable("the bucket was dropped, or made anew", key=intent.key))
                continue
            if how.standing is Standing.BEGUN:
                self.ground.under_way.add(intent.write_id)
            found.append(_Begun(intent, how))
        return found

    async def _store(
        self, bucket: Bucket, row: ObjectRow, content: "Opener | asyncio.Task[_Read]"
    ) -> None:
        name = stored_key(row.key)
        if row.is_delete_marker:
            origin = Origin(row.version_id, row.stamp.time_ms)
            await self.ground.store.delete(bucket.name, name, origin=origin)
            return
        if row.attributes.get("lock") and not bucket.locked:
            raise Unsupported("the bucket has no object lock", hint=UNLOCKED, bucket=bucket.name)
        if isinstance(content, asyncio.Task):
            await self._put(bucket, row, *await content)
        elif row.stored_bytes <= SMALL_BYTES:
            await self._put(bucket, row, *await _read(content))
        else:
            async with content() as body:
                await self._put(bucket, row, aiter(body), body.version)
        if row.attributes.get("lock"):
            await tell_lock(self.ground, bucket, name, row, bypass=False)

    async def _put(self, bucket: Bucket, row: ObjectRow, source: Source, version: Version) -> None:
        name = stored_key(row.key)
        tags = row.attributes.get("tags", {})
        attributes = replace(version.attributes or Attributes(), tags=tags)
        in_one_piece = len(version.etag) == 32
        origin = Origin(
            row.version_id, row.stamp.time_ms, etag="" if in_one_piece else version.etag
        )
        try:
            await self.ground.store.put(
                bucket.name,
                name,
                source,
                size_bytes=row.stored_bytes,
                attributes=attributes,
                origin=origin,
                md5=bytes.fromhex(version.etag) if in_one_piece else None,
            )
        except (AccessDenied, PreconditionFailed):
            # An earlier try came so far that it is locked, or (MinIO says so of some) there.
            if not await _is_stored(self.ground, bucket, row):
                raise

    async def _merge(self, bucket: Bucket, row: ObjectRow, ours: Json) -> Received:
        if row.is_delete_marker or merged(ours, row.attributes) == merged(ours, ours):
            return Received.KNOWN
        if row.attributes.get("lock") and not bucket.locked:
            raise Unsupported("the bucket has no object lock", hint=UNLOCKED, bucket=bucket.name)
        await merge(
            self.ground,
            bucket,
            row.key,
            row.version_id,
            lambda attributes: merged(attributes, row.attributes),
            actor=self._actor,
        )
        return Received.MERGED


_Read = tuple[bytes, Version]


async def _read(opener: Opener) -> _Read:
    async with opener() as body:
        return await body.read(), body.version


async def arrived(ground: Ground, bucket: Bucket, intent: Intent) -> Outcome | None:
    """Whether the store has all of a version whose receiver died; for ``recover``."""
    row = replica_of(intent)
    if not await _is_stored(ground, bucket, row):
        return None
    if tags := row.attributes.get("tags"):  # a receiver that began later brought them
        await ground.store.tag(bucket.name, stored_key(row.key), tags, version_id=row.version_id)
    if row.attributes.get("lock"):
        await tell_lock(ground, bucket, stored_key(row.key), row, bypass=False)
    return Outcome()


async def _is_stored(ground: Ground, bucket: Bucket, row: ObjectRow) -> bool:
    try:
        version = await ground.store.head(
            bucket.name, stored_key(row.key), version_id=row.version_id
        )
    except NotFound as error:
        return row.is_delete_marker and error.fields.get("status") == 405
    return not row.is_delete_marker and version.size_bytes == row.stored_bytes


def _intent(bucket: Bucket, row: ObjectRow, *, actor: str, quarantined: bool) -> Intent:
    kept: dict[str, Any] = {
        "is_delete_marker": row.is_delete_marker,
        "is_quarantined": quarantined,
        "size_bytes": row.size_bytes,
        "stored_bytes": row.stored_bytes,
        "etag": row.etag,
        "seal": row.seal,
        "attributes": dict(row.attributes),
    }
    return Intent(
        row.write_id,
        bucket.id,
        row.key,
        WriteKind.REPLICA,
        row.version_id,
        row.stamp,
        row.parent,
        {"row": kept, "actor": actor},
    )


async def merge(
    ground: Ground, bucket: Bucket, key: str, version_id: str, change: Change, *, actor: str
) -> None:
    """Give a version what another site has as well; ``NotFound`` without such a version."""
    await alter(
        ground,
        bucket,
        key,
        version_id,
        change,
        action="merge",
        actor=actor,
        bypass=True,  # what may end it early may also make it stricter
        is_replica=True,
    )


def merged(ours: Json, theirs: Json) -> Json:
    """The attributes of one version that two sites changed: the same whoever asks. Pure."""
    found = dict(ours)
    if _is_later(theirs.get(TAGGED), ours.get(TAGGED)):
        found |= {"tags": theirs.get("tags", {}), TAGGED: theirs[TAGGED]}
    holder = ours
    if _is_later(theirs.get(HELD), ours.get(HELD)):
        holder = theirs
        found[HELD] = theirs[HELD]
    if "lock" in ours or "lock" in theirs:
        hold = holder.get("lock", {}).get("hold", False)
        found["lock"] = {**_stricter(ours.get("lock", {}), theirs.get("lock", {})), "hold": hold}
    return found


def _is_later(theirs: str | None, ours: str | None) -> bool:
    return bool(theirs) and (not ours or Stamp.parse(str(theirs)) > Stamp.parse(ours))


def _stricter(ours: Json, theirs: Json) -> dict[str, Any]:
    """The retention that keeps both promises."""
    kept = [lock for lock in (ours, theirs) if lock.get("mode")]
    if not kept:
        return {"mode": None, "until": None}
    # ISO times of UTC with whole seconds sort as the times do.
    until = max(lock["until"] for lock in kept)
    strict = any(lock["mode"] == "compliance" for lock in kept)
    return {"mode": "compliance" if strict else "governance", "until": until}
