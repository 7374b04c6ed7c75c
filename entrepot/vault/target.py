"""What can be restored into: a source that can also be looked at key by key, and written to."""

from collections.abc import AsyncIterator
from typing import Protocol

from entrepot.vault.snapshots import Entry
from entrepot.vault.source import Source


class Target(Source, Protocol):
    """A live bucket. Nothing in it is ever removed: writes are new versions and delete markers.

    ``over`` is what a write was planned against: the current version, a delete marker, or None
    where the key has neither. ``PreconditionFailed`` where it is another by now; one of the same
    ETag, written since the caller has looked, may pass for the same.
    """

    async def look(self, key: str) -> Entry | None:
        """The current version or delete marker of a key."""
        ...

    async def version(self, key: str, version_id: str) -> Entry | None:
        """One version that is still there, as ``entries`` would give it."""
        ...

    async def put(
        self, wished: Entry, pieces: AsyncIterator[bytes], *, over: Entry | None
    ) -> Entry:
        """A new version with the bytes given and all of ``wished`` but its lock."""
        ...

    async def hide(self, key: str, *, over: Entry) -> Entry:
        """A delete marker over the current version."""
        ...
