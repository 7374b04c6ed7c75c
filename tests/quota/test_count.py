"""Sums of a listing against dictionaries."""

from collections import defaultdict
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.quota.count import OTHER, PREFIXES_MAX, Counter, prefix_of

NUMBERS = ("current_bytes", "total_bytes", "objects", "versions", "delete_markers")


@dataclass(frozen=True)
class Listed:
    """One entry of a listing."""

    key: str
    size_bytes: int = 0
    is_current: bool = True
    is_delete_marker: bool = False


listed = st.builds(
    Listed,
    key=st.text(alphabet="ab/ü", min_size=1, max_size=8),
    size_bytes=st.integers(0, 2**50),
    is_current=st.booleans(),
    is_delete_marker=st.booleans(),
)


def counted(entries: list[Listed], *, depth: int) -> dict[str, dict[str, int]]:
    counter = Counter(depth=depth)
    for entry in entries:
        counter.add(entry)
    return {prefix: asdict(total) for prefix, total in counter.rows()}


def by_segments(key: str, depth: int) -> str:
    """A prefix in another way."""
    segments = key.split("/")[:-1][:depth]
    return "".join(f"{segment}/" for segment in segments)


@given(st.lists(listed), st.integers(0, 5))
def test_sums_are_those_of_dictionaries(entries: list[Listed], depth: int) -> None:
    expected: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(NUMBERS, 0))
    for entry in entries:
        row = expected[by_segments(entry.key, depth)]
        row["delete_markers"] += entry.is_delete_marker
        if not entry.is_delete_marker:
            row["versions"] += 1
            row["total_bytes"] += entry.size_bytes
            row["objects"] += entry.is_current
            row["current_bytes"] += entry.size_bytes * entry.is_current
    assert counted(entries, depth=depth) == (dict(expected) or {"": dict.fromkeys(NUMBERS, 0)})


@given(st.lists(listed), st.integers(0, 5))
def test_the_whole_does_not_depend_on_depth(entries: list[Listed], depth: int) -> None:
    (whole,) = counted(entries, depth=0).values()
    rows = counted(entries, depth=depth).values()
    assert {name: sum(row[name] for row in rows) for name in NUMBERS} == whole


@given(st.lists(listed))
def test_the_order_of_entries_does_not_matter(entries: list[Listed]) -> None:
    assert counted(entries, depth=2) == counted(entries[::-1], depth=2)


def test_rows_come_by_prefix() -> None:
    rows = counted([Listed("b/1"), Listed("a/1"), Listed("c"), Listed("a/b/2")], depth=1)
    assert list(rows) == ["", "a/", "b/"]


def test_prefixes_beyond_the_limit_share_a_row() -> None:
    entries = [Listed(f"{number:05}/key", 1) for number in range(PREFIXES_MAX + 50)]
    rows = counted([*entries, Listed("00000/again", 5), Listed("zzz/late", 7)], depth=1)
    assert len(rows) == PREFIXES_MAX + 1
    assert rows[OTHER]["total_bytes"] == 50 + 7
    assert rows["00000/"]["total_bytes"] == 6
    assert sum(row["versions"] for row in rows.values()) == PREFIXES_MAX + 52


def test_the_limit_is_told() -> None:
    counter = Counter(depth=1)
    for number in range(PREFIXES_MAX):
        counter.add(Listed(f"{number}/k"))
    assert not counter.prefixes_over_limit
    counter.add(Listed("0/more"))
    assert not counter.prefixes_over_limit
    counter.add(Listed("one too many/k"))
    assert counter.prefixes_over_limit


@pytest.mark.parametrize("depth", range(6))
def test_no_key_has_the_prefix_of_the_shared_row(depth: int) -> None:
    for key in (OTHER, f"{OTHER}/", f"{OTHER}/a/b"):
        assert prefix_of(key, depth=depth) != OTHER


@pytest.mark.parametrize(
    ("key", "depth", "prefix"),
    [
        ("a/b/c", 0, ""),
        ("a/b/c", 1, "a/"),
        ("a/b/c", 2, "a/b/"),
        ("a/b/c", 3, "a/b/"),
        ("a/b/", 2, "a/b/"),
        ("a//b", 2, "a//"),
        ("plain", 1, ""),
    ],
)
def test_prefixes(key: str, depth: int, prefix: str) -> None:
    assert prefix_of(key, depth=depth) == prefix
