"""Compression in blocks of 1 MiB, each a zstd frame (RFC 8878) that stands for itself.

Invariant: a block is read only as the frame that the table names: of that length and checksum, and
of exactly the content that the block's place says. So no frame can make a reader allocate more
than a block, whatever it claims. The checksum is zstd's own, XXH64 of the content: libzstd
verifies it where a frame bears one, and that a frame bears one is looked at here.

1 MiB: what a small range must read at least, and large enough that the ratio is within 1 or 2 % of
a whole stream's.
"""

import struct
from collections.abc import Iterator
from itertools import repeat
from typing import Final

import zstandard

from entrepot.codec.frames import Cut
from entrepot.codec.primitives import Piece
from entrepot.errors import IntegrityError

BLOCK_LOG: Final = 20
BLOCK_BYTES: Final = 1 << BLOCK_LOG
PACKED_MAX_BYTES: Final = BLOCK_BYTES + (1 << 13)
"""Of the zstd frame of a block: libzstd adds at most 1/256 and some 20 bytes."""

LEVEL: Final = 1
"""Twice as fast as level 3 on the log of ``bench/codec.py``, and not larger (19.6 % to 20.8 %)."""

SAMPLE_MAX_BYTES: Final = 256 * 1024
SAVING_MIN: Final = 1 / 8
"""Less than an eighth is not worth decompressing at each read: the bound that ZFS uses too."""

_RECORD: Final = struct.Struct(">I4s")
RECORD_BYTES: Final = _RECORD.size
"""A zstd frame in the table: its length and its checksum."""

_CHECKSUM_BYTES: Final = 4


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)


def pays(sample: bytes) -> bool:
    """Whether compressing saves an eighth of ``sample``, of which 256 KiB are looked at."""
    part = memoryview(sample)[:SAMPLE_MAX_BYTES]
    return len(_compressor().compress(part)) <= len(part) * (1 - SAVING_MIN)


def block_count(size_bytes: int) -> int:
    """Blocks of a plaintext of that many bytes."""
    return -(-size_bytes // BLOCK_BYTES)


def packed_sizes(records: bytes) -> Iterator[int]:
    """Lengths of the zstd frames that the table names."""
    return (size_bytes for size_bytes, _ in _RECORD.iter_unpack(records))


class BlockPacker:
    """Compresses one stream. ``records`` is what the table says of the frames so far."""

    def __init__(self) -> None:
        self._zstd = _compressor()
        self._cut = Cut(repeat(BLOCK_BYTES))
        self.records = bytearray()

    def feed(self, piece: Piece) -> Iterator[bytes]:
        """Zstd frames of the blocks that became whole."""
        for block in self._cut.feed(piece):
            yield self._pack(block)

    def drain(self) -> Iterator[bytes]:
        """The zstd frame of the last block, where it is shorter than the others."""
        if self._cut.rest:
            yield self._pack(self._cut.rest)

    def _pack(self, block: Piece) -> bytes:
        packed = self._zstd.compress(block)
        self.records += _RECORD.pack(len(packed), packed[-_CHECKSUM_BYTES:])
        return packed


class BlockOpener:
    """Decompresses blocks ``first`` to ``last`` (inclusive) of a plaintext of ``size_bytes``."""

    def __init__(self, records: bytes, *, size_bytes: int, first: int, last: int) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=BLOCK_BYTES)
        records = records[first * RECORD_BYTES : (last + 1) * RECORD_BYTES]
        self._cut = Cut(packed_sizes(records))
        self._checksums = (checksum for _, checksum in _RECORD.iter_unpack(records))
        self._index = first
        self._size_bytes = size_bytes

    def feed(self, piece: Piece) -> Iterator[bytes]:
        """Blocks that became whole, verified; ``IntegrityError`` of the first that is not."""
        for frame in self._cut.feed(piece):
            yield self._open(frame)

    def _open(self, frame: Piece) -> bytes:
        size_bytes = min(BLOCK_BYTES, self._size_bytes - self._index * BLOCK_BYTES)
        try:
            said = zstandard.get_frame_parameters(frame)
            if not said.has_checksum or said.content_size != size_bytes:
                raise IntegrityError("a zstd frame is not that of its block", block=self._index)
            block = self._zstd.decompress(frame, max_output_size=size_bytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise IntegrityError("a zstd frame is damaged", block=self._index) from error
        if len(block) != size_bytes or bytes(frame[-_CHECKSUM_BYTES:]) != next(self._checksums):
            raise IntegrityError("a zstd frame is not that of its block", block=self._index)
        self._index += 1
        return block
