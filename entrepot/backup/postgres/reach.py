"""How far archived WAL leads: whether recovery can stop at a target, and where that is.

Postgres stops at a time only when it reads the end of a transaction after it, and says "recovery
ended before configured recovery target was reached" otherwise; so that record is looked for first.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from entrepot.backup.postgres import scan
from entrepot.backup.postgres.archive import WalArchive
from entrepot.backup.postgres.base import backups_of
from entrepot.backup.postgres.plan import (
    RestorePlan,
    Target,
    candidates,
    chosen_timeline,
    refusal,
    wal_from,
    with_bases,
)
from entrepot.backup.postgres.scan import Mark
from entrepot.backup.postgres.wal import Segment, WalSet
from entrepot.errors import InvalidInput, NotFound

KEPT_SEGMENTS: Final = 4
"""Of which the marks are kept: up to some 30 MB each."""


async def plan_restore(
    archive: WalArchive, target: Target, *, timeline: int | None = None
) -> RestorePlan:
    """What a restore to ``target`` takes, along ``timeline`` (the newest by default).

    ``NotFound`` where no backup lies before it, or WAL does not lead there without a gap.
    """
    files = await archive.files()
    backups = await backups_of(archive.vault, archive.cluster)
    fit = candidates(backups, target)
    if not fit:
        raise NotFound(
            "no base backup ends before the target",
            hint="entrepot backup postgres list; entrepot backup postgres create",
            cluster=archive.cluster,
            target=str(target),
        )
    refused: NotFound | None = None
    for backup in fit:
        along = chosen_timeline(backup, files, timeline)
        if along is None:
            continue
        chain = wal_from(backup, files, timeline=along)
        stop = await _stop(Wal(archive, files, chain), target) if chain else None
        if stop and (target.lsn is not None or stop[0] >= backup.stop_lsn):
            read = [each for each in chain if each.number * files.segment_bytes <= stop[0]]
            names = tuple(map(files.name, read))
            return RestorePlan(target, with_bases(backup, backups), along, names, *stop)
        refused = refused or refusal(target, files, chain, backup, timeline=along)
    raise refused or InvalidInput(
        "no backup before the target lies on that timeline",
        hint="entrepot backup wal status names the timelines",
        timeline=timeline,
    )


async def latest_time(archive: WalArchive) -> datetime | None:
    """The last end of a transaction that a restore would bring back; ``None`` without any."""
    try:
        return (await plan_restore(archive, Target())).stop_time
    except NotFound:
        return None


async def _stop(wal: "Wal", target: Target) -> tuple[int, datetime | None] | None:
    """Where recovery stops, and which time that is; ``None`` where it would not."""
    end = (wal.chain[-1].number + 1) * wal.files.segment_bytes
    if target.time is not None:
        mark = await wal.first_after(target.time)
        return (mark.lsn, target.time) if mark else None
    if target.point is not None:
        mark = await wal.point(target.point)
        return (mark.end_lsn, mark.time) if mark else None
    if target.lsn is not None:
        return (target.lsn, None) if target.lsn < end else None
    newest = await wal.newest()
    return end, newest.time if newest else None


class Wal:
    """The marks in a chain of archived segments."""

    def __init__(self, archive: WalArchive, files: WalSet, chain: Sequence[Segment]) -> None:
        self.files = files
        self.chain = chain
        self._archive = archive
        self._marks: dict[int, list[Mark]] = {}

    async def first_after(self, time: datetime) -> Mark | None:
        """The first end of a transaction after ``time``; by bisection, as they follow in time."""
        low, high = 0, len(self.chain)
        while low < high:
            middle = (low + high) // 2
            last = await self._last_end(middle)
            if last and last.time > time:
                high = middle
            else:
                low = middle + 1
        if low == len(self.chain):
            return None
        ends = [mark for mark in await self._at(low) if mark.point is None]
        return next((mark for mark in ends if mark.time > time), None)

    async def newest(self) -> Mark | None:
        """The last end of a transaction that is archived."""
        return await self._last_end(len(self.chain) - 1)

    async def point(self, name: str) -> Mark | None:
        """The first restore point of that name, as recovery takes it."""
        for number, segment in enumerate(self.chain):
            content = await self._archive.fetch(self.files.name(segment))
            if await asyncio.to_thread(scan.mentions, content, name.encode()):
                for mark in await self._at(number):
                    if mark.point == name:
                        return mark
        return None

    async def _last_end(self, number: int) -> Mark | None:
        """The last end of a transaction up to a place in the chain."""
        for at in range(number, -1, -1):
            ends = [mark for mark in await self._at(at) if mark.point is None]
            if ends:
                return max(ends, key=lambda mark: mark.time)
        return None

    async def _at(self, number: int) -> list[Mark]:
        if number not in self._marks:
            content = await self._archive.fetch(self.files.name(self.chain[number]))
            if len(self._marks) >= KEPT_SEGMENTS:
                self._marks.pop(next(iter(self._marks)))
            self._marks[number] = await asyncio.to_thread(lambda: list(scan.marks(content)))
        return self._marks[number]
