"""Windows over listings against a model that holds everything in dictionaries."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.errors import IntegrityError, Unavailable
from entrepot.replication import merge
from entrepot.replication.merge import Window, windows
from entrepot.store.protocol import Page, Version

KEYS = ["a", "a/b", "a0", "b", "bb", "ü", "ü/日", "\U0001f600", "\uffff", "\x01", "zz"]
Listing = list[Version]


def token(version: Version, site: int, *, own: bool) -> bytes:
    """An entry as bytes; ``own`` makes them differ between sites, as minted ids do."""
    marker = "D" if version.is_delete_marker else "V"
    fields = (
        version.key,
        version.version_id,
        str(version.mtime_ms),
        str(int(version.is_current)),
        marker,
        f"site {site}" if own else "",
    )
    return "\t".join(fields).encode()


def decode(text: bytes) -> Version:
    key, version_id, mtime_ms, is_current, marker, _ = text.decode().split("\t")
    return Version(
        key=key,
        version_id=version_id,
        mtime_ms=int(mtime_ms),
        is_current=is_current == "1",
        is_delete_marker=marker == "D",
    )


async def pages_of(
    listing: Listing, sizes: Sequence[int], *, site: int = 0, own: bool = False
) -> AsyncIterator[Page]:
    """``listing`` in pages of these sizes, over and over; a size of 0 is an empty page."""
    turn, begin = 0, 0
    while begin < len(listing) or (turn < len(sizes) and not listing):
        size = sizes[turn % len(sizes)]
        turn += 1
        chunk = listing[begin : begin + size]
        begin += size
        yield Page(tokens=[token(v, site, own=own) for v in chunk], decode=decode)


histories = st.lists(
    st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=6
)


@st.composite
def listings(draw: st.DrawFn) -> list[Listing]:
    """What 2 to 4 sites list: often the same, with many versions under some keys."""
    count = draw(st.integers(2, 4))
    shared = draw(st.dictionaries(st.sampled_from(KEYS), histories, max_size=8))
    sites = []
    for _ in range(count):
        changed = draw(st.dictionaries(st.sampled_from(KEYS), st.none() | histories, max_size=3))
        held = {k: h for k, h in (shared | changed).items() if h}
        sites.append([v for k in sorted(held, key=str.encode) for v in versions_of(k, held[k])])
    return sites


def versions_of(key: str, history: Sequence[tuple[int, bool, int]]) -> Listing:
    found = [
        Version(key=key, version_id=f"{time}{mark}{n}", mtime_ms=time, is_delete_marker=mark)
        for n, (time, mark, _) in enumerate(sorted(history, reverse=True))
    ]
    return [replace(v, is_current=n == 0) for n, v in enumerate(found)]


page_sizes = st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any)


async def found_by(*args: object, **how: str) -> list[Window]:
    async with aclosing(windows(*args, **how)) as found:  # type: ignore[arg-type]
        return [window async for window in found]


def histories_of(sites: Sequence[Listing]) -> dict[str, list[set[Version]]]:
    """All versions of every key at every site."""
    keys = {v.key for listing in sites for v in listing}
    return {key: [{v for v in listing if v.key == key} for listing in sites] for key in keys}


@given(listings(), st.data())
@settings(max_examples=300, deadline=None)
def test_windows_find_what_a_model_finds(sites: list[Listing], data: st.DataObject) -> None:
    stop_at = data.draw(st.just("") | st.sampled_from(KEYS))
    after = data.draw(st.just("") | st.sampled_from(KEYS))
    own = data.draw(st.booleans())
    listed = [[v for v in listing if v.key.encode() > after.encode()] for listing in sites]
    pages = [
        pages_of(listing, data.draw(page_sizes), site=number, own=own)
        for number, listing in enumerate(listed)
    ]
    found = asyncio.run(found_by(pages, stop_at=stop_at))

    inside = [
        [v for v in listing if not stop_at or v.key.encode() <= stop_at.encode()]
        for listing in listed
    ]
    expected = {
        key: held
        for key, held in histories_of(inside).items()
        if own or any(h != held[0] for h in held)
    }
    merged = [(key, held) for window in found for key, held in window.differing.items()]
    assert {key: [set(history) for history in held] for key, held in merged} == expected
    for _, held in merged:
        for history in held:
            assert sum(v.is_current for v in history[1:]) == 0
            assert [v.mtime_ms for v in history] == sorted(v.mtime_ms for v in history)[::-1]
    assert [key for key, _ in merged] == sorted(expected, key=str.encode)
    lasts = [window.last_key.encode() for window in found]
    assert lasts == sorted(lasts)
    if any(inside):
        assert lasts[-1] == max(v.key.encode() for listing in inside for v in listing)
    assert sum(w.listed for w in found) >= max(map(len, inside), default=0)
    counts = [sum(w.counts[site] for w in found) for site in range(len(inside))]
    assert counts == [len(listing) for listing in inside]
    for window in found:
        assert all(key.encode() <= window.last_key.encode() for key in window.differing)


@pytest.mark.parametrize("size", [1, 3, 10])
async def test_of_a_very_long_history_the_newest_is_compared(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is said, whichever pages the rest of it is on."""
    monkeypatch.setattr(merge, "HISTORY_MAX", 10)
    long = versions_of("k", [(time, False, 0) for time in range(1, 60)])
    others = [one("a"), *versions_of("z", [(1, False, 0), (2, True, 0)])]
    listing = [others[0], *long, *others[1:]]
    found = await found_by([pages_of(listing, [size]), pages_of(others, [2])])
    (window,) = [window for window in found if "k" in window.differing]
    held, none = window.differing["k"]
    assert 10 <= len(held) <= 10 + size
    assert list(held) == long[: len(held)]
    assert none == ()
    assert "k" in window.cut
    assert {key for window in found for key in window.differing} == {"k"}
    assert "z" not in {key for window in found for key in window.cut}


async def test_nobody_lists_anything() -> None:
    assert await found_by([pages_of([], [1]), pages_of([], [0, 0])]) == []


def one(key: str) -> Version:
    return Version(key=key, version_id="v", mtime_ms=1)


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [(["b", "a"], [1]), (["b", "a"], [2]), (["a", "c", "b", "d"], [4]), (["a", "b", "a"], [1])],
)
async def test_a_listing_out_of_order_is_an_error(keys: list[str], sizes: list[int]) -> None:
    """Else a key could be taken for absent that is listed later."""
    with pytest.raises(IntegrityError):
        await found_by([pages_of([one(key) for key in keys], sizes), pages_of([one("z")], [1])])


class Slow:
    """A listing whose first page takes long; knows whether it was closed."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.is_closed = False
        self.pages = self._pages()

    async def _pages(self) -> AsyncIterator[Page]:
        try:
            self.started.set()
            await asyncio.sleep(60)
            yield Page(tokens=[], decode=decode)
        finally:
            self.is_closed = True


async def broken(after: asyncio.Event) -> AsyncIterator[Page]:
    await after.wait()
    raise Unavailable("gone")
    yield  # makes this a generator


@pytest.mark.parametrize("order", [1, -1])
async def test_one_site_fails_while_another_has_not_answered(order: int) -> None:
    """The failure comes out as it is, and no listing stays open."""
    slow = Slow()
    listings = [broken(slow.started), slow.pages][::order]
    if order == 1:
        with pytest.raises(Unavailable):
            await found_by(listings)
        assert slow.is_closed
        return
    reading = asyncio.ensure_future(found_by(listings))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert slow.is_closed


async def test_leaving_early_closes_every_listing() -> None:
    """Also one whose page ahead has failed: nobody asked for that page."""
    closed = []
    others = asyncio.all_tasks()  # servers of the session may run on this loop

    async def endless(name: str, *, fails: bool) -> AsyncIterator[Page]:
        try:
            for number in range(1000):
                if fails and number == 2:
                    raise Unavailable("gone")
                yield Page(tokens=[token(one(f"k{number:04}"), 0, own=False)], decode=decode)
        finally:
            closed.append(name)

    async with aclosing(windows([endless("a", fails=True), endless("b", fails=False)])) as found:
        async for _ in found:
            await asyncio.sleep(0.01)
            break
    assert sorted(closed) == ["a", "b"]
    assert asyncio.all_tasks() == others


@pytest.mark.parametrize("changed_every", [0, 100])
async def test_memory_does_not_grow_with_the_listing(changed_every: int) -> None:
    async def generated(count: int, site: int) -> AsyncIterator[Page]:
        for begin in range(0, count, 1000):
            tokens = []
            for n in range(begin, begin + 1000):
                differs = site and changed_every and n % changed_every == 0
                tokens.append(b"k%08d\tid%d\t%d\t1\tV\t" % (n, n, n + bool(differs)))
            yield Page(tokens=tokens, decode=decode)

    async def peak(count: int) -> int:
        seen = 0
        tracemalloc.start()
        try:
            async with aclosing(windows([generated(count, 0), generated(count, 1)])) as found:
                async for window in found:
                    seen += len(window.differing)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert seen == (count // changed_every if changed_every else 0)

    small, large = await peak(10_000), await peak(200_000)
    assert large < small * 1.2 + 100_000
    assert large < 3 * 1024 * 1024
