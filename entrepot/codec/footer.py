"""The footer: what is known of the plaintext only at its end, and where each segment lies.

Invariant: a table that was read agrees with itself and with the length of the object: its lengths
add up, and each segment has the frames that its plaintext needs. Every offset that a reader asks
for follows from such a table. Where the object is encrypted, the table is too, under a key of its
own; else a SHA-256 finds damage.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from entrepot.clock import new_bytes
from entrepot.codec.blocks import PACKED_MAX_BYTES, RECORD_BYTES, block_count, packed_sizes
from entrepot.codec.frames import FrameOpener, FrameSealer, frame_count, opened_size, sealed_size
from entrepot.codec.header import PART_MAX, Shape, header_size
from entrepot.codec.primitives import SALT_BYTES, Piece, Random, derive, prefixed
from entrepot.codec.seal import SEALED_BYTES, DataKey
from entrepot.errors import IntegrityError, InvalidInput, LimitExceeded

FOOTER_MAX_BYTES: Final = 64 * 1024 * 1024
"""A reader takes no larger one; 5 TiB in 10,000 parts, compressed, need 41 MiB."""

_SKIPPABLE: Final = 0x184D2A5F
_FRAME: Final = struct.Struct("<II")
_TRAILER: Final = struct.Struct(">I4s")
_MARK: Final = b"EPOF"
TRAILER_BYTES: Final = _TRAILER.size
_INFO: Final = b"entrepot/1 footer"
_ROW: Final = struct.Struct(f">HQQ16s{SALT_BYTES}sI")
_DIGEST_BYTES: Final = 32
_ETAG_MAX_BYTES: Final = 1024  # S3's have at most 38; a checksum in base64 has 88
_CHECKSUMS_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Segment:
    """A row of the table.

    ``stored_bytes`` counts the header too, ``md5`` is of the plaintext, ``packed`` has 8 bytes for
    each zstd frame, as in the format (5 GiB: 40 KiB), and is empty where not compressed.
    """

    part_number: int
    size_bytes: int
    stored_bytes: int
    md5: bytes
    salt: bytes
    packed: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Table:
    """What the footer says: of the plaintext, and of each segment by part number."""

    size_bytes: int
    etag: str
    checksums: Mapping[str, str]
    segments: tuple[Segment, ...]


def footer_size(
    shape: Shape,
    *,
    size_bytes: int,
    etag_bytes: int = 32,
    checksums: Mapping[str, int] | None = None,
    segments: int = 1,
) -> int:
    """Length of the footer of an object of that many bytes, exact where not compressed.

    ``checksums`` gives the length of each value by name. Where compressed it is exact too as long
    as there is one segment, since each block of the plaintext is one frame.
    """
    texts = sum(4 + len(name) + length for name, length in (checksums or {}).items())
    packed = block_count(size_bytes) * RECORD_BYTES if shape.compressed else 0
    table = 2 + len(shape.sealed) + 8 + 2 + etag_bytes + 1 + texts + 2
    table += segments * _ROW.size + packed
    return _FRAME.size + _sealed_table_size(shape, table) + _TRAILER.size


def footer(shape: Shape, table: Table, *, random: Random = new_bytes) -> bytes:
    """The bytes that end the object; ``InvalidInput`` where the table does not agree with itself.

    ``LimitExceeded`` where no reader would take a footer that long.
    """
    if problem := _problem(shape, table):
        raise InvalidInput(f"no footer can say this: {problem}")
    plain = _packed(shape, table)
    size_bytes = _FRAME.size + _sealed_table_size(shape, len(plain)) + _TRAILER.size
    if size_bytes > FOOTER_MAX_BYTES:
        raise LimitExceeded("the object needs too long a footer", size_bytes=size_bytes)
    if shape.data_key:
        salt = random(SALT_BYTES)
        sealer = FrameSealer(_key(shape.data_key, salt), aad=_aad(shape.data_id))
        sealed = b"".join([salt, *sealer.feed(plain), *sealer.drain()])
    else:
        sealed = plain + _digest(shape.data_id, plain)
    frame = _FRAME.pack(_SKIPPABLE, len(sealed) + _TRAILER.size)
    return frame + sealed + _TRAILER.pack(size_bytes, _MARK)


def stated_size(trailer: Piece, *, stored_bytes: int) -> int:
    """Length of the footer, from the last 8 bytes of an object of that many."""
    size_bytes, mark = _TRAILER.unpack(trailer)
    if mark != _MARK:
        raise IntegrityError("the object has no footer: it is cut off, or not encoded")
    least = _FRAME.size + _TRAILER.size
    if not least <= size_bytes <= min(FOOTER_MAX_BYTES, stored_bytes):
        raise IntegrityError("the footer claims an impossible length", size_bytes=size_bytes)
    return int(size_bytes)


def read_footer(
    footer: Piece,
    *,
    stored_bytes: int,
    data_key: DataKey | None,
    data_id: bytes,
    compressed: bool,
) -> tuple[Table, Shape]:
    """The verified table of an object of that many bytes, footer included, and its shape."""
    view = memoryview(footer)
    frame = _FRAME.pack(_SKIPPABLE, len(view) - _FRAME.size)
    if view[: _FRAME.size] != frame:
        raise IntegrityError("the footer is damaged")
    sealed = view[_FRAME.size : -_TRAILER.size]
    plain = _opened(sealed, data_key) if data_key else _undamaged(sealed, data_id)
    try:
        table, seal = _parsed(plain)
    except (struct.error, ValueError) as error:
        raise IntegrityError("the footer's table is malformed") from error
    if len(seal) != (SEALED_BYTES if data_key else 0):
        raise IntegrityError("the footer's table is malformed")
    shape = Shape(data_id, compressed, data_key, seal)
    problem = _problem(shape, table)
    if (
        not problem
        and sum(each.stored_bytes for each in table.segments) + len(view) != stored_bytes
    ):
        problem = "its lengths are not that of the object"
    if problem:
        raise IntegrityError(f"the footer's table does not hold: {problem}")
    return table, shape


def _sealed_table_size(shape: Shape, size_bytes: int) -> int:
    return SALT_BYTES + sealed_size(size_bytes) if shape.data_key else size_bytes + _DIGEST_BYTES


def _key(data_key: DataKey, salt: bytes) -> bytes:
    return derive(data_key.secret, salt=salt, info=_INFO)


def _aad(data_id: bytes) -> bytes:
    return sha256(_INFO + data_id).digest()


def _opened(sealed: memoryview, data_key: DataKey) -> bytes:
    salt, frames = bytes(sealed[:SALT_BYTES]), sealed[SALT_BYTES:]
    size_bytes = opened_size(len(frames))
    opener = FrameOpener(
        _key(data_key, salt),
        aad=_aad(data_key.data_id),
        size_bytes=size_bytes,
        first=0,
        last=frame_count(size_bytes) - 1,
    )
    try:
        return b"".join(opener.feed(frames))
    except IntegrityError as error:
        raise IntegrityError("the footer does not verify") from error


def _digest(data_id: bytes, plain: bytes) -> bytes:
    return sha256(_INFO + data_id + plain).digest()


def _undamaged(sealed: memoryview, data_id: bytes) -> bytes:
    plain, digest = bytes(sealed[:-_DIGEST_BYTES]), sealed[-_DIGEST_BYTES:]
    if _digest(data_id, plain) != digest:
        raise IntegrityError("the footer is damaged")
    return plain


def _packed(shape: Shape, table: Table) -> bytes:
    """``T`` of the format."""
    parts = [prefixed(shape.sealed), struct.pack(">Q", table.size_bytes)]
    parts += [prefixed(table.etag), bytes([len(table.checksums)])]
    for name in sorted(table.checksums):
        parts += [prefixed(name), prefixed(table.checksums[name])]
    parts.append(struct.pack(">H", len(table.segments)))
    for each in table.segments:
        sizes = (each.part_number, each.size_bytes, each.stored_bytes)
        count = len(each.packed) // RECORD_BYTES
        parts += [_ROW.pack(*sizes, each.md5, each.salt, count), each.packed]
    return b"".join(parts)


class _Cursor:
    """Takes fields off the front; ``struct.error`` where there is less."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def take(self, size_bytes: int) -> bytes:
        if size_bytes > len(self._data):
            raise struct.error("too short")
        taken, self._data = self._data[:size_bytes], self._data[size_bytes:]
        return bytes(taken)

    def number(self, size_bytes: int) -> int:
        return int.from_bytes(self.take(size_bytes), "big")

    def prefixed(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return self.prefixed().decode("ascii")

    def segment(self) -> Segment:
        number, size, stored, digest, salt, count = _ROW.unpack(self.take(_ROW.size))
        return Segment(number, size, stored, digest, salt, self.take(count * RECORD_BYTES))

    def end(self) -> None:
        if self._data:
            raise struct.error("too long")


def _parsed(plain: bytes) -> tuple[Table, bytes]:
    """The table and the seal; ``struct.error`` or ``ValueError`` where it is not one."""
    cursor = _Cursor(plain)
    seal, size_bytes, etag = cursor.prefixed(), cursor.number(8), cursor.text()
    checksums = [(cursor.text(), cursor.text()) for _ in range(cursor.number(1))]
    if [name for name, _ in checksums] != sorted({name for name, _ in checksums}):
        raise ValueError("checksums are not in order")
    segments = tuple(cursor.segment() for _ in range(cursor.number(2)))
    cursor.end()
    return Table(size_bytes, etag, dict(checksums), segments), seal


def _problem(shape: Shape, table: Table) -> str:
    """Why no object can have this table; "" where one can."""
    numbers = [each.part_number for each in table.segments]
    texts = [table.etag, *table.checksums, *table.checksums.values()]
    if not all(text.isascii() and len(text) <= _ETAG_MAX_BYTES for text in texts):
        return "a text is not ASCII or too long"
    if len(table.checksums) > _CHECKSUMS_MAX:
        return "there are too many checksums"
    if (
        not numbers
        or numbers != sorted(set(numbers))
        or not 0 < numbers[0] <= numbers[-1] <= PART_MAX
    ):
        return "part numbers do not ascend from 1 to 10,000"
    if table.size_bytes != sum(each.size_bytes for each in table.segments):
        return "segments do not add up to the object"
    head = header_size(shape)
    return next(filter(None, (_segment_problem(shape, head, each) for each in table.segments)), "")


def _segment_problem(shape: Shape, head_bytes: int, segment: Segment) -> str:
    where = f"part {segment.part_number}"
    if len(segment.md5) != 16 or len(segment.salt) != SALT_BYTES:
        return f"{where} has no MD5 or salt"
    blocks = block_count(segment.size_bytes) if shape.compressed else 0
    if len(segment.packed) != blocks * RECORD_BYTES:
        return f"{where} has not a zstd frame for each block"
    sizes = list(packed_sizes(segment.packed))
    if not all(0 < size <= PACKED_MAX_BYTES for size in sizes):
        return f"{where} has a zstd frame of impossible length"
    body = sum(sizes) if shape.compressed else segment.size_bytes
    if shape.data_key:
        body = sealed_size(body)
    return "" if segment.stored_bytes == head_bytes + body else f"{where} has an impossible length"
