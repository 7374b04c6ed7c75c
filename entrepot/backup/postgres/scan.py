"""What a WAL segment says: whose it is, when transactions ended, which restore points it names.

Pure. After ``src/include/access/xlog_internal.h``, ``xlogrecord.h`` and ``xact.h`` of PostgreSQL,
which are the same from 9.5 to 18. Little-endian machines only, and pages of any size.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from entrepot.crc import crc32c
from entrepot.errors import IntegrityError, Unsupported

_LONG: Final = struct.Struct("<HHIQI4xQII")
_SHORT: Final = struct.Struct("<HHIQI4x")
_RECORD: Final = struct.Struct("<IIQBBxxI")
_OVERWRITES: Final = 0x8
"""Flag of a page before which a record was left unfinished, by a crash."""

_XLOG, _XACT = 0, 1
_RESTORE_POINT: Final = 0x70
_ENDS: Final = {0x00, 0x20, 0x30, 0x40}
"""Commit, abort, and both of prepared transactions."""

_SHORT_DATA, _LONG_DATA, _ORIGIN, _TOP_XID = 255, 254, 253, 252
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


class SegmentHeader(NamedTuple):
    """The first page of a segment; ``timeline`` is an ancestor's where another begins in it."""

    timeline: int
    lsn: int
    system_identifier: int
    segment_bytes: int
    page_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A record that a recovery can stop at: the end of a transaction, or a restore point.

    ``lsn`` is where it starts, ``end_lsn`` where it ends (what ``pg_create_restore_point`` gives).
    """

    lsn: int
    end_lsn: int
    time: datetime
    point: str | None = None


def header_of(content: bytes) -> SegmentHeader:
    """Of a whole segment; ``IntegrityError`` for what is none."""
    if len(content) < _LONG.size:
        raise IntegrityError("a WAL segment is cut off", size_bytes=len(content))
    magic, _, timeline, lsn, _, system, segment_bytes, page_bytes = _LONG.unpack_from(content)
    if magic >> 8 not in (0xD0, 0xD1):
        if magic & 0xFF in (0xD0, 0xD1):
            raise Unsupported("WAL of a big-endian machine cannot be read")
        raise IntegrityError("this is no WAL segment, or it is damaged")
    if len(content) != segment_bytes or not 512 <= page_bytes <= 65_536:
        raise IntegrityError("a WAL segment is cut off, or damaged", size_bytes=len(content))
    return SegmentHeader(timeline, lsn, system, segment_bytes, page_bytes)


def marks(content: bytes) -> Iterator[Mark]:
    """The marks that lie wholly in a segment, in order. One that goes on in the next is not seen.

    Ends where WAL ends in the segment: what follows is of an earlier use of the file.
    """
    for run in _runs(content, header_of(content)):
        yield from run.marks()


def mentions(content: bytes, text: bytes) -> bool:
    """Whether a record of a segment has ``text`` somewhere: a quick look before ``marks``."""
    return any(text in run.data for run in _runs(content, header_of(content)))


@dataclass(frozen=True, slots=True)
class _Records:
    """Records without the page headers between them, from page ``first`` on."""

    header: SegmentHeader
    first: int
    data: bytes
    skip: int

    def marks(self) -> Iterator[Mark]:
        at, data = self.skip, self.data
        while at + _RECORD.size <= len(data):
            size, _, _, info, manager, crc = _RECORD.unpack_from(data, at)
            if size < _RECORD.size or at + size > len(data):
                return
            wanted = (manager == _XACT and info & 0x70 in _ENDS) or (
                manager == _XLOG and info & 0xF0 == _RESTORE_POINT
            )
            if wanted:
                record = data[at : at + size]
                if crc32c(record[:20], crc32c(record[24:], 0)) != crc:
                    return
                yield self._mark(record, at, is_point=manager == _XLOG)
            at += (size + 7) & ~7

    def _mark(self, record: bytes, at: int, *, is_point: bool) -> Mark:
        main = record[len(record) - _main_bytes(record) :]
        (micros,) = struct.unpack_from("<q", main)
        point = main[8:72].split(b"\0")[0].decode("utf-8", "replace") if is_point else None
        end = self._lsn(at + ((len(record) + 7) & ~7))
        return Mark(self._lsn(at), end, _EPOCH + timedelta(microseconds=micros), point)

    def _lsn(self, at: int) -> int:
        """The LSN of a place in ``data``."""
        page_bytes = self.header.page_bytes
        if self.first == 0:
            at += _LONG.size - _SHORT.size
        pages, rest = divmod(at, page_bytes - _SHORT.size)
        return self.header.lsn + (self.first + pages) * page_bytes + _SHORT.size + rest


def _runs(content: bytes, header: SegmentHeader) -> Iterator[_Records]:
    pages: list[bytes] = []
    first = skip = 0
    for number in range(header.segment_bytes // header.page_bytes):
        start = number * header.page_bytes
        _, flags, _, lsn, remaining = _SHORT.unpack_from(content, start)
        if lsn != header.lsn + start:
            break
        if number and flags & _OVERWRITES:
            yield _Records(header, first, b"".join(pages), skip)
            pages, first = [], number
        if not pages:
            skip = 0 if flags & _OVERWRITES else (remaining + 7) & ~7
        head = _LONG.size if number == 0 else _SHORT.size
        pages.append(content[start + head : start + header.page_bytes])
    yield _Records(header, first, b"".join(pages), skip)


def _main_bytes(record: bytes) -> int:
    """Length of the record's own data, which comes last; the kinds we read have no blocks."""
    at = _RECORD.size
    while at < len(record):
        kind = record[at]
        if kind == _SHORT_DATA:
            return record[at + 1]
        if kind == _LONG_DATA:
            return int.from_bytes(record[at + 1 : at + 5], "little")
        if kind not in (_ORIGIN, _TOP_XID):
            break
        at += 3 if kind == _ORIGIN else 5
    raise IntegrityError("a record of WAL is malformed")
