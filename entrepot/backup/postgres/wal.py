"""Names of WAL files, histories of timelines, and what a set of files covers. Pure.

Words, as Postgres has them: *LSN* a position in WAL in bytes; *segment* a file of WAL, and its
number in the whole of WAL; *timeline* a line of history, that a promotion begins anew; *switch*
where one timeline leaves another; *path* the timelines that lead to one, from the first on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Self

from entrepot.errors import IntegrityError, InvalidInput, LimitExceeded

_FILE: Final = re.compile(
    r"([0-9A-F]{8})(?:(\.history)|([0-9A-F]{8})([0-9A-F]{8})(\.partial|\.[0-9A-F]{8}\.backup)?)"
)
_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_HISTORY_LINE: Final = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)\b.*")
SEGMENT_BYTES_MAX: Final = 1 << 30


class FileKind(StrEnum):
    """What Postgres archives: whole segments, the rest of a timeline, notes."""

    SEGMENT = "segment"
    PARTIAL = "partial"
    BACKUP = "backup"
    HISTORY = "history"


@dataclass(frozen=True, slots=True)
class WalFile:
    """A file of ``pg_wal`` by its name; ``high`` and ``low`` are the rest of a segment's name."""

    name: str
    kind: FileKind
    timeline: int
    high: int = 0
    low: int = 0

    @classmethod
    def parse(cls, name: str) -> Self:
        """``InvalidInput`` for what is no name of a WAL file."""
        match = _FILE.fullmatch(name)
        if not match:
            raise InvalidInput("this names no file of WAL", hint="archive_command: … %p", name=name)
        timeline, history, high, low, end = match.groups()
        if history:
            return cls(name, FileKind.HISTORY, int(timeline, 16))
        kind = FileKind.SEGMENT if not end else FileKind(end.rpartition(".")[2])
        return cls(name, kind, int(timeline, 16), int(high, 16), int(low, 16))

    @property
    def folder(self) -> str:
        """Its timeline in eight hexadecimal digits."""
        return self.name[:8]

    def number(self, segment_bytes: int) -> int:
        """Of the segment, in clusters of that segment size."""
        return self.high * ((1 << 32) // segment_bytes) + self.low


def segment_name(timeline: int, number: int, segment_bytes: int) -> str:
    """The name of a segment's file."""
    high, low = divmod(number, (1 << 32) // segment_bytes)
    return f"{timeline:08X}{high:08X}{low:08X}"


def parse_lsn(text: str) -> int:
    """``0/3000060`` as a number; ``InvalidInput``."""
    match = _LSN.fullmatch(text)
    if not match:
        raise InvalidInput("this is no LSN", hint="such as 0/3000060", lsn=text)
    return int(match[1], 16) << 32 | int(match[2], 16)


def lsn_text(lsn: int) -> str:
    """As Postgres writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Switch(NamedTuple):
    """Timeline ``parent`` was left at ``lsn``."""

    parent: int
    lsn: int


def parse_history(content: bytes) -> tuple[Switch, ...]:
    """The ancestors of a timeline from its history file, oldest first; ``IntegrityError``."""
    found: list[Switch] = []
    for line in content.decode("utf-8", "replace").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _HISTORY_LINE.fullmatch(line)
        if not match or (found and int(match[1]) <= found[-1].parent):
            raise IntegrityError("a timeline's history is malformed")
        found.append(Switch(int(match[1]), parse_lsn(match[2])))
    return tuple(found)


class Segment(NamedTuple):
    """A segment of a timeline."""

    timeline: int
    number: int


class Run(NamedTuple):
    """Segments of a timeline without a gap, both ends included."""

    timeline: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class WalSet:
    """Whole segments that an archive has, and the histories of its timelines."""

    segment_bytes: int
    segments: frozenset[Segment] = frozenset()
    histories: Mapping[int, tuple[Switch, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise LimitExceeded("no cluster has such segments", size_bytes=self.segment_bytes)

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        *,
        segment_bytes: int,
        histories: Mapping[int, tuple[Switch, ...]] | None = None,
    ) -> Self:
        """What files of these names hold; others than whole segments are passed over."""
        files = map(WalFile.parse, names)
        segments = frozenset(
            Segment(file.timeline, file.number(segment_bytes))
            for file in files
            if file.kind is FileKind.SEGMENT
        )
        return cls(segment_bytes, segments, histories or {})

    def name(self, segment: Segment) -> str:
        """The name of a segment's file."""
        return segment_name(*segment, self.segment_bytes)

    @property
    def runs(self) -> list[Run]:
        """What there is, by timeline and place. A gap is between two runs of one timeline."""
        found: list[Run] = []
        for timeline, number in sorted(self.segments):
            last = found[-1] if found else None
            if last and last.timeline == timeline and last.last == number - 1:
                found[-1] = last._replace(last=number)
            else:
                found.append(Run(timeline, number, number))
        return found

    @property
    def gaps(self) -> list[Run]:
        """Segments that are missing between others of their timeline, or at its beginning."""
        found: list[Run] = []
        before: dict[int, int] = {}
        for timeline, first, last in self.runs:
            expected = before.get(timeline, self._first(timeline))
            if expected is not None and expected < first:
                found.append(Run(timeline, expected, first - 1))
            before[timeline] = last + 1
        return found

    def _first(self, timeline: int) -> int | None:
        """The segment that a timeline begins in, where its history is known."""
        history = self.histories.get(timeline)
        return history[-1].lsn // self.segment_bytes if history else None

    def path(self, timeline: int) -> list[tuple[int, int]]:
        """Timelines that lead to this one, with the LSN where each begins."""
        ancestors = self.histories.get(timeline, ())
        begins = [0, *(switch.lsn for switch in ancestors)]
        return list(zip([*(s.parent for s in ancestors), timeline], begins, strict=True))

    def newest_after(self, timeline: int, lsn: int) -> int:
        """The newest timeline that goes through ``lsn`` on this one."""
        heirs = [
            heir
            for heir, ancestors in self.histories.items()
            if any(switch.parent == timeline and switch.lsn >= lsn for switch in ancestors)
        ]
        return max([timeline, *heirs])

    def chain(self, lsn: int, *, timeline: int) -> Iterator[Segment]:
        """Segments that recovery along ``timeline`` reads from ``lsn`` on, up to the first gap.

        The segment in which a timeline begins has all that its parent had there. Where only the
        parent's was archived, recovery ends with it.
        """
        number = lsn // self.segment_bytes
        while Segment(self.timeline_at(number, timeline), number) in self.segments:
            yield Segment(self.timeline_at(number, timeline), number)
            number += 1
        owner = self.timeline_at(number, timeline)
        parents = [switch.parent for switch in self.histories.get(owner, ())]
        if self._first(owner) == number and Segment(parents[-1], number) in self.segments:
            yield Segment(parents[-1], number)

    def timeline_at(self, number: int, timeline: int) -> int:
        """Whose a segment is along ``timeline``: the newest that has begun in it or before."""
        begun = [each for each, lsn in self.path(timeline) if lsn // self.segment_bytes <= number]
        return begun[-1]
