"""The base of every wrapper: a store that hands each verb on to another store.

Retry, faults, limits and metrics override ``_around``, which sees each call that answers once,
and the three that answer in pieces (``get``, ``list``, ``versions``) where they care.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar

from entrepot.store.lifecycle import Expiry
from entrepot.store.protocol import (
    PAGE_MAX,
    Attributes,
    Body,
    BucketInfo,
    Item,
    Lock,
    LockMode,
    Origin,
    Page,
    Part,
    Source,
    Store,
    Upload,
    Version,
)
from entrepot.store.settings import Setting

T = TypeVar("T")


class Again(Enum):
    """When a call may be made a second time."""

    ALWAYS = "always"  # twice ends as once, but for a twin version
    UNDONE = "undone"  # only if the endpoint said that it did nothing
    NEVER = "never"  # the body is spent


@dataclass(frozen=True, slots=True)
class Replay:
    """A body that can be had again: ``open`` gives its pieces from the start each time."""

    open: Callable[[], AsyncIterator[bytes]]


def _opened(source: Source | Replay) -> Source:
    return source.open() if isinstance(source, Replay) else source


def _again(source: Source | Replay, *, conditional: bool = False) -> Again:
    if not isinstance(source, bytes | Replay):
        return Again.NEVER
    return Again.UNDONE if conditional else Again.ALWAYS


class StoreWrapper:
    """Implements ``Store`` by asking ``store``; closing it closes ``store``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        """Run one call; the place to try it again, count it or break it."""
        del verb, again
        return await call()

    async def put(
        self,
        bucket: str,
        key: str,
        source: Source | Replay,
        *,
        size_bytes: int | None = None,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
        md5: bytes | None = None,
        crc32c: Callable[[], int] | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Version:
        return await self._around(
            "put",
            lambda: self._store.put(
                bucket,
                key,
                _opened(source),
                size_bytes=size_bytes,
                attributes=attributes,
                origin=origin,
                md5=md5,
                crc32c=crc32c,
                if_match=if_match,
                if_none_match=if_none_match,
            ),
            again=_again(source, conditional=if_match is not None or if_none_match),
        )

    async def batch(self, bucket: str, items: Sequence[Item]) -> Sequence[Item]:
        return await self._around(
            "batch", lambda: self._store.batch(bucket, items), again=Again.ALWAYS
        )

    def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        stop: int | None = None,
        part: int | None = None,
    ) -> AbstractAsyncContextManager[Body]:
        return self._store.get(
            bucket, key, version_id=version_id, start=start, stop=stop, part=part
        )

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> Version:
        return await self._around(
            "head", lambda: self._store.head(bucket, key, version_id=version_id), again=Again.ALWAYS
        )

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        origin: Origin | None = None,
        bypass: bool = False,
    ) -> Version | None:
        return await self._around(
            "delete",
            lambda: self._store.delete(
                bucket, key, version_id=version_id, origin=origin, bypass=bypass
            ),
            again=Again.ALWAYS,
        )

    async def copy(
        self,
        bucket: str,
        key: str,
        *,
        source: tuple[str, str, str | None],
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> Version:
        return await self._around(
            "copy",
            lambda: self._store.copy(
                bucket, key, source=source, attributes=attributes, origin=origin
            ),
            again=Again.ALWAYS,
        )

    def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncIterator[Page]:
        return self._store.list(
            bucket, prefix=prefix, after=after, delimiter=delimiter, page_size=page_size
        )

    def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncIterator[Page]:
        return self._store.versions(
            bucket, prefix=prefix, after=after, page_size=page_size, details=details
        )

    async def close(self) -> None:
        await self._store.close()

    async def create(self, bucket: str, *, versioned: bool = True, locked: bool = False) -> None:
        await self._around(
            "create",
            lambda: self._store.create(bucket, versioned=versioned, locked=locked),
            again=Again.UNDONE,
        )

    async def drop(self, bucket: str) -> None:
        await self._around("drop", lambda: self._store.drop(bucket), again=Again.UNDONE)

    async def buckets(self) -> tuple[BucketInfo, ...]:
        return await self._around("buckets", self._store.buckets, again=Again.ALWAYS)

    async def lifecycle(self, bucket: str) -> tuple[Expiry, ...]:
        return await self._around(
            "lifecycle", lambda: self._store.lifecycle(bucket), again=Again.ALWAYS
        )

    async def versioned(self, bucket: str) -> bool:
        return await self._around(
            "versioned", lambda: self._store.versioned(bucket), again=Again.ALWAYS
        )

    async def setting(self, bucket: str, name: Setting) -> str:
        return await self._around(
            "setting", lambda: self._store.setting(bucket, name), again=Again.ALWAYS
        )

    async def configure(self, bucket: str, name: Setting, document: str) -> None:
        await self._around(
            "configure",
            lambda: self._store.configure(bucket, name, document),
            again=Again.ALWAYS,
        )

    async def start(
        self,
        bucket: str,
        key: str,
        *,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> str:
        return await self._around(
            "start",
            lambda: self._store.start(bucket, key, attributes=attributes, origin=origin),
            again=Again.ALWAYS,
        )

    async def part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source: Source | Replay,
        *,
        size_bytes: int | None = None,
        crc32c: Callable[[], int] | None = None,
    ) -> Part:
        return await self._around(
            "part",
            lambda: self._store.part(
                bucket,
                key,
                upload_id,
                number,
                _opened(source),
                size_bytes=size_bytes,
                crc32c=crc32c,
            ),
            again=_again(source),
        )

    async def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: tuple[Part, ...],
        *,
        origin: Origin | None = None,
    ) -> Version:
        return await self._around(
            "complete",
            lambda: self._store.complete(bucket, key, upload_id, parts, origin=origin),
            again=Again.UNDONE,
        )

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        await self._around(
            "abort", lambda: self._store.abort(bucket, key, upload_id), again=Again.ALWAYS
        )

    async def tags(
        self, bucket: str, key: str, *, version_id: str | None = None
    ) -> Mapping[str, str]:
        return await self._around(
            "tags", lambda: self._store.tags(bucket, key, version_id=version_id), again=Again.ALWAYS
        )

    async def tag(
        self, bucket: str, key: str, tags: Mapping[str, str], *, version_id: str | None = None
    ) -> None:
        await self._around(
            "tag",
            lambda: self._store.tag(bucket, key, tags, version_id=version_id),
            again=Again.ALWAYS,
        )

    async def parts(self, bucket: str, key: str, upload_id: str) -> tuple[Part, ...]:
        return await self._around(
            "parts", lambda: self._store.parts(bucket, key, upload_id), again=Again.ALWAYS
        )

    async def uploads(self, bucket: str, *, prefix: str = "") -> tuple[Upload, ...]:
        return await self._around(
            "uploads", lambda: self._store.uploads(bucket, prefix=prefix), again=Again.ALWAYS
        )

    async def lock(self, bucket: str, key: str, *, version_id: str | None = None) -> Lock:
        return await self._around(
            "lock", lambda: self._store.lock(bucket, key, version_id=version_id), again=Again.ALWAYS
        )

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
        await self._around(
            "retain",
            lambda: self._store.retain(
                bucket, key, mode=mode, until=until, version_id=version_id, bypass=bypass
            ),
            again=Again.ALWAYS,
        )

    async def hold(self, bucket: str, key: str, on: bool, *, version_id: str | None = None) -> None:
        await self._around(
            "hold",
            lambda: self._store.hold(bucket, key, on, version_id=version_id),
            again=Again.ALWAYS,
        )
