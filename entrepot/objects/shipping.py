"""What brings versions from one site to another: the stream's carrier.

Both sites are worked on by this process: the version is read from the source's store as it lies
there, and taken in at the target; of adopted buckets by a copy as the sweep makes it. Sites are
opened when they are needed first, so one that is down holds up nobody but the channels that need
it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import ObjectRow, WriteKind
from entrepot.catalog.objects.outbox import Waiting
from entrepot.catalog.objects.read import history_of, newest_versions
from entrepot.catalog.states import BucketMode
from entrepot.errors import AlreadyExists, Unsupported
from entrepot.objects.copies import Copier, site_of
from entrepot.objects.ground import Ground
from entrepot.objects.lineage import contender
from entrepot.objects.names import stored_key
from entrepot.objects.receive import SMALL_BYTES, Heed, Received, Receiver
from entrepot.objects.removal import HELD, TAGGED
from entrepot.objects.service import Objects
from entrepot.replication.stream.conflicts import Met, Side
from entrepot.store.protocol import Body, Store
from entrepot.store.retry import RetryStore
from entrepot.store.throttle import Purse, ThrottledStore
from entrepot.terms import Travel

OpenSite = Callable[[str], Awaitable[Objects]]
"""The objects of a site, opened once however often they are asked for."""

NEW = (WriteKind.PUT, WriteKind.COMPLETE)
"""Kinds of events whose version the target has not got in all likelihood."""

WRITTEN = (*NEW, WriteKind.DELETE)
"""Kinds of events that say that somebody wrote the key."""

REMOVE = "remove"
"""The kind of event that says that a version was taken away for good."""


@dataclass(frozen=True, slots=True)
class Travels:
    """What of a rule's buckets goes to its other sites, beside the objects themselves."""

    delete_markers: bool = True
    removals: bool = False
    tags: bool = True
    locks: bool = True


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
        if bucket.mode is BucketMode.ADOPTED:
            copier = self._copying(source, receiver)
            if row is not None:
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
        if met is None or item.kind not in WRITTEN:
            return None

        async def heed(before: ObjectRow | None) -> None:
            source, here = [await self._ground(name) for name in self._names]
            before = before or await _before(here, target, row)
            # Whoever lost to a write tells of it where it was made: once, then.
            if before is None or before.stamp.site != here.site:
                return
            if before.is_delete_marker and not self._travels.delete_markers:
                return
            history = await history_of(source.catalog, bucket_id=item.bucket_id, key=row.key)
            if (served := contender(row, before, history)) is not None:
                sides = _side(source, served), _side(here, before)
                await met(target.name, stored_key(row.key), *sides)

        return heed

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


def _paid(store: Store, purse: Purse) -> Store:
    """Each try is paid for."""
    if isinstance(store, RetryStore):
        return store.over(lambda below: ThrottledStore(below, purse))
    return ThrottledStore(store, purse)


async def _before(ground: Ground, bucket: Bucket, row: ObjectRow) -> ObjectRow | None:
    """The newest of the site's own writes that are older than a version which came earlier."""
    known = await history_of(ground.catalog, bucket_id=bucket.id, key=row.key)
    older = (each for each in known if each.stamp < row.stamp and not each.is_quarantined)
    is_served = any(each.stamp == row.stamp and not each.is_quarantined for each in known)
    own = (each for each in older if each.stamp.site == ground.site)
    return next(own, None) if is_served else None


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
