"""What a bucket's own lifecycle removes: rules as values, and the versions they would take. Pure.

Source: "Lifecycle configuration elements" of the S3 user guide; ``ExpiredObjectAllVersions`` is of
MinIO. Days are counted from the write, or for noncurrent versions from when they became so. An
endpoint acts at midnight or later, so what counts as taken here may be there for another day.
Rules with a filter on tags are left out: a listing does not name tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Expiry:
    """One rule of a lifecycle, as far as it removes; 0 is "not said".

    Args:
        days, date_ms: a current object of that age, or from then on, gets a delete marker.
        all_versions: and everything below it goes as well.
        lone_marker: a delete marker with nothing below it goes.
        noncurrent_days: noncurrent versions go that long after they became so,
        newer_noncurrent: but for so many of the newest.
    """

    prefix: str = ""
    larger_bytes: int = -1
    smaller_bytes: int = 0
    days: int = 0
    date_ms: int = 0
    all_versions: bool = False
    lone_marker: bool = False
    noncurrent_days: int = 0
    newer_noncurrent: int = 0


class Aged(Protocol):
    """What must be known of a version."""

    @property
    def mtime_ms(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def is_delete_marker(self) -> bool: ...


def expired(
    key: str, history: Sequence[Aged], rules: Sequence[Expiry], *, now_ms: int
) -> frozenset[int]:
    """The places in ``history`` (newest first) of versions that the rules would take by now."""
    taken: set[int] = set()
    fitting = [rule for rule in rules if key.startswith(rule.prefix)]
    for rule in fitting:
        if history and _current_is_over(history[0], rule, now_ms):
            taken.update(range(len(history)) if rule.all_versions else (0,))
        taken.update(_noncurrent(history, rule, now_ms))
    left = [place for place in range(len(history)) if place not in taken]
    if len(left) == 1 and history[left[0]].is_delete_marker:
        taken.update(left if any(rule.lone_marker for rule in fitting) else ())
    return frozenset(taken)


def _current_is_over(current: Aged, rule: Expiry, now_ms: int) -> bool:
    if current.is_delete_marker or not _is_of_size(current, rule):
        return False
    by_days = rule.days > 0 and now_ms - current.mtime_ms >= rule.days * DAY_MS
    return by_days or 0 < rule.date_ms <= now_ms


def _noncurrent(history: Sequence[Aged], rule: Expiry, now_ms: int) -> set[int]:
    if not rule.noncurrent_days and not rule.newer_noncurrent:
        return set()
    limit_ms = now_ms - rule.noncurrent_days * DAY_MS
    return {
        place
        for place in range(1 + rule.newer_noncurrent, len(history))
        if history[place - 1].mtime_ms <= limit_ms and _is_of_size(history[place], rule)
    }


def _is_of_size(version: Aged, rule: Expiry) -> bool:
    within = not rule.smaller_bytes or version.size_bytes < rule.smaller_bytes
    return within and version.size_bytes > rule.larger_bytes
