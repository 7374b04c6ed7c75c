"""Plaintext to stored bytes: one segment, and the lengths that are known beforehand.

Invariant: each attempt at a segment has a salt of its own, so a key of ``frames`` encrypts one
attempt and nothing else: a retry needs a new encoder. The MD5 and the length of the plaintext are
taken on the way and are not to be taken again for the ETag.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from hashlib import md5, sha256
from itertools import chain
from typing import Final

from entrepot.clock import new_bytes
from entrepot.codec.blocks import BlockPacker, pays
from entrepot.codec.footer import Segment, Table, footer, footer_size
from entrepot.codec.frames import FrameSealer, sealed_size
from entrepot.codec.header import Shape, header, header_size
from entrepot.codec.primitives import SALT_BYTES, Piece, Random, derive
from entrepot.codec.pump import pumped, through
from entrepot.errors import InvalidInput

__all__ = [
    "Encoded",
    "Segment",
    "SegmentEncoder",
    "Shape",
    "Table",
    "encoded",
    "footer",
    "footer_size",
    "pays",
    "segment_key",
    "stored_size",
]

_INFO: Final = b"entrepot/1 segment"


def segment_key(shape: Shape, *, salt: bytes) -> bytes:
    """The key of the frames of one attempt at one segment."""
    if not shape.data_key:
        raise InvalidInput("what is not encrypted has no key")
    return derive(shape.data_key.secret, salt=salt, info=_INFO)


def stored_size(shape: Shape, *, size_bytes: int) -> int | None:
    """Bytes of the segment of a plaintext of that many; ``None`` where it is compressed."""
    return None if shape.compressed else header_size(shape) + sealed_size(size_bytes)


class SegmentEncoder:
    """One attempt at one segment. Holds less than a block and a frame, 1.1 MiB, and zstd's own."""

    def __init__(self, shape: Shape, *, part_number: int = 1, random: Random = new_bytes) -> None:
        self._salt = random(SALT_BYTES)
        self._part_number = part_number
        self._head = header(shape, part_number=part_number, salt=self._salt)
        self._packer = BlockPacker() if shape.compressed else None
        self._sealer: FrameSealer | None = None
        if shape.data_key:
            aad = sha256(self._head).digest()
            self._sealer = FrameSealer(segment_key(shape, salt=self._salt), aad=aad)
        self._md5 = md5(usedforsecurity=False)
        self._size_bytes = 0
        self._stored_bytes = 0
        self._segment: Segment | None = None

    def update(self, piece: bytes) -> bytes:
        """Stored bytes that are ready; the first ones are the header."""
        return b"".join(self.feed(piece))

    def finish(self) -> bytes:
        """The rest of the stored bytes; afterwards there is a ``segment``."""
        return b"".join(self.drain())

    @property
    def segment(self) -> Segment:
        """The row of the table, once the segment is finished; ``InvalidInput`` before."""
        if self._segment is None:
            raise InvalidInput("a segment is known at its end", part_number=self._part_number)
        return self._segment

    def feed(self, piece: Piece) -> Iterator[bytes]:
        """Like ``update``, uncopied; to be exhausted before the next call."""
        self._md5.update(piece)
        self._size_bytes += len(piece)
        packed = self._packer.feed(piece) if self._packer else [piece]
        yield from self._stored(packed)

    def drain(self) -> Iterator[bytes]:
        """Like ``finish``, uncopied."""
        if self._packer:
            yield from self._stored(self._packer.drain())
        yield from self._stored([], last=True)
        self._segment = Segment(
            part_number=self._part_number,
            size_bytes=self._size_bytes,
            stored_bytes=self._stored_bytes,
            md5=self._md5.digest(),
            salt=self._salt,
            packed=bytes(self._packer.records) if self._packer else b"",
        )

    def _stored(self, packed: Iterable[Piece], *, last: bool = False) -> Iterator[bytes]:
        """The header where it was not given yet, then ``packed``, encrypted where asked for."""
        for stored in chain([self._head], self._sealed(packed, last=last)):
            self._stored_bytes += len(stored)
            yield stored
        self._head = b""

    def _sealed(self, packed: Iterable[Piece], *, last: bool) -> Iterator[bytes]:
        for piece in packed:
            if self._sealer:
                yield from self._sealer.feed(piece)
            else:
                yield bytes(piece)
        if self._sealer and last:
            yield from self._sealer.drain()


class Encoded:
    """The stored bytes of one attempt at one segment, to be iterated once."""

    def __init__(self, source: AsyncIterable[bytes], shape: Shape, *, part_number: int) -> None:
        self._encoder = SegmentEncoder(shape, part_number=part_number)
        work = pumped if shape.compressed else through
        self._pieces = work(source, self._encoder)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    @property
    def segment(self) -> Segment:
        """See ``SegmentEncoder.segment``."""
        return self._encoder.segment

    async def aclose(self) -> None:
        """Stop early: afterwards no thread works on it."""
        await self._pieces.aclose()


def encoded(source: AsyncIterable[bytes], shape: Shape, *, part_number: int = 1) -> Encoded:
    """``source`` as one segment, in pieces of up to 1 MiB; ``segment`` is known at their end.

    Compression works in a thread, while the caller sends the piece before and the next batch
    arrives. Memory is that of ``pump`` and of one encoder: below 12 MiB however long the source.
    A second attempt needs a second call, and with it gets another salt.
    """
    return Encoded(source, shape, part_number=part_number)
