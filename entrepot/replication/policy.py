"""What a rule wants: who wins a conflict, what travels, how much may be deleted. Pure.

Conflict policies, by prefix (the longest that a key starts with; ``last-write-wins`` where none):

- ``last-write-wins``: the latest; of equal times the one at the site of lower rank.
- ``first-write-wins``: the earliest; of equal times the same.
- ``site-priority``: the one at the site of the lowest rank.
- ``keep-both``: as the first, and each losing object is kept under a second name as well:
  ``KEY.conflict-SITE-TIME`` with the time of its write, such as
  ``plan.txt.conflict-site-b-20261125T101112123Z``.
- ``hook:NAME``: what a function of the entry point group ``entrepot.conflict_hooks`` answers.

A delete marker is a write like any other: a delete wins over a change, or loses, by its time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from entrepot.errors import InvalidInput
from entrepot.replication.view import Entry
from entrepot.terms import HOOK, Choice, Mode, Travel

DEFAULT = "last-write-wins"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a rule is carried out.

    Args:
        source_site: the only one that others copy from, where the mode is one-way.
        overwrites: where the mode is one-way, the others serve what the source serves, whatever
            was written there.
        tag_filter: the rule is about versions that bear these tags alone.
        conflict: policy of conflicts by prefix.
        max_delete_share, max_delete_count: a sweep that would hide or remove more than that share
            of the keys, or more than that many objects, stops and asks.
        tombstone_horizon_s: how long deletes are remembered; sites that were apart for longer are
            not merged unasked.
    """

    mode: Mode = Mode.ACTIVE_ACTIVE
    source_site: str = ""
    overwrites: bool = False
    travels: frozenset[Travel] = frozenset(Travel) - {Travel.VERSION_DELETES}
    tag_filter: Mapping[str, str] = field(default_factory=dict)
    conflict: Mapping[str, str] = field(default_factory=dict)
    max_delete_share: float = 0.5
    max_delete_count: int = 10_000
    tombstone_horizon_s: float = 30 * 24 * 3600.0

    def conflict_policy(self, key: str) -> str:
        """The policy for conflicts of ``key``."""
        fitting = [prefix for prefix in self.conflict if key.startswith(prefix)]
        return self.conflict[max(fitting, key=len)] if fitting else DEFAULT


def check_conflict_policy(text: str) -> None:
    """Refuse what is no conflict policy: ``InvalidInput``."""
    if text not in set(Choice) and not (text.startswith(HOOK) and text != HOOK):
        raise InvalidInput(
            "not a conflict policy",
            hint=f"one of: {', '.join(Choice)}, {HOOK}NAME",
            policy=text,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who wins, and why in words."""

    winner: Entry
    policy: str
    reason: str
    keeps_both: bool = False


def judge(contenders: Sequence[Entry], *, policy: str, note: str = "") -> Verdict:
    """Who wins by ``policy``; a hook's policy is judged as the default, ``note`` saying why.

    Raises:
        InvalidInput: there is no such policy.
    """
    check_conflict_policy(policy)
    last = max(contenders, key=lambda entry: entry.order)
    if policy == Choice.FIRST:
        first = min(contenders, key=lambda entry: (entry.mtime_ms, entry.site))
        return Verdict(first, policy, "the earliest write")
    if policy == Choice.SITE:
        return Verdict(min(contenders, key=lambda entry: entry.site), policy, "the first site's")
    tied = sum(entry.mtime_ms == last.mtime_ms for entry in contenders) > 1
    reason = "equal times, the first site's" if tied else "the latest write"
    both = policy == Choice.BOTH
    return Verdict(last, policy, f"{reason}; {note}" if note else reason, keeps_both=both)


def is_ambiguous(contenders: Sequence[Entry], *, bound_ms: int) -> bool:
    """Whether their times are nearer to each other than the sites' clocks are known to be."""
    times = [entry.mtime_ms for entry in contenders]
    return max(times) - min(times) <= bound_ms


def kept_name(key: str, *, site: str, mtime_ms: int) -> str:
    """The second name of a loser that is kept."""
    when = datetime.fromtimestamp(mtime_ms // 1000, UTC)
    return f"{key}.conflict-{site}-{when:%Y%m%dT%H%M%S}{mtime_ms % 1000:03d}Z"
