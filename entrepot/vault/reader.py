"""Chunks out of a vault, verified, in the order they are asked for.

Blobs that lie together are one request, and the next is on its way while one is used. Memory: two
runs and the chunks of one, each of ``RUN_BYTES`` or of one chunk where that is larger.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Final

from entrepot.errors import IntegrityError, NotFound
from entrepot.vault.index import Index, Location, PackInfo
from entrepot.vault.packs import PackOpener
from entrepot.vault.repository import Vault, pack_name

RUN_BYTES: Final = 8 << 20
GAP_BYTES: Final = 256 * 1024
"""Bytes between two blobs that are cheaper to read than another request."""

INLINE_BYTES: Final = 64 * 1024
LOST_HINT: Final = (
    "back up again, which stores it anew while its source has it; or read another copy"
)

Run = list[Location]
"""Blobs of one pack, in its order, that are read at once."""


async def read_chunks(
    vault: Vault, index: Index, ids: Iterable[bytes]
) -> AsyncGenerator[bytes, None]:
    """The chunks of ``ids``. ``NotFound`` for one that the vault has not; ``IntegrityError``."""
    ahead: deque[tuple[Run, asyncio.Task[bytes]]] = deque()
    try:
        for run in runs(_located(index, ids)):
            ahead.append((run, asyncio.create_task(_fetch(vault, run))))
            if len(ahead) > 1:
                for chunk in await _next(vault, ahead):
                    yield chunk
        while ahead:
            for chunk in await _next(vault, ahead):
                yield chunk
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)


async def _next(vault: Vault, ahead: deque[tuple[Run, asyncio.Task[bytes]]]) -> list[bytes]:
    """The chunks of the run that was asked for first."""
    run, task = ahead[0]
    data = await task
    ahead.popleft()
    return await _opened(vault, run, data)


async def read_chunk(vault: Vault, index: Index, chunk_id: bytes) -> bytes:
    """One chunk."""
    return b"".join([chunk async for chunk in read_chunks(vault, index, [chunk_id])])


def _located(index: Index, ids: Iterable[bytes]) -> Iterator[Location]:
    for chunk_id in ids:
        found = index.find(chunk_id)
        if found is None:
            raise NotFound(
                "the vault has not the chunk",
                hint=LOST_HINT,
                chunk=chunk_id.hex(),
            )
        yield found


def runs(locations: Iterable[Location]) -> Iterator[Run]:
    """Neighbours that are worth one request."""
    run: Run = []
    plain_bytes = 0
    for found in locations:
        plain_bytes += found.row.size_bytes
        if run and (plain_bytes > RUN_BYTES or not _joins(run, found)):
            yield run
            run, plain_bytes = [], found.row.size_bytes
        run.append(found)
    if run:
        yield run


def _joins(run: Run, found: Location) -> bool:
    first, last = run[0], run[-1]
    if found.pack.id != last.pack.id:
        return False
    gap = found.row.offset - (last.row.offset + last.row.stored_bytes)
    stop = found.row.offset + found.row.stored_bytes
    return 0 <= gap <= GAP_BYTES and stop - first.row.offset <= RUN_BYTES


async def _fetch(vault: Vault, run: Run) -> bytes:
    start, stop = _bounds(run)
    pack = run[0].pack.id
    try:
        return await vault.place.read_range(pack_name(pack), start, stop)
    except NotFound as error:
        raise NotFound("a pack of the vault is missing", hint=LOST_HINT, pack=pack.hex()) from error


def _bounds(run: Run) -> tuple[int, int]:
    last = run[-1].row
    return run[0].row.offset, last.offset + last.stored_bytes


async def _opened(vault: Vault, run: Run, data: bytes) -> list[bytes]:
    pack = run[0].pack
    opener = await opener_of(vault, pack)
    if len(data) <= INLINE_BYTES:
        return open_run(opener, run, data)
    return await asyncio.to_thread(open_run, opener, run, data)


async def opener_of(vault: Vault, pack: PackInfo) -> PackOpener:
    """What opens the blobs of a pack."""
    return PackOpener(pack.header, await vault.keys_of(pack.domain))


def open_run(opener: PackOpener, run: Run, data: bytes) -> list[bytes]:
    """The chunks of a run from its bytes."""
    start, _ = _bounds(run)
    view = memoryview(data)
    found = []
    for pack, number, row in run:
        at = row.offset - start
        try:
            found.append(opener.chunk(row, view[at : at + row.stored_bytes], number=number))
        except IntegrityError as error:
            raise IntegrityError(
                f"a blob of the vault is damaged: {error.message}",
                hint="read another copy of the vault",
                pack=pack.id.hex(),
                blob=number,
            ) from error
    return found
