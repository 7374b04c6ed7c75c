"""One object on its way into one vault: cut, named, stored, as its pieces come.

Memory: that of a ``Cutter``, and the chunks of one cut.
"""

import asyncio
from typing import Final

from entrepot.vault.chunks import Chunk, Cutter
from entrepot.vault.keys import DomainKeys
from entrepot.vault.writer import Writer

INLINE_BYTES: Final = 256 * 1024
"""Up to here, cutting and naming takes less time (0.2 ms) than a thread would save."""


class Intake:
    """Pieces in, ids of chunks out."""

    def __init__(self, writer: Writer, keys: DomainKeys) -> None:
        self._writer = writer
        self._keys = keys
        self._cutter = Cutter(writer.cutting, seed=keys.seed)
        self._ids: list[bytes] = []
        self._came_bytes = 0

    async def feed(self, piece: bytes) -> None:
        """Take in the next bytes."""
        self._came_bytes += len(piece)
        if self._cutter.is_ready(piece):
            await self._store(await asyncio.to_thread(self._fed, piece))
        else:
            self._cutter.hold(piece)

    async def finish(self) -> tuple[bytes, ...]:
        """Nothing more comes: the ids of all chunks, in order."""
        if self._came_bytes <= INLINE_BYTES:
            await self._store(self._rest())
        else:
            await self._store(await asyncio.to_thread(self._rest))
        return tuple(self._ids)

    async def _store(self, chunks: list[Chunk]) -> None:
        self._ids += await self._writer.store(chunks, self._keys)

    def _fed(self, piece: bytes) -> list[Chunk]:
        return [self._named(data) for data in self._cutter.feed(piece)]

    def _rest(self) -> list[Chunk]:
        return [self._named(data) for data in self._cutter.drain()]

    def _named(self, data: bytes) -> Chunk:
        return Chunk(self._keys.chunk_id(data), data)
