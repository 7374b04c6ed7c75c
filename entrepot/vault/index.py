"""Which chunks a vault has, and where: from its index records, in arrays.

Memory: 56 bytes a chunk, so some 60 MB a TB of data, and 128 while it is made (measured).
"""

import struct
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from entrepot.codec.primitives import TAG_BYTES, prefixed
from entrepot.errors import IntegrityError
from entrepot.vault.keys import CHUNK_LIMIT_BYTES, Domain
from entrepot.vault.packs import ID_BYTES, ROW, Pack, Row, domain_of

_PACK: Final = struct.Struct(f">{ID_BYTES}sI")
_PREFIX_BYTES: Final = 8
_ROWS: Final = np.dtype(
    [("prefix", ">u8"), ("rest", f"V{ID_BYTES - 8}"), ("stored", ">u4"), ("size", ">u4")]
)
_COMPRESSED: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A pack as an index names it; ``rows`` as in its directory."""

    id: bytes
    size_bytes: int
    header: bytes = field(repr=False)
    rows: bytes = field(repr=False)

    @classmethod
    def of(cls, pack: Pack) -> "PackInfo":
        """What an index says of a pack that was made."""
        rows = b"".join(row.dump() for row in pack.rows)
        return cls(pack.id, len(pack.data), pack.header, rows)

    @property
    def domain(self) -> Domain:
        return domain_of(self.header)

    @property
    def count(self) -> int:
        return len(self.rows) // ROW.size


class Location(NamedTuple):
    """Where a chunk is: blob ``number`` of a pack, which ``row`` describes."""

    pack: PackInfo
    number: int
    row: Row


def dump(packs: Iterable[PackInfo]) -> bytes:
    """The content of an index record."""
    parts = [
        b"".join(
            [
                _PACK.pack(pack.id, pack.size_bytes),
                prefixed(pack.header),
                pack.count.to_bytes(4, "big"),
                pack.rows,
            ]
        )
        for pack in packs
    ]
    return b"".join([len(parts).to_bytes(4, "big"), *parts])


def parse(content: bytes) -> Iterator[PackInfo]:
    """The packs of an index record; ``IntegrityError`` where it is none."""
    try:
        at, left = 4, int.from_bytes(content[:4], "big")
        for _ in range(left):
            pack, at = _parsed(content, at)
            yield pack
    except struct.error as error:
        raise IntegrityError("an index is malformed") from error
    if at != len(content):
        raise IntegrityError("an index is longer than it says")


def _parsed(content: bytes, at: int) -> tuple[PackInfo, int]:
    pack_id, size_bytes = _PACK.unpack_from(content, at)
    at += _PACK.size
    (header_bytes,) = struct.unpack_from(">H", content, at)
    header = content[at + 2 : at + 2 + header_bytes]
    at += 2 + header_bytes
    (count,) = struct.unpack_from(">I", content, at)
    rows = content[at + 4 : at + 4 + count * ROW.size]
    if len(rows) != count * ROW.size:
        raise struct.error("too short")
    domain_of(header)  # raises where it is none
    return PackInfo(pack_id, size_bytes, header, rows), at + 4 + len(rows)


class Index:
    """The chunks of some packs. One that several packs have is found in the first of them."""

    def __init__(
        self, packs: Iterable[PackInfo] = (), *, without: Set[bytes] = frozenset()
    ) -> None:
        """``without``: ids of packs that are passed over, such as doomed ones."""
        self.packs: list[PackInfo] = []
        self._known: set[bytes] = set()
        self._fresh: dict[bytes, tuple[int, int]] = {}
        self._prefixes: Any = np.empty(0, np.uint64)
        self._places: Any = np.empty((0, 2), np.uint32)
        self._offsets: tuple[int, Any] = (-1, None)
        for pack in packs:
            if pack.id not in without:
                self._append(pack)
        self._sort()

    def add(self, pack: PackInfo) -> None:
        """Know of one more pack."""
        place = self._append(pack)
        if place is not None:
            for number, (chunk_id, _, _) in enumerate(ROW.iter_unpack(pack.rows)):
                self._fresh.setdefault(chunk_id, (place, number))

    def _append(self, pack: PackInfo) -> int | None:
        if pack.id in self._known:
            return None
        self._known.add(pack.id)
        self.packs.append(pack)
        return len(self.packs) - 1

    def _sort(self) -> None:
        """First bytes of ids in order, with the places of their packs and in them."""
        if not self.packs:
            return
        rows = np.frombuffer(b"".join(pack.rows for pack in self.packs), _ROWS)
        counts = [pack.count for pack in self.packs]
        packs = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
        numbers = np.concatenate([np.arange(count, dtype=np.uint32) for count in counts])
        prefixes = rows["prefix"].astype(np.uint64)
        order = np.argsort(prefixes, kind="stable")
        self._prefixes = prefixes[order]
        self._places = np.stack([packs[order], numbers[order]], axis=1)

    def __len__(self) -> int:
        """Chunks, those that several packs have counted as often."""
        return len(self._prefixes) + len(self._fresh)

    def __contains__(self, chunk_id: bytes) -> bool:
        return self._place(chunk_id) is not None

    def find(self, chunk_id: bytes) -> Location | None:
        """Where a chunk is; ``None`` where the vault does not have it."""
        place = self._place(chunk_id)
        return None if place is None else self._location(*place)

    def _place(self, chunk_id: bytes) -> tuple[int, int] | None:
        at = self.ordinal(chunk_id)
        if at is None:
            return self._fresh.get(chunk_id)
        return self._placed(at)

    def ordinal(self, chunk_id: bytes) -> int | None:
        """A number below ``len(self)`` of a chunk that was there when the index was made."""
        prefix = np.uint64(int.from_bytes(chunk_id[:_PREFIX_BYTES], "big"))
        at = int(self._prefixes.searchsorted(prefix))
        while at < len(self._prefixes) and self._prefixes[at] == prefix:
            pack, number = self._placed(at)
            start = number * ROW.size
            if self.packs[pack].rows[start : start + ID_BYTES] == chunk_id:
                return at
            at += 1
        return None

    def plain_bytes(self, ordinal: int) -> int:
        """The length of the chunk with that ordinal."""
        pack, number = self._placed(ordinal)
        size: int = ROW.unpack_from(self.packs[pack].rows, number * ROW.size)[2]
        return size & ~_COMPRESSED

    def _placed(self, at: int) -> tuple[int, int]:
        pack, number = self._places[at].tolist()
        return pack, number

    def _location(self, place: int, number: int) -> Location:
        pack = self.packs[place]
        if self._offsets[0] != place:  # neighbours are asked for one after the other
            stored = np.frombuffer(pack.rows, _ROWS)["stored"]
            self._offsets = place, np.cumsum(stored, dtype=np.uint64)
        chunk_id, stored_bytes, size = ROW.unpack_from(pack.rows, number * ROW.size)
        offset = len(pack.header) + int(self._offsets[1][number]) - stored_bytes
        plain, is_compressed = size & ~_COMPRESSED, bool(size & _COMPRESSED)
        row = Row(chunk_id, offset, stored_bytes, plain, is_compressed)
        if not 0 < plain <= CHUNK_LIMIT_BYTES or not row.stored_bytes > TAG_BYTES:
            raise IntegrityError("an index names an impossible blob", chunk=row.id.hex())
        if offset + row.stored_bytes > pack.size_bytes:
            raise IntegrityError("an index names a blob behind its pack", pack=pack.id.hex())
        return Location(pack, number, row)
