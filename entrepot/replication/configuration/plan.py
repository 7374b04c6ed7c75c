"""What makes the settings of a bucket equal at all sites: pure.

A setting has no time, so the newest cannot win: the site of the lowest rank is the *authority*, and
what differs from it changes. Two things never happen: a default retention does not get shorter,
weaker or lost, and versioning is not switched off. And what the authority does not have is removed
elsewhere only where that was asked for, since absence alone says little.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

VERSIONING = "versioning"
LOCK = "lock"
"""The settings that protect versions; the others are names to a plan."""


class Step(StrEnum):
    """What becomes of a difference."""

    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"  # the authority has none; not asked to remove it
    REFUSE = "refuse"  # it would loosen what protects versions
    CANNOT = "cannot"  # the endpoint has no such setting


@dataclass(frozen=True, slots=True)
class Action:
    """One setting at one site. ``before`` is what it was planned against, ``after`` the aim.

    Documents are canonical; ``why`` says what a person should know.
    """

    site: str
    setting: str
    step: Step
    before: str
    after: str
    why: str = ""

    @property
    def changes(self) -> bool:
        """Whether applying it does anything."""
        return self.step in (Step.CHANGE, Step.REMOVE)


Settings = Mapping[str, str | None]
"""Documents by setting: "" where nothing is set, ``None`` where there is no such setting."""


def plan(sites: Sequence[tuple[str, Settings]], *, remove: bool = False) -> tuple[Action, ...]:
    """Each difference from the authority, the first of ``sites``, which are in rank order."""
    (_, authority), *others = sites
    return tuple(
        _action(site, setting, settings.get(setting), authority.get(setting), remove=remove)
        for site, settings in others
        for setting in authority
        if settings.get(setting) != authority.get(setting)
    )


def _action(site: str, setting: str, here: str | None, aim: str | None, *, remove: bool) -> Action:
    before, after = here or "", aim or ""
    step, why = Step.CHANGE, ""
    if here is None:
        step = Step.CANNOT if after else Step.KEEP
        why = "no object lock there" if setting == LOCK else "not supported there"
    elif why := _loosens(setting, before, after):
        step = Step.REFUSE
    elif aim is None:
        step, why = Step.KEEP, "the authority's endpoint has no such setting"
    elif not after and not remove:
        step, why = Step.KEEP, "the authority has none; --remove removes it"
    elif not after:
        step = Step.REMOVE
    return Action(site, setting, step, before, after, why)


def _loosens(setting: str, before: str, after: str) -> str:
    """Why a change would protect versions less; "" where it does not."""
    if setting == VERSIONING and _switches_off(before, after):
        return "versioning is not switched off"
    if setting == LOCK and strength(after) < strength(before):
        return "the retention there is longer than the authority's"
    if setting == LOCK and _mode(before) == "COMPLIANCE" != _mode(after):
        return "compliance does not become governance"
    return ""


def _switches_off(before: str, after: str) -> bool:
    return "Enabled" in before and "Enabled" not in after


def strength(lock: str) -> int:
    """The days of a default retention; 0 without one. A year counts 365 days."""
    found = re.search("<(Days|Years)>([0-9]+)</", lock)
    return int(found[2]) * (365 if found[1] == "Years" else 1) if found else 0


def _mode(lock: str) -> str:
    found = re.search("<Mode>([A-Z]+)</Mode>", lock)
    return found[1] if found else ""
