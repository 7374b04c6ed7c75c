"""One object on its way into one vault: cut, named, stored, as its pieces come.

Memory: that of a ``Cutter``, and the chunks of one cut.
"""

import asyncio
from functools import partial

from blake3 import blake3

from entrepot.vault.chunks import INLINE_BYTES, Chunk, Cutter, named
from entrepot.vault.keys import DomainKeys
from entrepot.vault.writer import Writer


class Intake:
    """Pieces in, ids of chunks out."""

    def __init__(self, writer: Writer, keys: DomainKeys) -> None:
        self._writer = writer
        self._keys = keys
        self._cutter = Cutter(writer.cutting, seed=keys.seed)
        self._ids: list[bytes] = []
        self._came_bytes = 0
        self._digest = blake3()

    @property
    def came_bytes(self) -> int:
        """Of the pieces so far."""
        return self._came_bytes

    @property
    def digest(self) -> bytes:
        """After ``finish``: ``B3`` of all bytes, or "" of what is one chunk at most."""
        return self._digest.digest() if len(self._ids) > 1 else b""

    async def feed(self, piece: bytes) -> None:
        """Take in the next bytes."""
        self._came_bytes += len(piece)
        self._cutter.hold(piece)
        if self._cutter.is_ready:
            await self._store(last=False)

    async def finish(self) -> tuple[bytes, ...]:
        """Nothing more comes: the ids of all chunks, in order."""
        await self._store(last=True)
        return tuple(self._ids)

    async def _store(self, *, last: bool) -> None:
        work = partial(self._named, last=last)
        chunks = work() if self._came_bytes <= INLINE_BYTES else await asyncio.to_thread(work)
        self._ids += await self._writer.store(chunks, self._keys)

    def _named(self, *, last: bool) -> list[Chunk]:
        chunks = named(self._cutter, self._keys, last=last)
        if self._ids or len(chunks) > 1 or not last:  # most objects are one chunk: no digest
            for chunk in chunks:
                self._digest.update(chunk.data)
        return chunks
