"""Entries of earlier snapshots, beside a listing that is walked in the same order.

Memory: the entries of the keys of one page of the listing.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack

from entrepot.errors import IntegrityError
from entrepot.vault.index import Index
from entrepot.vault.reader import read_chunks
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Tree, parse_page

Known = Mapping[tuple[str, str], Entry]
"""Entries by key and version id."""


async def entries_of(vault: Vault, index: Index, tree: Tree) -> AsyncGenerator[Entry, None]:
    """The entries of a tree, in order. A long page has several chunks, cut within lines."""
    rest = b""
    async for chunk in read_chunks(vault, index, tree.pages):
        lines, end, rest = (rest + chunk).rpartition(b"\n")
        for entry in parse_page(lines + end):
            yield entry
    if rest:
        raise IntegrityError("a page of a snapshot is cut off", bucket=tree.name)


class Walk:
    """The entries of one tree, up to one key after the other."""

    def __init__(self, entries: AsyncIterator[Entry]) -> None:
        self._entries = entries
        self._next: Entry | None = None

    async def upto(self, key: str) -> list[Entry]:
        """Those that were not given yet and whose key is not after ``key``."""
        found: list[Entry] = []
        limit = key.encode()
        while entry := self._next or await anext(self._entries, None):
            self._next = entry
            if entry.key.encode() > limit:
                break
            found.append(entry)
            self._next = None
        return found


class Parents:
    """What earlier snapshots know; of several, the later one counts."""

    def __init__(self) -> None:
        self._walks: list[Walk] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Parents":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def add(self, vault: Vault, index: Index, tree: Tree) -> None:
        """Look at one more tree, an older one first; not at one whose pages are lost."""
        if any(page not in index for page in tree.pages):
            return
        entries = entries_of(vault, index, tree)
        self._stack.push_async_callback(entries.aclose)
        self._walks.append(Walk(entries))

    async def known(self, page: Sequence[Entry]) -> Known:
        """What is known of the keys of a page, and of keys between it and the one before."""
        return {
            (entry.key, entry.version_id): entry
            for walk in self._walks
            for entry in await walk.upto(page[-1].key)
        }


def is_same(entry: Entry, known: Entry) -> bool:
    """Whether the bytes of a version are those that were backed up as ``known``.

    A version never changes its bytes. Where versions have no id of their own, time, length and
    ETag tell.
    """
    return (entry.etag, entry.size_bytes, entry.mtime_ms, entry.is_delete_marker) == (
        known.etag,
        known.size_bytes,
        known.mtime_ms,
        known.is_delete_marker,
    )
