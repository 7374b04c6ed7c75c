"""Ranges of keys: every key lies in exactly one of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import InvalidInput
from entrepot.replication.shards import cut, find_prefixes
from entrepot.replication.sites import Site
from entrepot.store.memory import MemoryStore

names = st.text(alphabet="ab/ü\U0001f600\x01", min_size=1, max_size=4)


def holds(bounds: tuple[str, str], key: str) -> bool:
    after, stop_at = bounds
    return key.encode() > after.encode() and (not stop_at or key.encode() <= stop_at.encode())


@given(st.lists(names, max_size=12), st.integers(1, 8), st.lists(names, min_size=1))
def test_ranges_cover_each_key_once(prefixes: list[str], shards: int, keys: list[str]) -> None:
    found = sorted({f"{name}/" for name in prefixes}, key=str.encode)
    ranges = cut(found, shards=shards)
    assert 1 <= len(ranges) <= shards
    assert (ranges[0][0], ranges[-1][1]) == ("", "")
    for key in [*keys, *found]:
        assert [holds(bounds, key) for bounds in ranges].count(True) == 1


def test_prefixes_are_spread_evenly() -> None:
    ranges = cut([f"{number:02}/" for number in range(40)], shards=4)
    sizes = [sum(holds(bounds, f"{n:02}/key") for n in range(40)) for bounds in ranges]
    assert len(ranges) == 4
    assert max(sizes) - min(sizes) <= 2


def test_no_range_is_refused() -> None:
    with pytest.raises(InvalidInput):
        cut([], shards=0)


async def test_prefixes_of_all_sites_count() -> None:
    stores = MemoryStore(), MemoryStore()
    for store, keys in zip(stores, (["b/1", "a", "ü/2"], ["b/1", "c/x/y", "c/z"]), strict=True):
        await store.create("bucket")
        for key in keys:
            await store.put("bucket", key, b"")
    sites = [
        Site(name=str(rank), rank=rank, store=store, capabilities=frozenset())
        for rank, store in enumerate(stores)
    ]
    assert await find_prefixes(sites, "bucket", prefix="") == ["b/", "c/", "ü/"]
    assert await find_prefixes(sites, "bucket", prefix="c/") == ["c/x/"]
    for store in stores:
        await store.close()
