"""Chunks on their way into a vault: only what it has not, in packs, indexed once they are stored.

Invariant: ``store`` gives ids whose chunks are in the vault or in a pack of this writer; after
``finish`` all of them are stored and indexed. A writer that is killed leaves packs without an
index at most; what it indexed so far is found by the next one. A caller of ``store`` that is
cancelled does no harm to the others.

Memory: ``OPEN_PACKS`` that grow and ``UPLOADS`` on their way, a pack being ``pack_bytes`` and up to
four chunks, and twice while it is closed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from entrepot.errors import IntegrityError
from entrepot.vault.chunks import Chunk
from entrepot.vault.index import Index, PackInfo
from entrepot.vault.keys import Cutting, Domain, DomainKeys
from entrepot.vault.packs import PackWriter
from entrepot.vault.repository import Vault, pack_name

UPLOADS: Final = 3
OPEN_PACKS: Final = 4
"""Times ``pack_bytes`` that packs of several domains may hold before the largest is closed."""

TOGETHER: Final = 4
"""Chunks that are sealed by one call."""

INLINE_BYTES: Final = 64 * 1024
"""Up to here, sealing takes about as long as the hop to a thread."""

INDEX_PACKS: Final = 64
"""Packs until an index is written: what a killed writer has to do again at most, 1 GiB."""


class Writer:
    """Puts chunks into one vault, for any number of tasks."""

    def __init__(self, vault: Vault, index: Index) -> None:
        self._vault = vault
        self._index = index
        self._open: dict[Domain, PackWriter] = {}
        self._held: dict[Domain, set[bytes]] = {}
        self._lock = asyncio.Lock()
        self._room = asyncio.Semaphore(UPLOADS)
        self._uploads: set[asyncio.Task[None]] = set()
        self._stored: list[PackInfo] = []
        self._failure: BaseException | None = None
        self.new_chunks = 0
        self.new_bytes = 0
        """Plain bytes that the vault had not."""
        self.stored_bytes = 0
        """Bytes of the packs they went to."""

    @property
    def cutting(self) -> Cutting:
        return self._vault.file.cutting

    async def store(self, chunks: Sequence[Chunk], keys: DomainKeys) -> tuple[bytes, ...]:
        """Take chunks in; their ids. Raises what an earlier upload met."""
        async with self._lock:
            held = self._held.setdefault(keys.domain, set())
            news = {
                chunk.id: chunk
                for chunk in chunks
                if chunk.id not in held and chunk.id not in self._index
            }
            new = list(news.values())
            for at in range(0, len(new), TOGETHER):
                await self._add(new[at : at + TOGETHER], keys)
        return tuple(chunk.id for chunk in chunks)

    async def _add(self, new: Sequence[Chunk], keys: DomainKeys) -> None:
        writer = self._open.get(keys.domain) or PackWriter(keys, random=self._vault.random)
        self._open[keys.domain] = writer
        size_bytes = sum(len(chunk.data) for chunk in new)
        if size_bytes <= INLINE_BYTES:
            _seal(writer, new)
        else:
            await _to_its_end(_seal, writer, new)
        self._held[keys.domain].update(chunk.id for chunk in new)
        self.new_chunks += len(new)
        self.new_bytes += size_bytes
        await self._close_full(keys.domain)

    async def _close_full(self, domain: Domain) -> None:
        """Close the pack of ``domain`` if it is full, or the largest if all are too much."""
        full_bytes = self._vault.file.cutting.pack_bytes
        if self._open[domain].size_bytes >= full_bytes:
            await self._close(domain)
        elif sum(each.size_bytes for each in self._open.values()) >= OPEN_PACKS * full_bytes:
            await self._close(max(self._open, key=lambda each: self._open[each].size_bytes))

    async def _close(self, domain: Domain) -> None:
        """Send a pack on its way; waits while too many are."""
        self._raise()
        await self._room.acquire()
        task = asyncio.create_task(self._upload(self._open.pop(domain)))
        self._uploads.add(task)

    async def _upload(self, writer: PackWriter) -> None:
        try:
            pack = await asyncio.to_thread(writer.close)
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
        packs, self._stored = sorted(self._stored, key=lambda each: each.id), []
        try:
            if packs:
                await self._vault.write_index(packs)
        except BaseException:
            self._stored += packs
            raise

    def _raise(self) -> None:
        """The error of the first upload that failed: nothing this writer does counts any more."""
        for task in [task for task in self._uploads if task.done()]:
            self._uploads.discard(task)
            self._failure = self._failure or task.exception()
        if self._failure:
            raise self._failure

    async def finish(self) -> None:
        """Have all stored and indexed."""
        async with self._lock:
            self._raise()
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
    writer = Writer(vault, await vault.index() if index is None else index)
    try:
        yield writer
        await writer.finish()
    finally:
        await writer.abandon()


async def _to_its_end(call: Callable[..., None], *args: object) -> None:
    """As ``to_thread``, but a caller that is cancelled leaves only when the thread has."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    work.result()
    if cancelled:
        raise cancelled


def _seal(writer: PackWriter, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        writer.add(chunk.id, chunk.data)
