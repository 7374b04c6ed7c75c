"""What brings versions from one site to another: the stream's carrier.

Both sites are worked on by this process: the version is read from the source's store as it lies
there, and taken in at the target; of adopted buckets by a copy as the sweep makes it. Sites are
opened when they are needed first, so one that is down holds up nobody but the channels that need
it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import ObjectRow, WriteKind
from entrepot.catalog.objects.outbox import Waiting
from entrepot.catalog.objects.read import get_version, history_of, newest_versions
from entrepot.catalog.states import BucketMode
from entrepot.errors import AlreadyExists, BucketNotFound, NotFound, Unsupported
from entrepot.objects.copies import Copier, site_of
from entrepot.objects.forks import Made, fork
from entrepot.objects.ground import Ground
from entrepot.objects.lineage import contender
from entrepot.objects.names import stored_key
from entrepot.objects.receive import SMALL_BYTES, Heed, Received, Receiver
from entrepot.objects.removal import HELD, TAGGED
from entrepot.objects.service import Objects
from entrepot.replication.stream.conflicts import Met, Side
from entrepot.store.protocol import Body, Store, Version
from entrepot.store.retry import RetryStore
from entrepot.store.throttle import Purse, ThrottledStore
from entrepot.terms import Travel, fits

OpenSite = Callable[[str], Awaitable[Objects]]
"""The objects of a site, opened once however often they are asked for."""

NEW = (WriteKind.PUT, WriteKind.COMPLETE)
"""Kinds of events whose version the target has not got in all likelihood."""

WRITTEN = (*NEW, WriteKind.DELETE)
"""Kinds of events that say that somebody wrote the key."""

SEEN = "take-up"
"""The kind of event that says that a version was found in the store of an adopted bucket."""

TAG = "tag"
"""The kind of event that says that a version was given other tags."""

REMOVE = "remove"
"""The kind of event that says that a version was taken away for good."""


@dataclass(frozen=True, slots=True)
class Travels:
    """What of a rule's buckets goes to its other sites, beside the objects themselves; of objects
    those that bear the tags of ``tag_filter``.
    """

    delete_markers: bool = True
    removals: bool = False
    tags: bool = True
    locks: bool = True
    tag_filter: Mapping[str, str] = field(default_factory=dict)


class Shipping:
    """One direction of a rule; see ``replication.stream.channel.Carrier``.

    ``met`` is told of conflicts; ``purse`` is asked before each request that brings something, and
    for the bytes.
    """

    def __init__(
        self,
        open_site: OpenSite,
        *,
        source: str,
        target: str,
        rule: str,
        travels: Travels = Travels(),
        met: Met | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._open_site = open_site
        self._met = met
        self._purse = purse
        self._grounds: dict[str, tuple[Ground, Ground]] = {}
        self._names = source, target
        self._travels = travels
        self._actor = f"stream of {rule} from {source}"
        self._receiver: Receiver | None = None
        self._copier: Copier | None = None

    async def source(self) -> Catalog:
        """The catalog whose outbox is worked off."""
        return (await self._open_site(self._names[0])).ground.catalog

    async def secure(self) -> None:
        """Return when all that was carried is on the target's disk."""
        await (await self._open_site(self._names[1])).ground.catalog.secure()

    async def ready(self) -> None:
        """Return where stores and catalogs of both sites can be reached."""
        for name in self._names:
            ground = (await self._open_site(name)).ground
            await ground.store.buckets()
            await newest_versions(ground.catalog, [])

    async def carry(self, item: Waiting) -> int:
        """Make the target have the version as it is at the source now; the bytes that went."""
        if item.bucket is None or not self._goes(item):  # dropped, and all that was in it
            return 0
        source = await self._ground(self._names[0])
        receiver = await self._to()
        bucket = await _bucket_of(receiver.ground, item, await source.bucket(item.bucket))
        row = item.row
        if row is not None and not await self._fits(source, receiver.ground, bucket, row):
            return 0
        if bucket.mode is BucketMode.ADOPTED:
            copier = self._copying(source, receiver)
            if row is not None:
                await self._meet(item, source, receiver.ground, bucket)
                return await copier.copy(bucket, row)
            await copier.remove(bucket, item.key, item.version_id)
        elif row is not None:
            row = _travelling(row, self._travels)
            return await self._send(source, receiver, bucket, row, item)
        else:
            await receiver.remove(bucket, item.key, item.version_id)
        return 0

    def _goes(self, item: Waiting) -> bool:
        """Whether the rule lets it travel, and there is something to do."""
        row, travels = item.row, self._travels
        if row is None:
            return item.kind == REMOVE and travels.removals
        return not row.is_quarantined and (travels.delete_markers or not row.is_delete_marker)

    async def _fits(self, source: Ground, target: Ground, bucket: Bucket, row: ObjectRow) -> bool:
        """Whether the version is of the rule: its tags fit here, or those of its copy there did
        until now, which is told how they have changed.
        """
        wanted = self._travels.tag_filter
        if not wanted or row.is_delete_marker:
            return True
        if bucket.mode is BucketMode.ADOPTED:
            name = bucket.name, stored_key(row.key), row.version_id
            return any([fits(await _tags(each, *name), wanted) for each in (source, target)])
        if fits(row.attributes.get("tags", {}), wanted):
            return True
        there = await get_version(
            target.catalog, bucket_id=bucket.id, key=row.key, version_id=row.version_id
        )
        return there is not None and fits(there.attributes.get("tags", {}), wanted)

    async def _meet(self, item: Waiting, source: Ground, target: Ground, bucket: Bucket) -> None:
        """Tell of a conflict over a key of an adopted bucket, before a version of it is brought."""
        if self._met is None or not (item.kind == SEEN or self._travels.tag_filter):
            return
        assert item.bucket is not None
        name, where = stored_key(item.key), (source, await source.bucket(item.bucket))
        found = await fork(where, (target, bucket), name, counts=self._counts)
        if found is not None:
            await self._met(bucket.name, name, *map(_side_of, found))

    async def _counts(self, ground: Ground, bucket: Bucket, version: Version) -> bool:
        """Whether a stored version of an adopted bucket is of the rule."""
        if version.is_delete_marker:
            return self._travels.delete_markers
        wanted = self._travels.tag_filter
        name = bucket.name, version.key, version.version_id
        return not wanted or fits(await _tags(ground, *name), wanted)

    def _copying(self, source: Ground, receiver: Receiver) -> Copier:
        copier = self._copier
        if copier is None or copier.source is not source or copier.receiver is not receiver:
            what = {Travel.TAGS: self._travels.tags, Travel.LOCKS: self._travels.locks}
            travels = frozenset(each for each, goes in what.items() if goes)
            copier = self._copier = Copier(source, receiver, travels, self._actor)
        return copier

    async def _send(
        self, source: Ground, receiver: Receiver, target: Bucket, row: ObjectRow, item: Waiting
    ) -> int:
        def opener() -> AbstractAsyncContextManager[Body]:
            return _stored(source, target.name, row)

        is_new = item.kind in NEW
        received = await receiver.receive(
            target, row, opener, at_once=is_new, heed=self._heed(item, row, target)
        )
        went = received in (Received.TAKEN, Received.QUARANTINED)
        return row.stored_bytes if went else 0

    def _heed(self, item: Waiting, row: ObjectRow, target: Bucket) -> Heed | None:
        """What looks for a conflict once the version is there."""
        met = self._met
        # A version that begins to fit arrives as one that was just written.
        written = (*WRITTEN, TAG) if self._travels.tag_filter else WRITTEN
        if met is None or item.kind not in written:
            return None

        async def heed(before: ObjectRow | None) -> None:
            source, here = [await self._ground(name) for name in self._names]
            if before is None or not self._is_meant(before):
                before = await self._before(here, target, row)
            # Whoever lost to a write tells of it where it was made: once, then.
            if before is None or before.stamp.site != here.site:
                return
            history = await history_of(source.catalog, bucket_id=item.bucket_id, key=row.key)
            if (served := contender(row, before, history)) is not None:
                served = served if self._is_meant(served) else row
                sides = _side(source, served), _side(here, before)
                await met(target.name, stored_key(row.key), *sides)

        return heed

    def _is_meant(self, row: ObjectRow) -> bool:
        """Whether a version of a managed bucket is of the rule, by its row alone."""
        if row.is_delete_marker:
            return self._travels.delete_markers
        return fits(row.attributes.get("tags", {}), self._travels.tag_filter)

    async def _before(self, here: Ground, bucket: Bucket, row: ObjectRow) -> ObjectRow | None:
        """The newest of the target's own writes that are older than a version which came earlier,
        or came above something that the rule is not about.
        """
        known = await history_of(here.catalog, bucket_id=bucket.id, key=row.key)
        mine = [each for each in known if not each.is_quarantined and self._is_meant(each)]
        older = (each for each in mine if each.stamp < row.stamp)
        is_served = any(each.stamp == row.stamp for each in mine)
        own = (each for each in older if each.stamp.site == here.site)
        return next(own, None) if is_served else None

    async def _ground(self, name: str) -> Ground:
        """The site, whose store is paid for where the rule has limits."""
        ground = (await self._open_site(name)).ground
        if self._purse is None:
            return ground
        if name not in self._grounds or self._grounds[name][0] is not ground:
            self._grounds[name] = ground, ground.through(_paid(ground.store, self._purse))
        return self._grounds[name][1]

    async def _to(self) -> Receiver:
        ground = await self._ground(self._names[1])
        if self._receiver is None or self._receiver.ground is not ground:
            self._receiver = Receiver(ground, actor=self._actor)
        return self._receiver


@asynccontextmanager
async def _stored(source: Ground, bucket: str, row: ObjectRow) -> AsyncIterator[Body]:
    """The stored bytes; what is not read whole takes a turn (``Site.streams``)."""
    turn = nullcontext() if row.stored_bytes <= SMALL_BYTES else source.streams
    opened = source.store.get(bucket, stored_key(row.key), version_id=row.version_id)
    async with turn, opened as body:
        yield body


async def _tags(ground: Ground, bucket: str, name: str, version_id: str) -> Mapping[str, str]:
    """The tags of a version in the store; none where it is not there."""
    try:
        return await ground.store.tags(bucket, name, version_id=version_id)
    except BucketNotFound:
        raise
    except NotFound:
        return {}


def _paid(store: Store, purse: Purse) -> Store:
    """Each try is paid for."""
    if isinstance(store, RetryStore):
        return store.over(lambda below: ThrottledStore(below, purse))
    return ThrottledStore(store, purse)


def _side_of(made: Made) -> Side:
    version = made.version
    site = site_of(made.ground, 0)
    return Side(site, version.version_id, version.mtime_ms, version.is_delete_marker)


def _side(ground: Ground, row: ObjectRow) -> Side:
    return Side(site_of(ground, 0), row.version_id, row.stamp.time_ms, row.is_delete_marker)


async def _bucket_of(ground: Ground, item: Waiting, source: Bucket) -> Bucket:
    """The bucket at the target; refused where its objects could not be read there."""
    bucket = await ground.bucket(source.name)
    if bucket.mode is not source.mode:
        raise Unsupported(
            "the bucket is managed at one site and adopted at the other",
            site=ground.site,
            bucket=bucket.name,
        )
    if bucket.tenant_id != item.tenant_id:
        raise AlreadyExists(
            "the bucket belongs to another tenant there", site=ground.site, bucket=bucket.name
        )
    return bucket


def _travelling(row: ObjectRow, travels: Travels) -> ObjectRow:
    """The row without what the rule leaves behind."""
    left = set() if travels.tags else {"tags", TAGGED}
    left |= set() if travels.locks else {"lock", HELD}
    kept = {name: value for name, value in row.attributes.items() if name not in left}
    return replace(row, attributes=kept)
