"""Adding up a listing of versions: pure, one pass, bounded memory.

Words as in ``entrepot.catalog.usage``: *current* bytes are those of current versions, *total*
adds noncurrent ones, *objects* are keys whose current version is no delete marker, *versions*
are all but delete markers.

Memory: one row for each prefix, at most ``PREFIXES_MAX``; further prefixes share one row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

PREFIXES_MAX = 1_000
"""Rows of one bucket: about what a person scrolls through, and 200 KiB."""

OTHER = "(other prefixes)"
"""The row that prefixes beyond the limit share; no key can start with it, since it ends openly."""

DELIMITER = "/"


class Listed(Protocol):
    """What must be known of a listed version."""

    @property
    def key(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def is_current(self) -> bool: ...
    @property
    def is_delete_marker(self) -> bool: ...


@dataclass(slots=True)
class Sum:
    """What lies under one prefix."""

    current_bytes: int = 0
    total_bytes: int = 0
    objects: int = 0
    versions: int = 0
    delete_markers: int = 0


class Counter:
    """Sums of one bucket by prefix.

    Args:
        depth: how many segments of a key name its prefix; 0 counts the bucket as one.
    """

    def __init__(self, *, depth: int) -> None:
        self._depth = depth
        self._sums: dict[str, Sum] = {}
        self.prefixes_over_limit = False

    def add(self, version: Listed) -> None:
        """Count one listed version or delete marker."""
        total = self._sum_of(version.key)
        if version.is_delete_marker:
            total.delete_markers += 1
            return
        total.versions += 1
        total.total_bytes += version.size_bytes
        if version.is_current:
            total.objects += 1
            total.current_bytes += version.size_bytes

    def _sum_of(self, key: str) -> Sum:
        prefix = prefix_of(key, depth=self._depth)
        found = self._sums.get(prefix)
        if found is None:
            if len(self._sums) >= PREFIXES_MAX:
                self.prefixes_over_limit = True
                prefix = OTHER
            found = self._sums.setdefault(prefix, Sum())
        return found

    def rows(self) -> Iterator[tuple[str, Sum]]:
        """(prefix, sum) by prefix; an empty bucket has one row of zeros."""
        yield from sorted(self._sums.items()) or [("", Sum())]


def prefix_of(key: str, *, depth: int) -> str:
    """The first ``depth`` segments of a key with their delimiters; "" where it has fewer.

    >>> prefix_of("a/b/c", depth=1), prefix_of("a/b/c", depth=2), prefix_of("a", depth=1)
    ('a/', 'a/b/', '')
    """
    end = 0
    for _ in range(depth):
        place = key.find(DELIMITER, end)
        if place < 0:
            break
        end = place + 1
    return key[:end]
