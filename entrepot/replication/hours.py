"""Whether a rule may run at an instant, and how fast. Pure: a rule and a time in, an answer out."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from entrepot.catalog.rules import Rule
from entrepot.timetable import Rate, parse_limit, parse_window, parse_zone, rate_at

STEPS_MAX: Final = 500
"""Windows that follow each other are passed one by one; this many are a week without a gap."""

WAIT_MAX_S: Final = 12 * 3600.0
"""A run rests for so long at most: cursors count for 24 hours, a later run goes on from them."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The rule may run."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The rule may not run before ``until``; ``None`` means until somebody changes it."""

    until: datetime | None
    why: str


def may_run(rule: Rule, now: datetime) -> Allowed | Wait:
    """Whether ``rule`` may run at ``now``; ``Wait.until`` is the first instant at which it may.

    Being disabled, paused or in a maintenance window keeps it from running.
    """
    held = _held(rule, now)
    if held is None:
        return Allowed()
    until, steps = held.until, 0
    while until is not None and (next_hold := _held(rule, until)) is not None:
        until, steps = next_hold.until, steps + 1
        if steps == STEPS_MAX:
            return Wait(None, "the maintenance windows leave no time")
    return Wait(until, held.why)


def in_turn(rules: Iterable[Rule], now: datetime) -> list[Rule]:
    """Those that may run now, then those that a run can wait for, the soonest first."""
    waiting: list[tuple[datetime, Rule]] = []
    for rule in rules:
        answer = may_run(rule, now)
        if isinstance(answer, Allowed):
            waiting.append((now, rule))
        elif can_wait(answer, now):
            assert answer.until is not None
            waiting.append((answer.until, rule))
    return [rule for _, rule in sorted(waiting, key=lambda pair: (pair[0], pair[1].name))]


def can_wait(answer: Wait, now: datetime) -> bool:
    """Whether a run may wait for this: it ends by itself, and soon enough."""
    return answer.until is not None and (answer.until - now).total_seconds() <= WAIT_MAX_S


def rate_of(rule: Rule, now: datetime) -> Rate:
    """What holds at ``now``: the first line of the timetable that fits, else the rule's limits."""
    if rule.timetable:
        zone = parse_zone(rule.time_zone)
        rate = rate_at(now, zone, map(parse_limit, rule.timetable))
        if rate is not None:
            return rate
    return Rate(rule.bytes_per_s, rule.requests_per_s)


def _held(rule: Rule, now: datetime) -> Wait | None:
    """The first thing that keeps the rule from running at ``now``."""
    if not rule.enabled:
        return Wait(None, "the rule is disabled")
    if rule.paused and rule.paused_until is None:
        return Wait(None, "the rule is paused")
    if rule.paused and rule.paused_until is not None and now < rule.paused_until:
        return Wait(rule.paused_until, "the rule is paused")
    zone = parse_zone(rule.time_zone)
    for text in rule.maintenance:
        window = parse_window(text)
        if window.holds(now, zone):
            return Wait(window.end(now, zone), f"maintenance window {text}")
    return None
