"""A store made of an index (names, order, attributes) and extents (bytes): all but the medium.

``MemoryStore`` and ``LocalStore`` say where extents live and on which thread the index is asked.
Bytes are received first, under a name nobody knows; the index then makes version, attributes and
bytes visible in one transaction. Whatever fails before leaves nothing to be seen.

Time: a version without an origin gets the injected clock's time at its commit.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from entrepot.errors import IntegrityError, InvalidInput
from entrepot.store import check
from entrepot.store.indexed_buckets import IndexedBuckets
from entrepot.store.protocol import (
    NULL_VERSION,
    PAGE_MAX,
    Attributes,
    Body,
    Item,
    Origin,
    Page,
    Source,
    Version,
)
from entrepot.store.records import Condition, Stored, dump, dump_lock, load, load_lock, lock_of


class IndexedStore(IndexedBuckets):
    """Adds ``ObjectStore``."""

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
        crc32c: Callable[[], int] | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Version:
        attributes = attributes or Attributes()
        check.check_attributes(attributes)
        await self._reach(bucket, key, origin)
        if crc32c is not None:
            size_bytes = check.body_size(source, size_bytes)
            source = check.proved(source, crc32c)
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
                Stored(version, (extent,), lock=lock_of(origin)),
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
        bypass: bool = False,
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
        unused = await self._ask(
            self._index.remove, bucket, key, gone, now=self._clock.now(), bypass=bypass
        )
        await self._extents.remove(unused)
        return None

    async def copy(
        self,
        bucket: str,
        key: str,
        *,
        source: tuple[str, str, str | None],
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> Version:
        check.check_copy((bucket, key), source, attributes)
        found = await self._find(*source)
        size_bytes = found.version.size_bytes
        async with aclosing(self._pieces(found, 0, size_bytes)) as pieces:
            return await self.put(
                bucket,
                key,
                pieces,
                size_bytes=size_bytes,
                attributes=attributes or found.version.attributes,
                origin=origin,
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
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncIterator[Page]:
        check.check_page_size(page_size)
        lower, last = after.encode() + b"\0" if after else b"", None
        while True:
            found = await self._ask(
                self._index.page, bucket, prefix=prefix, lower=lower, last=last, limit=page_size
            )
            if found:
                yield _detailed(found) if details else _page([each.version for each in found])
            if len(found) < page_size:
                return
            last = found[-1]
            lower = last.version.key.encode()


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


def _detailed(found: Sequence[Stored]) -> Page:
    tokens = [
        json.dumps(
            (_token(one.version).decode(), dump(one.version.attributes), dump_lock(one.lock))
            if one.version.attributes and not one.version.is_delete_marker
            else (_token(one.version).decode(),)
        ).encode()
        for one in found
    ]
    return Page(tokens=tokens, decode=_detailed_version)


def _detailed_version(token: bytes) -> Version:
    plain, *details = json.loads(token)
    version = _version(plain.encode())
    if not details:
        return version
    attributes = load(details[0])
    attributes = replace(attributes, tag_count=len(attributes.tags))
    return replace(version, attributes=attributes, lock=load_lock(details[1]))
