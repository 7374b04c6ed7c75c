"""A store made of an index (names, order, attributes) and extents (bytes): all but the medium.

``MemoryStore`` and ``LocalStore`` say where extents live and on which thread the index is asked.
Bytes are received first, under a name nobody knows; the index then makes version, attributes and
bytes visible in one transaction. Whatever fails before leaves nothing to be seen.

Time: a version without an origin gets the injected clock's time at its commit.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.errors import IntegrityError, InvalidInput
from entrepot.store import check
from entrepot.store.index import Index
from entrepot.store.protocol import (
    NULL_VERSION,
    PAGE_MAX,
    Attributes,
    Body,
    BucketInfo,
    Item,
    Origin,
    Page,
    Part,
    Source,
    Version,
    body_size,
)
from entrepot.store.records import Change, Condition, Extent, Stored

PARTS_MAX = 10_000
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


class IndexedStore:
    """Implements ``ObjectStore`` and ``BucketStore`` over an ``Index`` and ``Extents``."""

    def __init__(self, index: Index, extents: Extents, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._index = index
        self._extents = extents
        self._clock = clock

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call of the index; a store on disk does it on a thread."""
        return call(*args, **kwargs)

    async def close(self) -> None:
        await self._ask(self._index.close)

    # Objects

    async def put(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        size_bytes: int | None = None,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
        md5: bytes | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Version:
        attributes = attributes or Attributes()
        check.check_attributes(attributes)
        await self._reach(bucket, key, origin)
        extent = await self._receive(source, size_bytes)
        try:
            if md5 is not None and md5.hex() != extent.md5:
                raise IntegrityError("bytes do not match their md5", bucket=bucket, key=key)
            etag = (origin.etag if origin else "") or extent.md5
            version = replace(
                self._draft(key, origin),
                size_bytes=extent.size_bytes,
                etag=etag,
                attributes=attributes,
            )
            change = await self._ask(
                self._index.add,
                bucket,
                Stored(version, (extent,)),
                chosen=origin is not None,
                condition=Condition(if_match=if_match, if_none_match=if_none_match),
                publish=partial(self._extents.publish, extent.name),
            )
        finally:
            await self._extents.discard(extent.name)
        return await self._settle(change)

    async def batch(self, bucket: str, items: Sequence[Item]) -> Sequence[Item]:
        for item in items:
            await self.put(
                bucket, item.key, item.body, attributes=item.attributes, origin=item.origin
            )
        return []

    @asynccontextmanager
    async def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        stop: int | None = None,
        part: int | None = None,
    ) -> AsyncGenerator[Body, None]:
        found = await self._find(bucket, key, version_id)
        if part is not None:
            start, stop = _part_range(found, part, start, stop)
        start, stop = check.byte_range(found.version.size_bytes, start, stop)
        async with aclosing(self._pieces(found, start, stop)) as pieces:
            yield _Body(_without_tags(found.version), stop - start, pieces)

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> Version:
        return _without_tags((await self._find(bucket, key, version_id)).version)

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        origin: Origin | None = None,
    ) -> Version | None:
        if version_id is not None and origin is not None:
            raise InvalidInput("removing a version takes no origin", bucket=bucket, key=key)
        versioned = await self._reach(bucket, key, origin)
        if version_id is None and versioned:
            marker = replace(self._draft(key, origin), is_delete_marker=True)
            change = await self._ask(
                self._index.add, bucket, Stored(marker), chosen=origin is not None
            )
            return await self._settle(change)
        gone = version_id if version_id is not None else NULL_VERSION
        await self._extents.remove(await self._ask(self._index.remove, bucket, key, gone))
        return None

    async def copy(self, bucket: str, key: str, *, source: tuple[str, str, str | None]) -> Version:
        found = await self._find(*source)
        size_bytes = found.version.size_bytes
        async with aclosing(self._pieces(found, 0, size_bytes)) as pieces:
            return await self.put(
                bucket, key, pieces, size_bytes=size_bytes, attributes=found.version.attributes
            )

    async def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncIterator[Page]:
        check.check_page_size(page_size)
        while True:
            entries = await self._ask(
                self._index.page_current,
                bucket,
                prefix=prefix,
                after=after,
                delimiter=delimiter,
                limit=page_size,
            )
            if entries:
                yield _page(entries)
            if len(entries) < page_size:
                return
            after = entries[-1].key

    async def versions(
        self, bucket: str, *, prefix: str = "", after: str = "", page_size: int = PAGE_MAX
    ) -> AsyncIterator[Page]:
        check.check_page_size(page_size)
        lower, last = after.encode() + b"\0" if after else b"", None
        while True:
            found = await self._ask(
                self._index.page, bucket, prefix=prefix, lower=lower, last=last, limit=page_size
            )
            if found:
                yield _page([stored.version for stored in found])
            if len(found) < page_size:
                return
            last = found[-1]
            lower = last.version.key.encode()

    # Buckets

    async def create(self, bucket: str, *, versioned: bool = True) -> None:
        check.check_bucket(bucket)
        await self._ask(self._index.create, bucket, versioned=versioned, now_ms=self._now_ms())

    async def drop(self, bucket: str) -> None:
        await self._extents.remove(await self._ask(self._index.drop, bucket))

    async def buckets(self) -> tuple[BucketInfo, ...]:
        rows = await self._ask(self._index.buckets)
        return tuple(
            BucketInfo(name, datetime.fromtimestamp(created_ms / 1000, UTC))
            for name, created_ms in rows
        )

    async def versioned(self, bucket: str) -> bool:
        return await self._ask(self._index.versioned, bucket)

    # Multipart uploads and tags

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
        chosen_id = origin.version_id if origin else ""
        await self._ask(self._index.start, bucket, key, upload_id, attributes, chosen_id)
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
    ) -> Part:
        if not 1 <= number <= PARTS_MAX:
            raise InvalidInput(f"part number must be 1 to {PARTS_MAX}", number=number)
        await self._ask(self._index.upload, bucket, key, upload_id)
        extent = await self._receive(source, size_bytes)
        try:
            publish = partial(self._extents.publish, extent.name)
            unused = await self._ask(self._index.add_part, upload_id, number, extent, publish)
        finally:
            await self._extents.discard(extent.name)
        await self._extents.remove(unused)
        return Part(number, extent.md5)

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
            self._index.complete, bucket, upload_id, draft, parts, chosen=origin is not None
        )
        return await self._settle(change)

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        await self._reach(bucket, key)
        await self._extents.remove(await self._ask(self._index.abort, upload_id))

    async def tags(
        self, bucket: str, key: str, *, version_id: str | None = None
    ) -> Mapping[str, str]:
        found = await self._find(bucket, key, version_id)
        return dict(found.version.attributes.tags) if found.version.attributes else {}

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
        async with aclosing(check.measured(source, body_size(source, size_bytes))) as pieces:
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


@dataclass(slots=True)
class _Body:
    version: Version
    length: int
    pieces: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.pieces

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.pieces])


def _part_range(found: Stored, part: int, start: int, stop: int | None) -> tuple[int, int | None]:
    sizes = [extent.size_bytes for extent in found.extents]
    if (start, stop) != (0, None) or not 1 <= part <= len(sizes):
        raise InvalidInput("part is not there, or given with a range", part=part)
    first = sum(sizes[: part - 1])
    return first, (first + sizes[part - 1]) or None


def _without_tags(version: Version) -> Version:
    kept = version.attributes or Attributes()
    return replace(version, attributes=replace(kept, tags={}, tag_count=len(kept.tags)))


def _page(versions: Sequence[Version]) -> Page:
    return Page(tokens=[_token(version) for version in versions], decode=_version)


def _token(version: Version) -> bytes:
    return json.dumps(
        (
            version.key,
            version.version_id,
            version.mtime_ms,
            version.size_bytes,
            version.etag,
            version.is_current,
            version.is_delete_marker,
        ),
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def _version(token: bytes) -> Version:
    return Version(*json.loads(token))
