"""Versions of adopted buckets brought from one store to another: the sweep's copies, one by one.

Invariant: the copy has the version id, time, attributes, tags, lock and parts that a sweep would
give it, so whichever comes first, the other finds nothing to do. Here too a replica's intent is in
the target's catalog before its bytes are in the store, and its removal is announced before it is
done: what the target's store then tells of either is no news.
"""

from dataclasses import dataclass, field, replace

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.change import announce_removal, revoke_removal
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.errors import (
    AccessDenied,
    BucketNotFound,
    IntegrityError,
    NotFound,
    Unavailable,
    Unsupported,
)
from entrepot.objects.altered import (
    COMING,
    STAMPS,
    bring_tags,
    correct_tags,
    expect_lock,
    is_altered,
)
from entrepot.objects.ground import Ground
from entrepot.objects.names import stored_key
from entrepot.objects.notices import Notice, strike
from entrepot.objects.receive import Received, Receiver
from entrepot.replication.apply import Context, bring
from entrepot.replication.plan import Copy, Target
from entrepot.replication.sites import Site
from entrepot.replication.totals import Findings, Totals
from entrepot.store.locks import UNLOCKED
from entrepot.store.protocol import Capability, Origin
from entrepot.terms import Travel

_SOURCE, _TARGET = 0, 1


@dataclass(slots=True)
class Copier:
    """Brings versions of adopted buckets from ``source`` to where ``receiver`` takes them in."""

    source: Ground
    receiver: Receiver
    travels: frozenset[Travel]
    actor: str
    _contexts: dict[str, Context] = field(default_factory=dict)

    @property
    def _target(self) -> Ground:
        return self.receiver.ground

    async def copy(self, bucket: Bucket, row: ObjectRow) -> int:
        """Make the target have a version; ``bucket`` is its own. The bytes that went.

        Raises ``Unsupported`` where it could not be the same version there.
        """
        context = await self._context(bucket)
        if self._target.hybrid.is_beyond(row.stamp.time_ms):
            raise Unavailable(
                "the version's time is in the future there",
                hint="set the clocks of both sites by NTP",
                site=self._target.site,
            )
        try:
            return await self._copy(bucket, row, context)
        except BucketNotFound:
            raise
        except NotFound:  # removed at the source since
            return 0

    async def _copy(self, bucket: Bucket, row: ObjectRow, context: Context) -> int:
        arriving, went, tags = self._arriving(row), 0, None
        is_there = not row.is_delete_marker and await self._has(bucket, row)
        if is_there:  # a sweep was here first
            tags = await self._target.store.tags(
                bucket.name, stored_key(row.key), version_id=row.version_id
            )
            kept = {name: each for name, each in arriving.attributes.items() if name != STAMPS}
            arriving = replace(arriving, attributes={**kept, "tags": dict(tags)})

        async def send() -> None:
            nonlocal went
            went = 0 if is_there else await self._send(bucket, row, context)

        received = await self.receiver.admit(bucket, arriving, send)
        if received is Received.TAKEN and not is_there and not row.is_delete_marker:
            where = stored_key(row.key), row.version_id
            copied = context.tagged.pop(where, {})
            if copied != arriving.attributes.get("tags"):  # changed since it was recorded
                await correct_tags(self._target, bucket, row, copied)
        elif received is not Received.REMOVED and is_altered(row):
            await self._alter(bucket, row, context)
        return went if received is Received.TAKEN else 0

    def _arriving(self, row: ObjectRow) -> ObjectRow:
        """The row as the target's own begins: without what the rule leaves behind."""
        left = {COMING} | (set() if Travel.LOCKS in self.travels else {"lock"})
        kept = {name: value for name, value in row.attributes.items() if name not in left}
        if Travel.TAGS not in self.travels:
            kept = {name: value for name, value in kept.items() if name != STAMPS} | {"tags": {}}
        return replace(row, attributes=kept)

    async def _alter(self, bucket: Bucket, row: ObjectRow, context: Context) -> None:
        """Give the version there the later changes of its tags, and the lock that it has here."""
        target = self._target
        if Travel.TAGS in self.travels:
            await bring_tags(target, bucket, row, actor=self.actor)
        where = bucket.name, stored_key(row.key), row.version_id
        await self._check_lock(where, context)
        if Travel.LOCKS not in self.travels:
            return
        if lock := await context.locks.get(context.sites[_SOURCE], where):
            await expect_lock(target, bucket, row, lock)
            await context.locks.put(context.sites[_TARGET], where, lock, context.findings)

    async def remove(self, bucket: Bucket, key: str, version_id: str) -> None:
        """Take a version away at the target; ``AccessDenied`` where it is locked there."""
        ground, place = self._target, (bucket.id, key)
        await announce_removal(ground.catalog, place, version_id)
        try:
            await ground.store.delete(bucket.name, stored_key(key), version_id=version_id)
        except AccessDenied:
            await revoke_removal(ground.catalog, place, version_id)
            raise
        gone = Notice(stored_key(key), version_id, removed=True)
        await strike(ground, bucket, gone, is_replica=True, actor=self.actor)

    async def _send(self, bucket: Bucket, row: ObjectRow, context: Context) -> int:
        key = stored_key(row.key)
        if row.is_delete_marker:
            origin = Origin(row.version_id, row.stamp.time_ms)
            await self._target.store.delete(bucket.name, key, origin=origin)
            return 0
        await self._check_lock((bucket.name, key, row.version_id), context)
        copy = Copy(
            key=key,
            source=_SOURCE,
            source_version=row.version_id,
            targets=(Target(_TARGET, ""),),
            version_id=row.version_id,
            mtime_ms=row.stamp.time_ms,
            size_bytes=row.stored_bytes,
            etag=row.etag,
        )
        await bring(copy, context=context)
        return row.stored_bytes

    async def _has(self, bucket: Bucket, row: ObjectRow) -> bool:
        store, key = self._target.store, stored_key(row.key)
        try:
            there = await store.head(bucket.name, key, version_id=row.version_id)
        except NotFound:
            return False
        if there.etag != row.etag:
            raise IntegrityError(
                "one version id has two bodies", bucket=bucket.name, key=row.key, there=there.etag
            )
        return True

    async def _check_lock(self, where: tuple[str, str, str], context: Context) -> None:
        if Travel.LOCKS not in self.travels:
            return
        lock = await context.locks.get(context.sites[_SOURCE], where)
        if lock and not await context.locks.takes(context.sites[_TARGET], where[0]):
            raise Unsupported(
                "the version is locked, and its bucket there has no object lock",
                hint=UNLOCKED,
                bucket=where[0],
                site=self._target.site,
            )

    async def _context(self, bucket: Bucket) -> Context:
        if bucket.name not in self._contexts:
            target = self._target
            if Capability.ORIGIN not in target.capabilities:
                raise Unsupported(
                    "the endpoint there chooses version ids itself, so the sweep brings it",
                    hint="entrepot replicate run RULE",
                    site=target.site,
                )
            if not await target.store.versioned(bucket.name):
                raise Unsupported(
                    "the bucket keeps no versions there",
                    hint=f"mc version enable {target.site}/{bucket.name}",
                )
            self._contexts[bucket.name] = Context(
                sites=(site_of(self.source, _SOURCE), site_of(target, _TARGET)),
                bucket=bucket.name,
                workers=1,
                totals=Totals(),
                findings=Findings(),
                travels=self.travels,
            )
        return self._contexts[bucket.name]


def site_of(ground: Ground, rank: int) -> Site:
    """The site as replication sees it."""
    return Site(ground.site, rank, ground.store, ground.capabilities, streams=ground.streams)
