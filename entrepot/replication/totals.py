"""What a sweep counts, and how counts of shards add up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

SAMPLES_MAX = 100
"""Examples kept of each kind of finding; the counts are exact, the examples a help."""
MARK_EVERY = 5_000
"""Entries from one mark to the next: a quarter of the smallest range worth a task."""
AT = "held@"
MARKS_MAX = 64
"""Marks kept of a range, and of a job: twice the ranges that a run can be cut into."""


@dataclass(slots=True)
class Totals:
    """Counts of one shard or run; only ever grows."""

    listed: int = 0  # versions and delete markers compared, at the fullest site
    shared: int = 0  # of them, those at the other sites; 0 where only one site had anything
    differing: int = 0  # keys whose current versions differ
    copied: int = 0  # copies written, one for each target
    copied_bytes: int = 0
    marked: int = 0  # delete markers written
    removed: int = 0  # versions removed that were removed elsewhere
    held: int = 0  # versions that stay although they were removed elsewhere: they are locked
    altered: int = 0  # versions that were given other tags or a lock, one for each site
    deletes: int = 0  # objects that a plan would hide, and versions that it would remove
    conflicts: int = 0  # keys written, versions tagged, at several sites unknown to each other
    verified: int = 0  # copies and markers found again afterwards
    moved: int = 0  # changed since they were listed; left to the next sweep
    quarantined: int = 0  # from the future; left alone
    drifted: int = 0  # written at a site that only takes; left alone
    failed: int = 0
    sites: dict[str, int] = field(default_factory=dict)  # versions held afterwards, by site

    def hold(self, site: str, count: int) -> None:
        """A site holds so many versions more."""
        self.sites[site] = self.sites.get(site, 0) + count

    def add(self, other: "Totals | Mapping[str, int]") -> None:
        """Add another's counts to these."""
        values = other.as_dict() if isinstance(other, Totals) else other
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + int(values.get(name, 0)))
        for name, count in values.items():
            if name.startswith(AT):
                self.hold(name.removeprefix(AT), int(count))

    def as_dict(self) -> dict[str, int]:
        """The counts by name, as jobs keep them; those of sites as ``held@NAME``."""
        counts: dict[str, int] = {name: getattr(self, name) for name in COUNTS}
        return counts | {AT + site: count for site, count in self.sites.items()}


COUNTS = tuple(item.name for item in fields(Totals) if item.name != "sites")
"""The names of the counts that are no site's."""


@dataclass(slots=True)
class Findings:
    """Examples for the report: ``{"key", "what", "why"}``, at most ``SAMPLES_MAX`` in all."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def note(self, *, key: str, what: str, why: str) -> None:
        """Keep one example while there is room."""
        if len(self.rows) < SAMPLES_MAX:
            self.rows.append({"key": key[:200], "what": what, "why": why[:300]})


class Marks:
    """Keys at even distances of a range, so that the next sweep can cut it evenly."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._every, self._since = MARK_EVERY, 0

    def note(self, last_key: str, *, listed: int) -> None:
        """``listed`` more entries were seen, up to ``last_key``."""
        self._since += listed
        if self._since < self._every:
            return
        self.keys.append(last_key)
        self._since = 0
        if len(self.keys) > MARKS_MAX:
            self.keys = self.keys[1::2]
            self._every *= 2


def thinned(keys: Sequence[str]) -> list[str]:
    """At most ``MARKS_MAX`` of ``keys``, evenly chosen."""
    step = -(-len(keys) // MARKS_MAX) or 1
    return list(keys[::step])
