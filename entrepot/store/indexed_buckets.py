"""Buckets, multipart uploads, tags and locks of a store made of an index and extents.

This is the second protocol, and what it shares with the first, which ``IndexedStore`` adds.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.errors import InvalidInput, Unsupported
from entrepot.store import check
from entrepot.store.index import Index
from entrepot.store.lifecycle import Expiry
from entrepot.store.protocol import (
    Attributes,
    BucketInfo,
    Lock,
    LockMode,
    Origin,
    Part,
    Source,
    Upload,
    Version,
)
from entrepot.store.records import Change, Extent, Stored, lock_of, moment
from entrepot.store.settings import Setting, canonical

PARTS_MAX = 10_000
_NONE = (Setting.LOCK, Setting.LIFECYCLE, Setting.NOTIFICATION)
"""Nothing here locks, expires or tells by itself."""
"""Most parts of one upload, as S3 has it."""

P = ParamSpec("P")
T = TypeVar("T")


class Extents(Protocol):
    """Where the bytes are."""

    async def write(self, pieces: AsyncIterator[bytes]) -> Extent:
        """Receive bytes under a new name, durable but not yet published."""
        ...

    def publish(self, name: str) -> None:
        """Make a received extent final; called inside the index's transaction."""
        ...

    async def discard(self, name: str) -> None:
        """Drop an extent that was received and not published, if it is still there."""
        ...

    async def remove(self, names: Iterable[str]) -> None:
        """Drop published extents."""
        ...

    def read(self, extent: Extent, *, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Its bytes from ``start`` to ``stop`` (exclusive), in pieces."""
        ...


class IndexedBuckets:
    """Implements ``BucketStore`` over an ``Index`` and ``Extents``."""

    def __init__(self, index: Index, extents: Extents, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._index = index
        self._extents = extents
        self._clock = clock

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call of the index; a store on disk does it on a thread."""
        return call(*args, **kwargs)

    async def close(self) -> None:
        await self._ask(self._index.close)

    # Buckets

    async def create(self, bucket: str, *, versioned: bool = True, locked: bool = False) -> None:
        check.check_bucket(bucket)
        await self._ask(
            self._index.create, bucket, versioned=versioned, locked=locked, now_ms=self._now_ms()
        )

    async def drop(self, bucket: str) -> None:
        await self._extents.remove(await self._ask(self._index.drop, bucket))

    async def buckets(self) -> tuple[BucketInfo, ...]:
        rows = await self._ask(self._index.buckets)
        return tuple(BucketInfo(name, moment(created_ms)) for name, created_ms in rows)

    async def versioned(self, bucket: str) -> bool:
        return await self._ask(self._index.versioned, bucket)

    async def setting(self, bucket: str, name: Setting) -> str:
        await self._ask(self._index.versioned, bucket)
        if name in _NONE:
            raise Unsupported("store has no such setting", setting=name)
        return await self._ask(self._index.setting, bucket, name)

    async def configure(self, bucket: str, name: Setting, document: str) -> None:
        await self._ask(self._index.versioned, bucket)
        if name in _NONE:
            raise Unsupported("store has no such setting", setting=name)
        await self._ask(self._index.configure, bucket, name, canonical(name, document))

    async def lifecycle(self, bucket: str) -> tuple[Expiry, ...]:
        await self.versioned(bucket)
        return ()

    # Multipart uploads

    async def start(
        self,
        bucket: str,
        key: str,
        *,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> str:
        attributes = attributes or Attributes()
        check.check_attributes(attributes)
        await self._reach(bucket, key, origin)
        upload_id = new_id().hex
        await self._ask(
            self._index.start,
            bucket,
            key,
            upload_id,
            attributes,
            version_id=origin.version_id if origin else "",
            now_ms=self._now_ms(),
        )
        return upload_id

    async def part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source: Source,
        *,
        size_bytes: int | None = None,
        crc32c: Callable[[], int] | None = None,
    ) -> Part:
        if not 1 <= number <= PARTS_MAX:
            raise InvalidInput(f"part number must be 1 to {PARTS_MAX}", number=number)
        await self._ask(self._index.upload, bucket, key, upload_id)
        if crc32c is not None:
            size_bytes = check.body_size(source, size_bytes)
            source = check.proved(source, crc32c)
        extent = await self._receive(source, size_bytes)
        try:
            publish = partial(self._extents.publish, extent.name)
            unused = await self._ask(self._index.add_part, upload_id, number, extent, publish)
        finally:
            await self._extents.discard(extent.name)
        await self._extents.remove(unused)
        return Part(number, extent.md5, extent.size_bytes)

    async def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: tuple[Part, ...],
        *,
        origin: Origin | None = None,
    ) -> Version:
        check.check_origin(origin)
        chosen_id, attributes = await self._ask(self._index.upload, bucket, key, upload_id)
        if chosen_id != (origin.version_id if origin else ""):
            raise InvalidInput("an upload keeps the origin it was started with", upload=upload_id)
        draft = replace(
            self._draft(key, origin), attributes=attributes, etag=origin.etag if origin else ""
        )
        change = await self._ask(
            self._index.complete,
            bucket,
            upload_id,
            Stored(draft, lock=lock_of(origin)),
            parts,
            chosen=origin is not None,
        )
        return await self._settle(change)

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        await self._reach(bucket, key)
        await self._extents.remove(await self._ask(self._index.abort, upload_id))

    async def parts(self, bucket: str, key: str, upload_id: str) -> tuple[Part, ...]:
        return await self._ask(self._index.parts, bucket, key, upload_id)

    async def uploads(self, bucket: str, *, prefix: str = "") -> tuple[Upload, ...]:
        return await self._ask(self._index.uploads, bucket, prefix)

    # Tags and locks

    async def tags(
        self, bucket: str, key: str, *, version_id: str | None = None
    ) -> Mapping[str, str]:
        found = await self._find(bucket, key, version_id)
        return dict(found.version.attributes.tags) if found.version.attributes else {}

    async def tag(
        self, bucket: str, key: str, tags: Mapping[str, str], *, version_id: str | None = None
    ) -> None:
        check.check_key(key)
        check.check_tags(tags)
        await self._ask(self._index.tag, bucket, key, version_id, tags)

    async def lock(self, bucket: str, key: str, *, version_id: str | None = None) -> Lock:
        check.check_key(key)
        return (await self._ask(self._index.lockable, bucket, key, version_id)).lock

    async def retain(
        self,
        bucket: str,
        key: str,
        *,
        mode: LockMode | None,
        until: datetime | None,
        version_id: str | None = None,
        bypass: bool = False,
    ) -> None:
        check.check_key(key)
        check.check_retention(mode, until)
        await self._ask(
            self._index.retain,
            bucket,
            key,
            version_id,
            mode=mode,
            until=until,
            now=self._clock.now(),
            bypass=bypass,
        )

    async def hold(self, bucket: str, key: str, on: bool, *, version_id: str | None = None) -> None:
        check.check_key(key)
        await self._ask(self._index.hold, bucket, key, version_id, on)

    # Pieces of the above

    async def _reach(self, bucket: str, key: str, origin: Origin | None = None) -> bool:
        """Refuse a wrong key or origin and a missing bucket; tells whether it is versioned."""
        check.check_key(key)
        check.check_origin(origin)
        return await self._ask(self._index.versioned, bucket)

    async def _find(self, bucket: str, key: str, version_id: str | None) -> Stored:
        check.check_key(key)
        return await self._ask(self._index.find, bucket, key, version_id)

    async def _receive(self, source: Source, size_bytes: int | None) -> Extent:
        async with aclosing(check.measured(source, check.body_size(source, size_bytes))) as pieces:
            return await self._extents.write(pieces)

    async def _settle(self, change: Change) -> Version:
        await self._extents.remove(change.unused)
        return replace(change.version, attributes=None)

    async def _pieces(self, found: Stored, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        offset = 0
        for extent in found.extents:
            low, high = max(start - offset, 0), min(stop - offset, extent.size_bytes)
            if low < high:
                async with aclosing(self._extents.read(extent, start=low, stop=high)) as pieces:
                    async for piece in pieces:
                        yield piece
            offset += extent.size_bytes

    def _draft(self, key: str, origin: Origin | None) -> Version:
        if origin:
            return Version(key=key, version_id=origin.version_id, mtime_ms=origin.mtime_ms)
        return Version(key=key, version_id=str(new_id()), mtime_ms=self._now_ms())

    def _now_ms(self) -> int:
        return round(self._clock.now().timestamp() * 1000)
