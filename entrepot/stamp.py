"""Stamps order the writes of all sites; a hybrid logical clock makes them.

A stamp is (time, site, writer). It is compared in that order, so any two stamps have the same
order everywhere. The time is a *hybrid logical clock*: whole milliseconds of wall time, pushed
forward past whatever was seen (Kulkarni et al., "Logical Physical Clocks", 2014). It needs no
counter: on one site a key's writes are numbered by the catalog, one millisecond apart at least,
because the store lists milliseconds and settles equal ones by arrival.

Invariant: a clock gives no time above its *floor*, which its owner keeps where a crash does not
reach it, ``AHEAD_MS`` in advance, and a new start begins at that floor. So times never go back,
though wall time jumps and the process dies; and as each start is a writer of its own, no stamp is
given twice.

Words: *parent* the stamp of the version that a write replaced. *Bound* how far a time may be ahead
of wall time before it is *quarantined*: kept, shown and never applied, because such a version
would swallow every later write.
"""

import re
from dataclasses import dataclass
from typing import Self

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import InvalidInput, Unavailable

AHEAD_MS = 2_000
"""How far the kept floor runs ahead: one catalog write each two seconds, and no more lost."""

BOUND_MS = 60_000
"""The default bound. NTP keeps a machine within a second; a minute is a clock nobody tends."""

_TEXT = re.compile(r"(\d{1,15})\.([a-z0-9][a-z0-9-]{0,62})\.([a-z0-9-]{1,36})")


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """When, where and by whom a version was written. ``time_ms`` is Unix time in milliseconds."""

    time_ms: int
    site: str
    writer: str

    def __str__(self) -> str:
        return f"{self.time_ms}.{self.site}.{self.writer}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``; ``InvalidInput`` for anything else."""
        if not (found := _TEXT.fullmatch(text)):
            raise InvalidInput("this is no stamp", text=text[:120])
        return cls(int(found[1]), found[2], found[3])


class HybridClock:
    """The clock of one writer. One thread uses it; time is in milliseconds."""

    def __init__(
        self, *, floor_ms: int = 0, bound_ms: int = BOUND_MS, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.floor_ms = floor_ms  # where the next start begins, kept by the owner
        self.bound_ms = bound_ms
        self._last_ms = floor_ms
        self._clock = clock

    def wall_ms(self) -> int:
        """Wall time."""
        return int(self._clock.now().timestamp() * 1000)

    def now_ms(self) -> int:
        """The next time: wall time, or the last one where wall time is behind it.

        Raises ``Unavailable`` where that is beyond the bound: wall time jumped ahead, writes were
        stamped, and it jumped back. Stamps of the future would swallow other sites' writes.
        """
        wall_ms = self.wall_ms()
        if self._last_ms > wall_ms + self.bound_ms:
            raise Unavailable(
                "this site's clock is far behind the stamps that it gave",
                hint="set the machine's clock; or wait until it has caught up",
                behind_ms=self._last_ms - wall_ms,
            )
        self._last_ms = max(self._last_ms, wall_ms)
        return self._last_ms

    def is_beyond(self, time_ms: int) -> bool:
        """Whether a time is beyond the bound, so that its version is quarantined."""
        return time_ms > max(self.wall_ms(), self._last_ms) + self.bound_ms

    def observe(self, time_ms: int) -> None:
        """Go on from a time that was seen, so that what follows is later; not from beyond."""
        if not self.is_beyond(time_ms):
            self._last_ms = max(self._last_ms, time_ms)

    def next_floor_ms(self) -> int | None:
        """The floor to keep before the next time is used; None while the kept one suffices."""
        return None if self._last_ms <= self.floor_ms else self._last_ms + AHEAD_MS
