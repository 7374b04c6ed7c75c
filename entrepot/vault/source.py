"""What can be backed up: something that lists its versions in order and opens each of them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from entrepot.vault.snapshots import Entry


class Source(Protocol):
    """A bucket, or prefixes of one. ``kind``, ``site`` and ``name`` are those of its tree.

    ``tenant`` is whose key ring keys its chunks belong to, "" for the vault's own; ``prefixes``
    overlap nowhere and are sorted.
    """

    kind: str
    site: str
    name: str
    tenant: str
    prefixes: tuple[str, ...]

    def entries(self) -> AsyncIterator[Entry]:
        """Every version and delete marker, by the bytes of its key, newest first within one.

        Without chunks; an error where the listing is not whole.
        """
        ...

    def open(self, entry: Entry) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of a version; ``NotFound`` where it is gone meanwhile."""
        ...

    async def settings(self) -> Mapping[str, str]:
        """Its configuration, documents by name."""
        ...


def disjoint(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """``prefixes`` without those that another one covers, sorted; the empty one covers all."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes), key=str.encode):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return () if kept == [""] else tuple(kept)
