"""Weekly times as people write them, and rates that hold in them.

A *window* is days and times of a wall clock, ``mon-fri 08:00-18:00``; one whose end is not later
than its start ends on the next day, ``sat 22:00-06:00``. A *limit* is a window and what holds in
it: ``mon-fri 08:00-18:00 10MB/s 200req/s``, or ``off`` for no limit. Zones are those of IANA.

Invariant: a window that holds an instant ends later than that instant and within 25 hours. Days
are compared on the wall clock, so a clock change makes a window shorter or longer by what it skips
or repeats; an end that is skipped counts as that much later.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from entrepot.errors import InvalidInput
from entrepot.units import format_size, parse_size

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MIN: Final = 24 * 60
_TIMES = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", re.ASCII)
_REQUESTS = re.compile(r"([0-9]{1,9})req/s", re.ASCII)
_HINT = "write it like: mon-fri 08:00-18:00, or daily 22:00-06:00"
_RATE_HINT = "write it like: mon-fri 08:00-18:00 10MB/s 200req/s, or off for no limit"
BYTES_LEAST: Final = 10_000
"""Slower than this a piece of a body takes so long that endpoints hang up."""


@dataclass(frozen=True, slots=True)
class Window:
    """Times of a week; ``days`` (0 is Monday) are those on which it starts.

    ``start_min`` and ``stop_min`` are minutes after midnight.
    """

    days: frozenset[int]
    start_min: int
    stop_min: int

    def holds(self, now: datetime, zone: ZoneInfo) -> bool:
        """Whether ``now`` lies in it."""
        return self._started(now.astimezone(zone)) is not None

    def end(self, now: datetime, zone: ZoneInfo) -> datetime:
        """When the window that holds ``now`` ends (UTC)."""
        local = now.astimezone(zone)
        day = self._started(local)
        if day is None:
            raise InvalidInput("the window does not hold this instant", now=str(now))
        stop_min = self.stop_min + (0 if self.stop_min > self.start_min else _DAY_MIN)
        end = day + timedelta(minutes=stop_min)
        first, second = (end.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        return first if first > now else second

    def _started(self, local: datetime) -> datetime | None:
        """Midnight of the day on which the window around ``local`` began."""
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        minute = local.hour * 60 + local.minute
        overnight = self.stop_min <= self.start_min
        before_end = overnight or minute < self.stop_min
        if local.weekday() in self.days and minute >= self.start_min and before_end:
            return midnight
        yesterday = (local.weekday() - 1) % 7
        if overnight and yesterday in self.days and minute < self.stop_min:
            return midnight - timedelta(days=1)
        return None


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many bytes and requests a second; ``None`` is no limit."""

    bytes_per_s: int | None = None
    requests_per_s: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether it limits nothing."""
        return self.bytes_per_s is None and self.requests_per_s is None

    def __str__(self) -> str:
        size = "" if self.bytes_per_s is None else f"{format_size(self.bytes_per_s)}/s"
        count = "" if self.requests_per_s is None else f"{self.requests_per_s}req/s"
        return " ".join(part for part in (size, count) if part) or "off"


@lru_cache(maxsize=256)
def parse_zone(name: str) -> ZoneInfo:
    """The zone of that IANA name; ``InvalidInput`` where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            "there is no such time zone", hint="such as UTC or Europe/Berlin", zone=name
        ) from error


@lru_cache(maxsize=1024)
def parse_window(text: str) -> Window:
    """The window that ``text`` says; ``InvalidInput`` for any other text."""
    days, _, times = text.strip().partition(" ")
    match = _TIMES.fullmatch(times.strip())
    if match is None:
        raise InvalidInput("not a weekly window", hint=_HINT, window=text)
    start_h, start_m, stop_h, stop_m = map(int, match.groups())
    start_min, stop_min = start_h * 60 + start_m, stop_h * 60 + stop_m
    minutes_fit = start_m < 60 and stop_m < 60
    if not minutes_fit or start_min >= _DAY_MIN or stop_min > _DAY_MIN or start_min == stop_min:
        raise InvalidInput("these times do not make a window", hint=_HINT, window=text)
    return Window(_days(days.lower(), text), start_min, stop_min)


@lru_cache(maxsize=1024)  # asked for each piece of a body that is sent
def parse_limit(text: str) -> tuple[Window, Rate]:
    """A window and the rate that holds in it; ``InvalidInput`` for any other text."""
    words = text.split()
    if len(words) < 3:
        raise InvalidInput("not a limit of a week", hint=_RATE_HINT, limit=text)
    return parse_window(" ".join(words[:2])), _rate(words[2:], text)


def rate_at(now: datetime, zone: ZoneInfo, limits: Iterable[tuple[Window, Rate]]) -> Rate | None:
    """The rate of the first window that holds ``now``; ``None`` where none does."""
    return next((rate for window, rate in limits if window.holds(now, zone)), None)


def _days(words: str, text: str) -> frozenset[int]:
    if words == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for word in words.split(","):
        first, dash, last = word.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise InvalidInput("not a day of the week", hint=_HINT, window=text)
        start, stop = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {(start + step) % 7 for step in range((stop - start) % 7 + 1)}
    return frozenset(found)


def _rate(words: list[str], text: str) -> Rate:
    if words == ["off"]:
        return Rate()
    sizes = [word.removesuffix("/s") for word in words if not _REQUESTS.fullmatch(word)]
    counts = [int(match[1]) for word in words if (match := _REQUESTS.fullmatch(word))]
    proper = all(word.endswith("/s") for word in words)
    if not proper or len(sizes) > 1 or len(counts) > 1:
        raise InvalidInput("not a rate", hint=_RATE_HINT, limit=text)
    rate = Rate(parse_size(sizes[0]) if sizes else None, counts[0] if counts else None)
    if (sizes and (rate.bytes_per_s or 0) < BYTES_LEAST) or (counts and not rate.requests_per_s):
        raise InvalidInput(
            f"a rate is at least {BYTES_LEAST} bytes and one request a second", limit=text
        )
    return rate
