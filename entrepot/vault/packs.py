"""Packs: chunks of one domain, sealed one by one, with a directory behind them.

Invariant: a pack has a key of its own, from its salt, and is made whole in memory: the counter of
its blobs never repeats under that key. What is read is a chunk only when its tag and then its id
are right.

Words: *blob* a chunk as it is stored; *row* where a blob is and what it holds.
"""

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import zstandard
from blake3 import blake3

from entrepot.clock import new_bytes
from entrepot.codec.primitives import SALT_BYTES, TAG_BYTES, Gcm, Piece, Random, prefixed
from entrepot.errors import IntegrityError, InvalidInput
from entrepot.vault.keys import CHUNK_LIMIT_BYTES, Domain, DomainKeys

ID_BYTES: Final = 32
ROW: Final = struct.Struct(f">{ID_BYTES}sII")
TRAILER: Final = struct.Struct(">HI4s")
SAVING_MIN: Final = 1 / 8
"""As in ``entrepot.codec.blocks``: less is not worth decompressing."""
LEVEL: Final = 3
"""A backup is written once and kept: 20 % smaller than level 1 on text, at half its speed."""

SAMPLE_BYTES: Final = 64 * 1024
"""What of a larger chunk says whether it compresses: 0.1 ms a MiB where it does not."""

_MARK: Final = b"EPVP"
_END_MARK: Final = b"EPVD"
_COMPRESSED: Final = 1 << 31
_DIRECTORY: Final = 2**32 - 1
_BLOBS_MAX: Final = 1 << 24


class Row(NamedTuple):
    """A blob: ``offset`` in its pack, ``stored_bytes`` with its tag; ``size_bytes`` plain."""

    id: bytes
    offset: int
    stored_bytes: int
    size_bytes: int
    is_compressed: bool

    def dump(self) -> bytes:
        """As the format has it; the offset follows from the rows before it."""
        flag = _COMPRESSED if self.is_compressed else 0
        return ROW.pack(self.id, self.stored_bytes, self.size_bytes | flag)


def rows(data: Piece, *, start: int) -> Iterator[Row]:
    """The rows of a directory whose first blob lies at ``start``; ``IntegrityError``."""
    if len(data) % ROW.size:
        raise IntegrityError("a directory has no whole number of rows")
    for chunk_id, stored_bytes, size_bytes in ROW.iter_unpack(data):
        row = Row(chunk_id, start, stored_bytes, size_bytes & ~_COMPRESSED, bool(size_bytes >> 31))
        if not 0 < row.size_bytes <= CHUNK_LIMIT_BYTES or row.stored_bytes <= TAG_BYTES:
            raise IntegrityError("a directory names an impossible blob")
        yield row
        start += stored_bytes


def header(domain: Domain, salt: bytes) -> bytes:
    """``H`` of the format."""
    return _MARK + prefixed(domain.name) + domain.number.to_bytes(4, "big") + salt


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack that is whole: its bytes, and where each chunk is in it."""

    id: bytes
    domain: Domain
    header: bytes = field(repr=False)
    data: bytes = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)


class PackWriter:
    """One pack as it grows. Memory: its bytes, and once more while ``close`` makes one piece.

    A blob takes its number under a lock: two threads can never seal under one nonce.
    """

    def __init__(self, keys: DomainKeys, *, random: Random = new_bytes) -> None:
        salt = random(SALT_BYTES)
        self._domain = keys.domain
        self._head = header(keys.domain, salt)
        self._aad = blake3(self._head).digest()
        self._gcm = Gcm(keys.pack_key(salt))
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._parts: list[Piece] = [self._head]
        self._rows: list[Row] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self.size_bytes = len(self._head)

    def add(self, chunk_id: bytes, chunk: Piece) -> None:
        """Seal a chunk; blocks for some 10 ms a MiB. ``InvalidInput`` for none or too large."""
        with self._lock:
            is_full = self._is_closed or len(self._rows) >= _BLOBS_MAX
            if is_full or not 0 < len(chunk) <= CHUNK_LIMIT_BYTES:
                raise InvalidInput("no pack takes such a chunk", size_bytes=len(chunk))
            packed = self._packed(chunk)
            sealed = bytearray(len(packed) + TAG_BYTES)
            self._gcm.seal(packed, sealed, nonce=_nonce(len(self._rows)), aad=self._aad)
            is_compressed = packed is not chunk
            row = Row(chunk_id, self.size_bytes, len(sealed), len(chunk), is_compressed)
            self._rows.append(row)
            self._parts.append(sealed)
            self.size_bytes += len(sealed)

    def _packed(self, chunk: Piece) -> Piece:
        if len(chunk) > SAMPLE_BYTES:
            sample = self._zstd.compress(memoryview(chunk)[:SAMPLE_BYTES])
            if len(sample) > SAMPLE_BYTES * (1 - SAVING_MIN):
                return chunk
        packed = self._zstd.compress(chunk)
        return packed if len(packed) <= len(chunk) * (1 - SAVING_MIN) else chunk

    @property
    def is_empty(self) -> bool:
        return not self._rows

    def close(self) -> Pack:
        """The pack; nothing can be added any more."""
        with self._lock:
            if self.is_empty or self._is_closed:
                raise InvalidInput("a pack has at least one chunk, and is closed once")
            self._is_closed = True
        plain = b"".join(row.dump() for row in self._rows)
        directory = bytearray(len(plain) + TAG_BYTES)
        self._gcm.seal(plain, directory, nonce=_nonce(_DIRECTORY), aad=self._aad)
        trailer = TRAILER.pack(len(self._head), len(directory), _END_MARK)
        data = b"".join([*self._parts, directory, trailer])
        self._parts = []
        return Pack(pack_id(data), self._domain, self._head, data, tuple(self._rows))


def pack_id(data: Piece) -> bytes:
    """What a pack is named by: ``B3`` of its bytes."""
    return blake3(data).digest()


class PackOpener:
    """Opens blobs of one pack."""

    def __init__(self, head: bytes, keys: DomainKeys) -> None:
        self._aad = blake3(head).digest()
        self._gcm = Gcm(keys.pack_key(head[-SALT_BYTES:]))
        self._keys = keys
        self._zstd = zstandard.ZstdDecompressor()

    def chunk(self, row: Row, blob: Piece, *, number: int) -> bytes:
        """The chunk in blob ``number``; ``IntegrityError`` unless it is the one of ``row``."""
        packed = self._opened(blob, number)
        data = self._unpacked(packed, row) if row.is_compressed else packed
        if len(data) != row.size_bytes or self._keys.chunk_id(data) != row.id:
            raise IntegrityError("a blob is not the chunk it is named for", chunk=row.id.hex())
        return data

    def directory(self, sealed: Piece) -> bytes:
        """The rows of the directory."""
        return self._opened(sealed, _DIRECTORY)

    def _opened(self, sealed: Piece, number: int) -> bytes:
        if len(sealed) < TAG_BYTES:
            raise IntegrityError("a blob is shorter than its tag")
        plain = bytearray(len(sealed) - TAG_BYTES)
        self._gcm.open(sealed, plain, nonce=_nonce(number), aad=self._aad)
        return bytes(plain)

    def _unpacked(self, packed: bytes, row: Row) -> bytes:
        try:
            said = zstandard.get_frame_parameters(packed)
            if said.content_size != row.size_bytes:
                raise IntegrityError("a zstd frame is not that of its chunk", chunk=row.id.hex())
            return self._zstd.decompress(packed, max_output_size=row.size_bytes)
        except zstandard.ZstdError as error:
            raise IntegrityError("a zstd frame is damaged", chunk=row.id.hex()) from error


class Layout(NamedTuple):
    """Where a pack's parts are: what its trailer and its length say."""

    header_bytes: int
    directory_start: int
    directory_stop: int


def layout(trailer: Piece, *, pack_bytes: int) -> Layout:
    """From the last ``TRAILER.size`` bytes of a pack of that many; ``IntegrityError``."""
    if len(trailer) != TRAILER.size or pack_bytes < TRAILER.size:
        raise IntegrityError("too short to be a pack", size_bytes=pack_bytes)
    header_bytes, directory_bytes, mark = TRAILER.unpack(trailer)
    stop = pack_bytes - TRAILER.size
    if mark != _END_MARK or directory_bytes <= TAG_BYTES or header_bytes + directory_bytes > stop:
        raise IntegrityError("this is no pack, or its end is damaged", size_bytes=pack_bytes)
    return Layout(header_bytes, stop - directory_bytes, stop)


def domain_of(head: Piece) -> Domain:
    """The domain that a header names; ``IntegrityError`` for what is no header."""
    data = bytes(head)
    size = int.from_bytes(data[4:6], "big")
    if data[:4] != _MARK or len(data) != 4 + 2 + size + 4 + SALT_BYTES:
        raise IntegrityError("the header of a pack is damaged")
    try:
        name = data[6 : 6 + size].decode()
    except UnicodeDecodeError as error:
        raise IntegrityError("the header of a pack is damaged") from error
    return Domain(name, int.from_bytes(data[6 + size : 10 + size], "big"))


def _nonce(number: int) -> bytes:
    return bytes(8) + number.to_bytes(4, "big")
