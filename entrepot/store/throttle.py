"""Spends a budget before each call, so that many workers together stay within a rate.

A call costs one request, a listing one for each page, and a body that is written its bytes, piece
by piece while it is sent. What is read is not counted: it is the same bytes that are written
elsewhere. Put it below ``RetryStore``, so that each try is paid for.

Invariant: nothing is sent before ``take`` returned for it; where it raises, nothing is sent.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from entrepot.store.protocol import PAGE_MAX, Body, Item, Page, Part, Source, Store, Version
from entrepot.store.wrapper import Again, Replay, StoreWrapper

T = TypeVar("T")

PIECE_BYTES = 64 * 1024
"""Most bytes sent at once: a slow rate then makes many short pauses, not one long silence."""


class Purse(Protocol):
    """What is spent from."""

    async def take(self, *, size_bytes: int = 0, requests: int = 0) -> None:
        """Returns when so much may be sent; may raise what keeps the caller from it at all."""
        ...

    def limits_bytes(self) -> bool:
        """Whether bytes cost time now; where they do not, pieces are sent as they come."""
        ...


class ThrottledStore(StoreWrapper):
    """A ``Store`` that asks ``purse`` first."""

    def __init__(self, store: Store, purse: Purse) -> None:
        super().__init__(store)
        self._purse = purse
        self._take = purse.take

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        await self._take(requests=1)
        return await super()._around(verb, call, again=again)

    async def put(self, bucket: str, key: str, source: Source | Replay, **more: Any) -> Version:
        return await super().put(bucket, key, await self._paid(source), **more)

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
        paid = await self._paid(source)
        how = {"size_bytes": size_bytes, "crc32c": crc32c}
        return await super().part(bucket, key, upload_id, number, paid, **how)  # type: ignore[arg-type]

    async def batch(self, bucket: str, items: Sequence[Item]) -> Sequence[Item]:
        await self._take(size_bytes=sum(len(item.body) for item in items))
        return await super().batch(bucket, items)

    @asynccontextmanager
    async def get(self, bucket: str, key: str, **more: Any) -> AsyncGenerator[Body, None]:
        """See ``ObjectStore.get``."""
        await self._take(requests=1)
        async with super().get(bucket, key, **more) as body:
            yield body

    async def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncGenerator[Page, None]:
        """See ``ObjectStore.list``."""
        pages = super().list(
            bucket, prefix=prefix, after=after, delimiter=delimiter, page_size=page_size
        )
        async for page in self._each(pages):
            yield page

    async def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """See ``ObjectStore.versions``."""
        pages = super().versions(
            bucket, prefix=prefix, after=after, page_size=page_size, details=details
        )
        async for page in self._each(pages):
            yield page

    async def _each(self, pages: AsyncIterator[Page]) -> AsyncGenerator[Page, None]:
        try:
            while True:
                await self._take(requests=1)
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
                yield page
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    async def _paid(self, source: Source | Replay) -> Source | Replay:
        if isinstance(source, bytes):
            await self._take(size_bytes=len(source))
            return source
        if isinstance(source, Replay):
            return Replay(lambda: self._pieces(source.open()))
        return self._pieces(source)

    async def _pieces(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for piece in source:
            if not self._purse.limits_bytes():
                yield piece
                continue
            for start in range(0, len(piece), PIECE_BYTES):
                part = piece[start : start + PIECE_BYTES]
                await self._take(size_bytes=len(part))
                yield part
