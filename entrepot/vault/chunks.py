"""A stream of bytes cut where its content says (FastCDC), so that an edit moves few cuts.

Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
Systems", IEEE TPDS 2020.

Invariant: where a stream is cut depends on its bytes alone, not on the pieces it came in: a cut is
taken only where the end of what is held played no part in it.

Memory: two of the largest chunks and one piece of the source.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Final, NamedTuple

from pyfastcdc import FastCDC

from entrepot.vault.keys import Cutting, DomainKeys

INLINE_BYTES: Final = 256 * 1024
"""Up to here, cutting and naming takes less time (0.2 ms) than a thread would save."""


class Chunk(NamedTuple):
    """A chunk and its id."""

    id: bytes
    data: bytes


class Cutter:
    """Cuts one stream. What ``feed`` gives is to be exhausted before the next call."""

    def __init__(self, cutting: Cutting, *, seed: int) -> None:
        self._fastcdc = FastCDC(
            cutting.average_bytes,
            min_size=cutting.min_bytes,
            max_size=cutting.max_bytes,
            seed=seed,
        )
        self._enough = 2 * cutting.max_bytes
        self._held = bytearray()

    def is_ready(self, piece: bytes) -> bool:
        """Whether there is something to cut with ``piece``."""
        return len(self._held) + len(piece) >= self._enough

    def hold(self, piece: bytes) -> None:
        """Take ``piece`` in, and cut nothing yet."""
        self._held += piece

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take ``piece`` in; the chunks that are certain."""
        self._held += piece
        yield from self._cut(last=False)

    def drain(self) -> Iterator[bytes]:
        """The rest; nothing of an empty stream."""
        yield from self._cut(last=True)

    def _cut(self, *, last: bool) -> Iterator[bytes]:
        done = 0
        found: list[bytes] = []
        with memoryview(self._held) as view:
            for chunk in self._fastcdc.cut_buf(view):
                end = chunk.offset + chunk.length
                if end == len(view) and not last:
                    break
                found.append(bytes(view[done:end]))
                done = end
            del chunk
        del self._held[:done]
        yield from found


async def chunks(
    source: AsyncIterable[bytes], cutting: Cutting, keys: DomainKeys
) -> AsyncGenerator[list[Chunk], None]:
    """The chunks of ``source`` in order, some at a time, named by ``keys``."""
    cutter = Cutter(cutting, seed=keys.seed)
    came_bytes = 0
    async for piece in source:
        came_bytes += len(piece)
        if cutter.is_ready(piece):
            yield await asyncio.to_thread(_named, cutter.feed(piece), keys)
        else:
            cutter.hold(piece)
    if came_bytes <= INLINE_BYTES:
        yield _named(cutter.drain(), keys)
    else:
        yield await asyncio.to_thread(_named, cutter.drain(), keys)


def _named(found: Iterator[bytes], keys: DomainKeys) -> list[Chunk]:
    return [Chunk(keys.chunk_id(data), data) for data in found]
