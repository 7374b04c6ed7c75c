"""Which chunks a vault has, and where: from its index records, in arrays.

Memory: some 60 bytes a chunk, so 60 MB a TB of data, and once more while records are read.
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
_ROWS: Final = np.dtype([("id", "V32"), ("stored", ">u4"), ("size", ">u4")])
_COMPRESSED: Final = np.uint32(1 << 31)


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
        self._ids: Any = np.empty(0, "V32")
        self._places: Any = np.empty((0, 2), np.uint32)
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
        """Ids in order, with the places of their packs and in them."""
        if not self.packs:
            return
        rows = np.frombuffer(b"".join(pack.rows for pack in self.packs), _ROWS)
        counts = [pack.count for pack in self.packs]
        packs = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
        numbers = np.concatenate([np.arange(count, dtype=np.uint32) for count in counts])
        ids = rows["id"].copy()
        order = np.argsort(_comparable(ids), kind="stable")
        self._ids = _comparable(ids[order])
        self._places = np.stack([packs[order], numbers[order]], axis=1)

    def __len__(self) -> int:
        """Chunks, those that several packs have counted as often."""
        return len(self._ids) + len(self._fresh)

    def __contains__(self, chunk_id: bytes) -> bool:
        return self._place(chunk_id) is not None

    def find(self, chunk_id: bytes) -> Location | None:
        """Where a chunk is; ``None`` where the vault does not have it."""
        place = self._place(chunk_id)
        return None if place is None else self._location(*place)

    def _place(self, chunk_id: bytes) -> tuple[int, int] | None:
        if (fresh := self._fresh.get(chunk_id)) is not None:
            return fresh
        wanted = _comparable(np.frombuffer(chunk_id, "V32"))
        at = int(np.searchsorted(self._ids, wanted)[0]) if len(self._ids) else 0
        if at == len(self._ids) or self._ids[at] != wanted[0]:
            return None
        pack, number = self._places[at]
        return int(pack), int(number)

    def _location(self, place: int, number: int) -> Location:
        pack = self.packs[place]
        rows = np.frombuffer(pack.rows, _ROWS, count=number + 1)
        stored, size = rows["stored"], rows["size"][number]
        offset = len(pack.header) + int(stored[:number].sum(dtype=np.uint64))
        plain, is_compressed = int(size & ~_COMPRESSED), bool(size & _COMPRESSED)
        row = Row(rows["id"][number].tobytes(), offset, int(stored[number]), plain, is_compressed)
        if not 0 < plain <= CHUNK_LIMIT_BYTES or not row.stored_bytes > TAG_BYTES:
            raise IntegrityError("an index names an impossible blob", chunk=row.id.hex())
        if offset + row.stored_bytes > pack.size_bytes:
            raise IntegrityError("an index names a blob behind its pack", pack=pack.id.hex())
        return Location(pack, number, row)


def _comparable(ids: Any) -> Any:
    """Ids as numpy sorts them: of 32 bytes, zeros at the end without meaning."""
    return ids.view("S32")
