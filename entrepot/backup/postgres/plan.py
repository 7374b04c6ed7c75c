"""Which base backup, which timeline and which WAL bring a cluster to a target. Pure.

Words: *target* where recovery stops: a time, an LSN, a named restore point, or the end of what was
archived (*latest*). *Base* of an incremental backup: the one whose blocks it does not repeat.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from entrepot.backup.postgres.wal import Segment, WalSet, lsn_text, parse_lsn
from entrepot.errors import IntegrityError, InvalidInput, NotFound

CHAIN_MAX: Final = 100
"""Incremental backups on one full one: more would take longer to combine than to read."""


class Method(StrEnum):
    """How a snapshot of a cluster was made."""

    FULL = "full"
    INCREMENTAL = "incremental"
    DUMP = "dump"


@dataclass(frozen=True, slots=True)
class BaseBackup:
    """What ``points.postgres`` of a snapshot says of a cluster (``docs/format.md``)."""

    snapshot: str
    cluster: str
    method: Method
    base: str | None
    system_identifier: int
    version: int
    timeline: int
    start_lsn: int
    stop_lsn: int
    stopped_ms: int

    def to_json(self) -> dict[str, Any]:
        """As the format has it, for the snapshot that is about to be written."""
        return {
            "method": self.method.value,
            "base": self.base,
            "system_identifier": str(self.system_identifier),
            "version": self.version,
            "timeline": self.timeline,
            "start_lsn": lsn_text(self.start_lsn),
            "stop_lsn": lsn_text(self.stop_lsn),
            "stopped_ms": self.stopped_ms,
        }

    @classmethod
    def of_json(cls, snapshot: str, cluster: str, said: Mapping[str, Any]) -> Self:
        """The inverse; ``IntegrityError`` for what is none."""
        try:
            return cls(
                snapshot=snapshot,
                cluster=cluster,
                method=Method(said["method"]),
                base=said["base"],
                system_identifier=int(said["system_identifier"]),
                version=int(said["version"]),
                timeline=int(said["timeline"]),
                start_lsn=parse_lsn(said["start_lsn"]),
                stop_lsn=parse_lsn(said["stop_lsn"]),
                stopped_ms=int(said["stopped_ms"]),
            )
        except (KeyError, TypeError, ValueError, InvalidInput) as error:
            raise IntegrityError("a snapshot says nonsense of Postgres", name=snapshot) from error

    @property
    def stopped(self) -> datetime:
        return datetime.fromtimestamp(self.stopped_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Target:
    """Where recovery stops; all of it ``None``: latest. ``time`` is aware."""

    time: datetime | None = None
    lsn: int | None = None
    point: str | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.time, self.lsn, self.point)) > 1:
            raise InvalidInput("one target only", hint="a time, an LSN or a restore point")
        if self.time is not None and self.time.tzinfo is None:
            raise InvalidInput("a time needs its zone", hint="such as 2026-11-25T14:05:00Z")

    def __str__(self) -> str:
        if self.time is not None:
            return self.time.isoformat()
        return lsn_text(self.lsn) if self.lsn is not None else self.point or "latest"

    def is_after(self, backup: BaseBackup) -> bool:
        """Whether a backup could lead there, as far as it says itself."""
        if self.time is not None:
            return backup.stopped <= self.time
        return self.lsn is None or backup.stop_lsn <= self.lsn


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore will use.

    ``backups`` begins with a full one, each further one is incremental on the one before it.
    ``wal`` is what recovery will read. ``stop_lsn`` is where it stops, as far as it is known.
    """

    target: Target
    backups: tuple[BaseBackup, ...]
    timeline: int
    wal: tuple[str, ...]
    stop_lsn: int
    stop_time: datetime | None = None

    @property
    def last(self) -> BaseBackup:
        return self.backups[-1]


def candidates(backups: Iterable[BaseBackup], target: Target) -> list[BaseBackup]:
    """Base backups that could lead to a target, the best first."""
    fit = [b for b in backups if b.method is not Method.DUMP and target.is_after(b)]
    return sorted(fit, key=lambda b: (b.stopped_ms, b.stop_lsn), reverse=True)


def with_bases(backup: BaseBackup, backups: Iterable[BaseBackup]) -> tuple[BaseBackup, ...]:
    """A backup with all that it needs, the full one first; ``NotFound`` where one is gone."""
    known = {each.snapshot: each for each in backups}
    found = [backup]
    while found[-1].base is not None:
        base = known.get(found[-1].base)
        if base is None or len(found) > CHAIN_MAX:
            raise NotFound("a backup that an incremental one needs is gone", name=found[-1].base)
        found.append(base)
    return tuple(reversed(found))


def wal_from(backup: BaseBackup, files: WalSet, *, timeline: int) -> list[Segment]:
    """The segments that recovery can read; empty where they do not reach the backup's stop."""
    chain = list(files.chain(backup.start_lsn, timeline=timeline))
    needed = max(backup.stop_lsn - 1, backup.start_lsn) // files.segment_bytes
    return chain if chain and chain[-1].number >= needed else []


def chosen_timeline(backup: BaseBackup, files: WalSet, timeline: int | None) -> int | None:
    """The timeline to recover along: that one, else the newest that goes through the backup.

    ``None`` where the backup does not lie on that one.
    """
    if timeline is None:
        return files.newest_after(backup.timeline, backup.stop_lsn)
    path = files.path(timeline)
    later = [begin for each, begin in path if each > backup.timeline]
    on_it = any(each == backup.timeline for each, _ in path)
    return timeline if on_it and min(later, default=backup.stop_lsn) >= backup.stop_lsn else None


def refusal(
    target: Target, files: WalSet, chain: list[Segment], backup: BaseBackup, *, timeline: int
) -> NotFound:
    """Why a target cannot be had: WAL is missing, or ends before it."""
    number = chain[-1].number + 1 if chain else backup.start_lsn // files.segment_bytes
    covered = lsn_text(number * files.segment_bytes) if chain else "nothing"
    if any(s.timeline == timeline and s.number > number for s in files.segments):
        missing = files.name(Segment(files.timeline_at(number, timeline), number))
        return NotFound(
            "the target lies behind a gap of the archived WAL",
            hint=f"{missing} is missing: take an earlier target, or one after the next backup",
            target=str(target),
            covered_until=covered,
        )
    return NotFound(
        "the archived WAL does not reach the target",
        hint="entrepot backup wal status says what is covered",
        target=str(target),
        covered_until=covered,
    )
