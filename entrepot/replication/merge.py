"""All sites' listings side by side, in key order, with flat memory.

A *window* is a stretch of keys of which every site has listed all versions: up to the smallest of
the last keys that are complete in the pages at hand. Windows in which all sites sent the same bytes
cost one comparison of lists; elsewhere only the keys that differ are decoded, with their history.

Memory: three pages a site (one compared, what is left of it, one on its way), about 1 MiB each at
most; of one key the newest ``HISTORY_MAX`` versions a site, 4 MB of entries.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from entrepot.errors import IntegrityError
from entrepot.store.protocol import Page, Version

HISTORY_MAX = 10_000
"""Versions of one key that are held and compared; of more, the newest. A key that is written every
minute has as many in a week."""

Histories = tuple[tuple[Version, ...], ...]
"""All versions of one key, newest first, at each site."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the sites hold between the previous window and ``last_key`` (inclusive).

    ``differing`` maps each key that is not listed the same everywhere to its histories, in the
    sites' order. ``counts`` says how many entries each site listed. Keys in ``cut`` have more than
    ``HISTORY_MAX`` versions at some site, and older ones than those were left out there.
    """

    last_key: str
    counts: tuple[int, ...]
    differing: dict[str, Histories]
    cut: frozenset[str] = field(default_factory=frozenset)

    @property
    def listed(self) -> int:
        """The entries of the fullest site."""
        return max(self.counts)


class _Feed:
    """One site's pages: the entries not yet compared, and the next page on its way."""

    def __init__(self, pages: AsyncIterator[Page], *, stop_at: str) -> None:
        self._pages = pages
        self._stop_at = stop_at.encode()
        self._next: asyncio.Task[Page | None] | None = None
        self.tokens: Sequence[bytes] = ()
        self.whole = 0  # so many of them are of keys that no later page adds to
        self.decode: Callable[[bytes], Version] | None = None
        self.last = b""  # key of the last of those
        self.cut: set[str] = set()  # keys of which older versions were left out
        self.ended = False

    def key(self, token: bytes) -> bytes:
        assert self.decode is not None
        return _bytes(self.decode(token).key)

    async def fill(self) -> None:
        """Have a whole key at hand, or know that there are no more."""
        while not self.whole and not self.ended:
            self.start()
            assert self._next is not None
            page = await self._next
            self._next = None
            if page is None:
                self.ended = True
            elif page.tokens:
                self._add(page)
            if not self.ended:
                self.start()
            self._count_whole()

    def start(self) -> None:
        """Have the next page on its way."""
        self._next = self._next or asyncio.create_task(self._read())

    async def _read(self) -> Page | None:
        return await anext(self._pages, None)

    def _add(self, page: Page) -> None:
        self.decode, tokens = page.decode, page.tokens
        first, last = self.key(tokens[0]), self.key(tokens[-1])
        before = self.key(self.tokens[-1]) if self.tokens else self.last
        if not before <= first <= last:
            raise _unsorted(first)
        if self._stop_at and last > self._stop_at:
            tokens = tokens[: bisect_right(tokens, self._stop_at, key=self.key)]
            self.ended = True
        self.tokens = [*self.tokens, *tokens] if self.tokens else tokens
        if len(self.tokens) > HISTORY_MAX and self.key(self.tokens[0]) == last:
            self.tokens = self.tokens[:HISTORY_MAX]
            self.cut.add(last.decode("utf-8", "surrogateescape"))

    def _count_whole(self) -> None:
        """Of the last key at hand, more versions may be on the next page."""
        self.whole = len(self.tokens)
        if self.tokens and not self.ended:
            last = self.key(self.tokens[-1])
            if self.whole > 1 and self.key(self.tokens[-2]) == last:
                self.whole = bisect_left(self.tokens, last, key=self.key)
            else:
                self.whole -= 1
        if self.whole:
            self.last = self.key(self.tokens[self.whole - 1])

    def take(self, until: bytes) -> Sequence[bytes]:
        """The entries up to and including key ``until``."""
        count = self.whole
        if self.last > until:
            count = bisect_right(self.tokens, until, hi=self.whole, key=self.key)
        taken, self.tokens = self.tokens[:count], self.tokens[count:]
        self.whole -= count
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
    listings: Sequence[AsyncIterator[Page]], *, stop_at: str = "", whole: bool = False
) -> AsyncGenerator[Window, None]:
    """Compare listings of all versions, started after the same key, window by window.

    Args:
        listings: ``ObjectStore.versions`` of each site, in rank order.
        stop_at: the last key of interest, inclusive; "" for no end.
        whole: every key counts as differing.

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
            open_feeds = [feed for feed in feeds if feed.whole]
            if not open_feeds:
                return
            until = min(feed.last for feed in open_feeds)
            taken = [feed.take(until) if feed.whole else () for feed in feeds]
            yield Window(
                last_key=until.decode("utf-8", "surrogateescape"),
                counts=tuple(len(tokens) for tokens in taken),
                differing=_differing(feeds, taken, whole=whole),
                cut=frozenset().union(*(feed.cut for feed in feeds)),
            )
    finally:
        for feed in feeds:
            await feed.close()


def _differing(
    feeds: Sequence[_Feed], taken: Sequence[Sequence[bytes]], *, whole: bool
) -> dict[str, Histories]:
    if not whole and all(tokens == taken[0] for tokens in taken[1:]):
        return {}
    common = frozenset[bytes]() if whole else frozenset(taken[0]).intersection(*taken[1:])
    own: list[dict[bytes, list[Version]]] = [{} for _ in feeds]
    shared: dict[bytes, dict[bytes, Version]] = {}
    for feed, tokens, mine in zip(feeds, taken, own, strict=True):
        last = b""
        for index, token in enumerate(tokens):
            if token in common or feed.decode is None:
                continue
            version = feed.decode(token)
            key = _bytes(version.key)
            last, before = key, last
            if last < before:
                raise _unsorted(last)
            mine.setdefault(key, []).append(version)
            beside = shared.setdefault(key, {})
            for step in (-1, 1):
                near = _from(tokens, index, step)
                _share(near, feed.decode, key, common=common, shared=beside)
    return {
        key.decode("utf-8", "surrogateescape"): tuple(
            _newest_first([*mine.get(key, ()), *shared[key].values()]) for mine in own
        )
        for key in sorted(shared)
    }


def _from(tokens: Sequence[bytes], index: int, step: int) -> Iterator[bytes]:
    while 0 <= (index := index + step) < len(tokens):
        yield tokens[index]


def _share(
    near: Iterator[bytes],
    decode: Callable[[bytes], Version],
    key: bytes,
    *,
    common: frozenset[bytes],
    shared: dict[bytes, Version],
) -> None:
    """Note the entries beside a differing one that are of its key and the same everywhere."""
    for token in near:
        if token not in common or token in shared:
            return
        version = decode(token)
        if _bytes(version.key) != key:
            return
        shared[token] = version


def _newest_first(versions: Sequence[Version]) -> tuple[Version, ...]:
    return tuple(sorted(versions, key=lambda each: (not each.is_current, -each.mtime_ms)))


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _unsorted(key: bytes) -> IntegrityError:
    return IntegrityError(
        "the endpoint's listing is not in key order", key=key.decode("utf-8", "replace")
    )
