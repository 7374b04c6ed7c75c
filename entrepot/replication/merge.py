"""All sites' listings side by side, in key order, with flat memory.

A *window* is a stretch of keys that every site has listed: up to the smallest of the last keys
of the pages at hand. Windows in which all sites sent the same bytes cost one comparison of
lists; elsewhere only the entries that differ are decoded.

Memory: two pages a site (one compared, one on its way), about 1 MiB each at most.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from entrepot.errors import IntegrityError
from entrepot.store.protocol import Page, Version


@dataclass(frozen=True, slots=True)
class Window:
    """What the sites hold between the previous window and ``last_key`` (inclusive).

    ``differing`` maps each key whose current versions differ to them, in the sites' order.
    """

    last_key: str
    listed: int
    differing: dict[str, tuple[Version | None, ...]]


class _Feed:
    """One site's pages: the entries not yet compared, and the next page on its way."""

    def __init__(self, pages: AsyncIterator[Page], *, stop_at: str) -> None:
        self._pages = pages
        self._stop_at = stop_at.encode()
        self._next: asyncio.Task[Page | None] | None = None
        self.tokens: Sequence[bytes] = ()
        self.decode: Callable[[bytes], Version] | None = None
        self.last = b""  # key of the last entry at hand
        self.ended = False

    def key(self, token: bytes) -> bytes:
        assert self.decode is not None
        return self.decode(token).key.encode("utf-8", "surrogateescape")

    async def fill(self) -> None:
        """Have entries at hand, or know that there are no more."""
        while not self.tokens and not self.ended:
            self.start()
            assert self._next is not None
            page = await self._next
            self._next = None
            if page is None:
                self.ended = True
                return
            self.decode, self.tokens = page.decode, page.tokens
            if self.tokens:
                self._check_and_cut()
            if not self.ended:
                self.start()

    def start(self) -> None:
        """Have the next page on its way."""
        self._next = self._next or asyncio.create_task(self._read())

    async def _read(self) -> Page | None:
        return await anext(self._pages, None)

    def _check_and_cut(self) -> None:
        first, last = self.key(self.tokens[0]), self.key(self.tokens[-1])
        if not self.last <= first <= last:
            raise _unsorted(first)
        self.last = last
        if self._stop_at and self.last > self._stop_at:
            self.tokens = self.tokens[: bisect_right(self.tokens, self._stop_at, key=self.key)]
            self.last = self.key(self.tokens[-1]) if self.tokens else self.last
            self.ended = True

    def take(self, until: bytes) -> Sequence[bytes]:
        """The entries up to and including key ``until``."""
        if self.last <= until:
            taken, self.tokens = self.tokens, ()
            return taken
        cut = bisect_right(self.tokens, until, key=self.key)
        taken, self.tokens = self.tokens[:cut], self.tokens[cut:]
        return taken

    async def close(self) -> None:
        if self._next is not None:
            # A listing cannot be closed while it is being read; how that read ends, nobody asks.
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        aclose = getattr(self._pages, "aclose", None)
        if aclose is not None:
            await aclose()


async def windows(
    listings: Sequence[AsyncIterator[Page]], *, stop_at: str = ""
) -> AsyncGenerator[Window, None]:
    """Compare listings of all versions, started after the same key, window by window.

    Args:
        listings: ``ObjectStore.versions`` of each site, in rank order.
        stop_at: the last key of interest, inclusive; "" for no end.

    Raises:
        IntegrityError: a listing is not in key order (noticed at pages' ends and where it differs).

    Close it when leaving early: it reads ahead.
    """
    feeds = [_Feed(pages, stop_at=stop_at) for pages in listings]
    try:
        for feed in feeds:
            feed.start()
        while True:
            for feed in feeds:
                await feed.fill()  # all of them are on their way
            open_feeds = [feed for feed in feeds if feed.tokens]
            if not open_feeds:
                return
            until = min(feed.last for feed in open_feeds)
            taken = [feed.take(until) if feed.tokens else () for feed in feeds]
            yield Window(
                last_key=until.decode("utf-8", "surrogateescape"),
                listed=max(len(tokens) for tokens in taken),
                differing=_differing(feeds, taken),
            )
    finally:
        for feed in feeds:
            await feed.close()


def _differing(
    feeds: Sequence[_Feed], taken: Sequence[Sequence[bytes]]
) -> dict[str, tuple[Version | None, ...]]:
    if all(tokens == taken[0] for tokens in taken[1:]):
        return {}
    # A key whose current entry is the same everywhere agrees, whatever its history; for any other
    # key each site's current entry, if it has one, is among those that are not common to all.
    common = set(taken[0]).intersection(*taken[1:])
    found: dict[str, list[Version | None]] = {}
    for index, (feed, tokens) in enumerate(zip(feeds, taken, strict=True)):
        last = b""
        for token in tokens:
            if token in common or feed.decode is None:
                continue
            version = feed.decode(token)
            last, before = version.key.encode(), last
            if last < before:
                raise _unsorted(last)
            if version.is_current:
                found.setdefault(version.key, [None] * len(feeds))[index] = version
    return {key: tuple(found[key]) for key in sorted(found, key=str.encode)}


def _unsorted(key: bytes) -> IntegrityError:
    return IntegrityError(
        "the endpoint's listing is not in key order", key=key.decode("utf-8", "replace")
    )
