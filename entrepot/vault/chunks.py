"""A stream of bytes cut where its content says (FastCDC), so that an edit moves few cuts.

Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
Systems", IEEE TPDS 2020.

Invariant: where a stream is cut depends on its bytes alone, not on the pieces it came in: a cut is
taken only where the end of what is held played no part in it.

Memory: two of the largest chunks and one piece of the source, twice while they are joined.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from pyfastcdc import FastCDC

from entrepot.vault.keys import Cutting, DomainKeys

INLINE_BYTES: Final = 256 * 1024
"""Up to here, cutting and naming takes less time (0.2 ms) than a thread would save."""


class Chunk(NamedTuple):
    """A chunk and its id. ``data`` may be a view of a larger piece, which it keeps alive."""

    id: bytes
    data: bytes | memoryview


@lru_cache(maxsize=64)
def _fastcdc(cutting: Cutting, seed: int) -> FastCDC:
    """Tables of 4 KiB that never change, whose making would cost a small object as much as AES."""
    return FastCDC(
        cutting.average_bytes,
        min_size=cutting.min_bytes,
        max_size=cutting.max_bytes,
        seed=seed,
    )


class Cutter:
    """Cuts one stream."""

    def __init__(self, cutting: Cutting, *, seed: int) -> None:
        self._fastcdc = _fastcdc(cutting, seed)
        self._enough = 2 * cutting.max_bytes
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0

    @property
    def is_ready(self) -> bool:
        """Whether enough is held that there is something to cut."""
        return self._held_bytes >= self._enough

    def hold(self, piece: bytes) -> None:
        """Take ``piece`` in, and cut nothing yet."""
        self._held.append(piece)
        self._held_bytes += len(piece)

    def cut(self, *, last: bool = False) -> list[memoryview]:
        """The chunks that are certain; ``last``: all of the rest, nothing of an empty stream."""
        whole = memoryview(b"".join(self._held))
        done = 0
        found: list[memoryview] = []
        for chunk in self._fastcdc.cut_buf(whole):
            end = chunk.offset + chunk.length
            if end == len(whole) and not last:
                break
            found.append(whole[done:end])
            done = end
        self._held = [bytes(whole[done:])]  # a copy: a view would keep all that was cut
        self._held_bytes = len(whole) - done
        return found


def named(cutter: Cutter, keys: DomainKeys, *, last: bool) -> list[Chunk]:
    """What ``cutter`` cuts, with ids."""
    return [Chunk(keys.chunk_id(data), data) for data in cutter.cut(last=last)]
