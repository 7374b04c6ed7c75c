"""Chunks on their way into a vault: only what it has not, in packs, indexed once they are stored.

Invariant: ``store`` gives ids whose chunks are in the vault or in a pack of this writer; after
``finish`` all of them are stored and indexed. A writer that is killed leaves packs without an
index at most; what it indexed so far is found by the next one.

Memory: for each domain one pack that grows, and ``UPLOADS`` packs on their way.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from entrepot.errors import IntegrityError
from entrepot.vault.chunks import Chunk
from entrepot.vault.index import Index, PackInfo
from entrepot.vault.keys import Cutting, Domain, DomainKeys
from entrepot.vault.packs import Pack, PackWriter
from entrepot.vault.repository import Vault, pack_name

UPLOADS: Final = 3
INLINE_BYTES: Final = 64 * 1024
"""Up to here, sealing takes about as long as the hop to a thread."""

INDEX_PACKS: Final = 64
"""Packs until an index is written: what a killed writer has to do again at most, 1 GiB."""


class Writer:
    """Puts chunks into one vault. One task at a time for each domain."""

    def __init__(self, vault: Vault, index: Index) -> None:
        self._vault = vault
        self._index = index
        self._open: dict[Domain, PackWriter] = {}
        self._held: dict[Domain, set[bytes]] = {}
        self._lock = asyncio.Lock()
        self._room = asyncio.Semaphore(UPLOADS)
        self._uploads: set[asyncio.Task[None]] = set()
        self._stored: list[PackInfo] = []
        self.new_chunks = 0
        self.new_bytes = 0
        """Plain bytes that the vault had not."""
        self.stored_bytes = 0
        """Bytes of the packs they went to."""

    @property
    def cutting(self) -> Cutting:
        return self._vault.file.cutting

    async def store(self, chunks: Sequence[Chunk], keys: DomainKeys) -> tuple[bytes, ...]:
        """Take chunks in; their ids."""
        async with self._lock:
            held = self._held.setdefault(keys.domain, set())
            new = []
            for chunk in chunks:
                if chunk.id not in held and chunk.id not in self._index:
                    held.add(chunk.id)
                    new.append(chunk)
            for at in range(0, len(new), 4):
                await self._add(new[at : at + 4], keys)
        return tuple(chunk.id for chunk in chunks)

    async def _add(self, new: Sequence[Chunk], keys: DomainKeys) -> None:
        writer = self._open.get(keys.domain) or PackWriter(keys)
        self._open[keys.domain] = writer
        size_bytes = sum(len(chunk.data) for chunk in new)
        if size_bytes <= INLINE_BYTES:
            _seal(writer, new)
        else:
            await asyncio.to_thread(_seal, writer, new)
        self.new_chunks += len(new)
        self.new_bytes += size_bytes
        if writer.size_bytes >= self._vault.file.cutting.pack_bytes:
            await self._close(keys.domain)

    async def _close(self, domain: Domain) -> None:
        """Send a pack on its way; waits while too many are."""
        self._raise()
        await self._room.acquire()
        pack = await asyncio.to_thread(self._open.pop(domain).close)
        task = asyncio.create_task(self._upload(pack))
        self._uploads.add(task)

    async def _upload(self, pack: Pack) -> None:
        try:
            await self._vault.place.put_same(pack_name(pack.id), pack.data)
        finally:
            self._room.release()
        self.stored_bytes += len(pack.data)
        info = PackInfo.of(pack)
        self._stored.append(info)
        self._index.add(info)
        self._held[pack.domain] -= {row.id for row in pack.rows}
        if len(self._stored) >= INDEX_PACKS:
            await self._write_index()

    async def _write_index(self) -> None:
        packs, self._stored = self._stored, []
        if packs:
            await self._vault.write_index(packs)

    def _raise(self) -> None:
        """The error of an upload that failed."""
        for task in [task for task in self._uploads if task.done()]:
            self._uploads.discard(task)
            task.result()

    async def finish(self) -> None:
        """Have all stored and indexed."""
        async with self._lock:
            for domain in list(self._open):
                await self._close(domain)
            while self._uploads:
                await asyncio.wait(self._uploads)
                self._raise()
            await self._write_index()
        if any(self._held.values()):
            raise IntegrityError("chunks were taken in and not stored")

    async def abandon(self) -> None:
        """Stop: wait for what is on its way, whatever becomes of it."""
        for task in self._uploads:
            task.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)
        self._uploads.clear()


@asynccontextmanager
async def writing(vault: Vault, index: Index | None = None) -> AsyncIterator[Writer]:
    """A writer whose chunks are all stored and indexed at the end of the block."""
    writer = Writer(vault, index or await vault.index())
    try:
        yield writer
        await writer.finish()
    finally:
        await writer.abandon()


def _seal(writer: PackWriter, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        writer.add(chunk.id, chunk.data)
