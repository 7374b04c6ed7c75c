"""A store in memory: the reference that the others are compared with, and a quick test double.

It holds every byte it is given until the version is removed; nothing survives the process. Ids
and conditions behave as on an S3 server, so what passes here is not more than a server allows.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.store.index import Index
from entrepot.store.indexed import IndexedStore
from entrepot.store.records import Extent

PIECE_BYTES = 1024 * 1024


class MemoryStore(IndexedStore):
    """``ObjectStore`` and ``BucketStore`` in memory; ``clock`` gives versions their time."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._bytes = _MemoryExtents()
        super().__init__(Index(":memory:"), self._bytes, clock=clock)

    @property
    def held_bytes(self) -> int:
        """Bytes of all versions and parts."""
        return self._bytes.held_bytes


class _MemoryExtents:
    def __init__(self) -> None:
        self._received: dict[str, bytes] = {}
        self._published: dict[str, bytes] = {}

    @property
    def held_bytes(self) -> int:
        return sum(map(len, (*self._received.values(), *self._published.values())))

    async def write(self, pieces: AsyncIterator[bytes]) -> Extent:
        whole = b"".join([piece async for piece in pieces])
        name = new_id().hex
        self._received[name] = whole
        return Extent(name, len(whole), hashlib.md5(whole, usedforsecurity=False).hexdigest())

    def publish(self, name: str) -> None:
        self._published[name] = self._received.pop(name)

    async def discard(self, name: str) -> None:
        self._received.pop(name, None)

    async def remove(self, names: Iterable[str]) -> None:
        for name in names:
            del self._published[name]

    async def read(self, extent: Extent, *, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        whole = self._published[extent.name]
        for offset in range(start, stop, PIECE_BYTES):
            yield whole[offset : min(offset + PIECE_BYTES, stop)]
