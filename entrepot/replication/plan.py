"""What must be done so that all sites hold the same versions of a key and serve the same: pure.

What any site has, every site gets, under the same id and time where the endpoint keeps them; so
their histories become equal, and the newest version or delete marker is served everywhere. A site
that mints ids gets the version to be served only. A version that a site does not have was never
removed there as far as anyone can tell, so absence alone removes nothing: what was removed is
``Facts.removed``, and what a site's own lifecycle would take at once, ``Facts.expired``, is not
brought back.

Endpoints serve equal times by arrival, each another one. So a tie, and any winner of a conflict
that is not the newest, is settled by writing the winner once more, a millisecond after the newest,
at every site. That goes first: whoever meets a key that was settled in part knows it by the id.

Sites are given in rank order and named by their index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from entrepot.clock import derived_id
from entrepot.replication.policy import Policy, Verdict, kept_name
from entrepot.replication.view import (
    Entry,
    Head,
    View,
    contenders,
    is_written_anew,
    newest,
    settlement_id,
)
from entrepot.terms import Mode, Travel

__all__ = ["Action", "Copy", "Decision", "Facts", "Head", "Left", "Mark", "Remove", "Target"]

KEY_MAX_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A site that lacks a version; ``expected_etag`` is of its current one, "" for none."""

    site: int
    expected_etag: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Bring a version's bytes and attributes to ``targets``.

    ``source_version`` is read at ``source``; ``version_id`` and ``mtime_ms`` are what the copies
    shall carry. They differ from the source's where it is written anew or its id is no UUID.
    ``to_key`` is another name to write to, "" for the same.
    """

    key: str
    source: int
    source_version: str
    targets: tuple[Target, ...]
    version_id: str
    mtime_ms: int
    size_bytes: int
    etag: str
    to_key: str = ""

    @property
    def target_key(self) -> str:
        """The key that is written."""
        return self.to_key or self.key


@dataclass(frozen=True, slots=True)
class Mark:
    """Bring a delete marker to ``targets``."""

    key: str
    targets: tuple[Target, ...]
    version_id: str
    mtime_ms: int

    @property
    def target_key(self) -> str:
        """The key that is written."""
        return self.key


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a version away that was removed elsewhere; ``version_id`` is its id at ``site``."""

    key: str
    site: int
    version_id: str


Action = Copy | Mark | Remove


@dataclass(frozen=True, slots=True)
class Left:
    """What is left alone, and why: ``what`` is quarantined, drifted, differs or not kept."""

    key: str
    site: int
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done to a key: ``first`` whole before anything of ``then``.

    ``deletes`` counts the objects that would no longer be served, and the versions removed;
    ``serves`` is the version id that every keeper serves afterwards, "" where each serves its own.
    """

    first: tuple[Action, ...] = ()
    then: tuple[Action, ...] = ()
    left: tuple[Left, ...] = ()
    deletes: int = 0
    serves: str = ""

    @property
    def actions(self) -> tuple[Action, ...]:
        """All of them, in order."""
        return self.first + self.then


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside what the sites list.

    Args:
        removed: writes that were removed by their id, and at which sites.
        expired: for each site, the writes that its lifecycle would take at once.
        source: the only site that others copy from; ``None``: every site is.
        names: of the sites.
        unfit: the writes whose tags keep them out of the rule.
    """

    horizon_ms: int
    removed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    expired: Sequence[frozenset[str]] = ()
    source: int | None = None
    names: Sequence[str] = ()
    unfit: frozenset[str] = frozenset()


def decide(
    view: View, *, facts: Facts, policy: Policy | None = None, verdict: Verdict | None = None
) -> Decision:
    """What makes all sites agree on a key; nothing to do where they do.

    Args:
        verdict: who wins, where heads contend; the newest without one.
    """
    policy = policy or Policy()
    latest = max(view.heads, key=lambda entry: entry.order, default=None)
    if latest is not None and latest.mtime_ms > facts.horizon_ms:
        why = f"its time at {_name(facts, latest.site)} is in the future"
        return Decision(left=(Left(view.key, latest.site, "quarantined", why),))
    ours = _travelling(view, facts, policy)
    plan = _Plan(view, ours, facts)
    if policy.mode is Mode.ONE_WAY and facts.source is not None:
        plan.one_way(facts.source, overwrite=policy.overwrites)
    elif ours.heads:
        plan.both_ways(verdict)
    for entry in _removals(view, facts, policy):
        plan.then.append(Remove(view.key, entry.site, entry.version_id))
        plan.deletes += 1
    return Decision(
        first=tuple(plan.first),
        then=tuple(plan.then),
        left=tuple(plan.left),
        deletes=plan.deletes,
        serves=plan.serves,
    )


def conflict(view: View, *, facts: Facts, policy: Policy) -> tuple[Entry, ...]:
    """The heads that contend, where the rule has them settled; else none."""
    if policy.mode is Mode.ONE_WAY:
        return ()
    found = contenders(_travelling(view, facts, policy))
    same = len({entry.bytes for entry in found}) == 1
    if same and all(entry.is_delete_marker for entry in found):
        return ()
    return () if any(entry.mtime_ms > facts.horizon_ms for entry in found) else found


def _travelling(view: View, facts: Facts, policy: Policy) -> View:
    """The key as far as this rule is about it."""
    without = _gone(facts, policy) | facts.unfit
    if Travel.DELETE_MARKERS not in policy.travels:
        entries = (entry for history in view.histories for entry in history)
        without |= {entry.identity for entry in entries if entry.is_delete_marker}
    return view.without(without)


def _gone(facts: Facts, policy: Policy) -> frozenset[str]:
    """The writes that shall be nowhere, since they were removed somewhere."""
    if Travel.VERSION_DELETES not in policy.travels:
        return frozenset()
    return frozenset(
        identity
        for identity, sites in facts.removed.items()
        if facts.source is None or facts.source in sites
    )


def _removals(view: View, facts: Facts, policy: Policy) -> list[Entry]:
    gone = _gone(facts, policy)
    return [entry for history in view.histories for entry in history if entry.identity in gone]


def _name(facts: Facts, site: int) -> str:
    return facts.names[site] if site < len(facts.names) else str(site)


class _Plan:
    """The actions of one key while they are found."""

    def __init__(self, there: View, ours: View, facts: Facts) -> None:
        self.there = there  # as the sites have it
        self.ours = ours  # what of it this rule is about
        self.facts = facts
        self.first: list[Action] = []
        self.then: list[Action] = []
        self.left: list[Left] = []
        self.deletes = 0
        self.serves = ""

    def both_ways(self, verdict: Verdict | None) -> None:
        """Everybody gets everything, and serves the winner."""
        view, known = self.ours, self.ours.known
        best = verdict.winner if verdict else newest(view)
        sites = list(range(len(view.keeps)))
        self.serves = best.identity
        if _is_unsettled(view, best):
            mtime_ms = max(entry.mtime_ms for entry in known.values()) + 1
            names = frozenset(entry.identity for entry in contenders(view) or view.heads)
            version_id = settlement_id(view.key, best.identity, names, mtime_ms)
            self._carry(self.first, best, sites, version_id=version_id, mtime_ms=mtime_ms)
            self.serves = version_id
        else:
            self._carry(self.then, best, self._behind(best, sites))
        self._fill(list(known.values()), sites, best)
        self._compare()
        if verdict and verdict.keeps_both:
            self._keep(contenders(view), verdict.winner)

    def one_way(self, source: int, *, overwrite: bool) -> None:
        """What the source has goes to the others; what they have of their own stays, and is
        served unless ``overwrite`` has them serve what the source serves.
        """
        history = self.ours.histories[source]
        known = {entry.identity for entry in history}
        others = [site for site in range(len(self.ours.keeps)) if site != source]
        served = self.there.head(source)
        # Of a key that the source does not have, nobody knows whether it ever had it.
        overwrite = overwrite and served is not None and served == self.ours.head(source)
        behind = []
        for site in others:
            head = self.ours.head(site)
            if head is None or head.identity in known or overwrite:
                behind.append(site)
                continue
            why = f"{_name(self.facts, site)} has a write of its own, and keeps it"
            self.left.append(Left(self.ours.key, site, "drifted", why))
        if history:
            if overwrite:
                self._overwrite(history[0], behind)
            self._carry(self.then, history[0], self._behind(history[0], behind))
            entries = list(history if self.ours.keeps[source] else history[:1])
            self._fill(entries, others, history[0])

    def _overwrite(self, best: Entry, sites: Sequence[int]) -> None:
        """Write ``best`` once more, above what a keeper would serve in its place."""
        for site in sites:
            head = self.ours.head(site)
            if head is None or not self.ours.keeps[site] or not _stands_before(head, best):
                continue
            if not is_written_anew(self.ours, head, best):
                mtime_ms = head.mtime_ms + 1
                names = frozenset((best.identity, head.identity))
                version_id = settlement_id(self.ours.key, best.identity, names, mtime_ms)
                self._carry(self.first, best, [site], version_id=version_id, mtime_ms=mtime_ms)

    def _compare(self) -> None:
        """One version id stands for one body."""
        seen: dict[str, Entry] = {}
        for site, history in enumerate(self.ours.histories):
            for entry in history if self.ours.keeps[site] else ():
                if seen.setdefault(entry.identity, entry).bytes != entry.bytes:
                    why = f"{_name(self.facts, site)} has other bytes in {entry.version_id}"
                    self.left.append(Left(self.ours.key, site, "differs", why))

    def _behind(self, best: Entry, sites: Sequence[int]) -> list[int]:
        """The sites that mint ids and serve something else."""
        found = []
        for site in sites:
            head = self.ours.head(site)
            if best.is_delete_marker:
                differs = head is not None and not head.is_delete_marker
            else:
                differs = head is None or head.identity != best.identity
            if differs and not self.ours.keeps[site] and not self._is_hidden(site, best):
                found.append(site)
        return found

    def _is_hidden(self, site: int, best: Entry) -> bool:
        """Whether a site serves something later than ``best`` that the rule is not about."""
        served = self.there.head(site)
        return served is not None and served != self.ours.head(site) and served.order > best.order

    def _fill(self, entries: Sequence[Entry], sites: Sequence[int], best: Entry) -> None:
        """Every keeper gets what it lacks."""
        view = self.ours
        held = [{entry.identity for entry in history} for history in self.there.histories]
        for entry in sorted(entries, key=lambda each: each.order):
            if not _is_brought(view, entry, best):
                continue
            lacking = [
                site
                for site in sites
                if view.keeps[site]
                and entry.identity not in held[site]
                and site not in self.facts.removed.get(entry.identity, ())
                and not (self.facts.expired and entry.identity in self.facts.expired[site])
            ]
            self._carry(self.then, entry, lacking)

    def _carry(
        self,
        actions: list[Action],
        entry: Entry,
        sites: Sequence[int],
        *,
        version_id: str = "",
        mtime_ms: int = 0,
    ) -> None:
        mtime_ms = mtime_ms or entry.mtime_ms
        if entry.is_delete_marker:
            sites = [site for site in sites if self._takes_marker(site)]
            self.deletes += sum(self._hides(site, mtime_ms) for site in sites)
        if not sites:
            return
        targets = tuple(Target(site, self._etag(site)) for site in sites)
        version_id = version_id or entry.identity
        if entry.is_delete_marker:
            actions.append(Mark(self.ours.key, targets, version_id, mtime_ms))
            return
        actions.append(
            Copy(
                key=self.ours.key,
                source=entry.site,
                source_version=entry.version_id,
                targets=targets,
                version_id=version_id,
                mtime_ms=mtime_ms,
                size_bytes=entry.size_bytes,
                etag=entry.etag,
            )
        )

    def _takes_marker(self, site: int) -> bool:
        head = self.there.head(site)
        return self.ours.keeps[site] or (head is not None and not head.is_delete_marker)

    def _hides(self, site: int, mtime_ms: int) -> bool:
        head = self.there.head(site)
        return head is not None and not head.is_delete_marker and head.mtime_ms < mtime_ms

    def _etag(self, site: int) -> str:
        head = self.there.head(site)
        return "" if head is None else head.etag

    def _keep(self, contending: Sequence[Entry], winner: Entry) -> None:
        """The losers under names of their own."""
        for entry in contending:
            if entry.is_delete_marker or entry.bytes == winner.bytes:
                continue
            name = kept_name(
                entry_key := self.ours.key,
                site=_name(self.facts, entry.site),
                mtime_ms=entry.mtime_ms,
            )
            if len(name.encode()) > KEY_MAX_BYTES:
                why = "its second name would be longer than a key may be"
                self.left.append(Left(entry_key, entry.site, "not kept", why))
                continue
            self.first.append(  # before anything makes the conflict look settled
                Copy(
                    key=entry_key,
                    source=entry.site,
                    source_version=entry.version_id,
                    targets=tuple(Target(site, "") for site in range(len(self.ours.keeps))),
                    version_id=str(derived_id("keep", entry_key, entry.identity)),
                    mtime_ms=entry.mtime_ms,
                    size_bytes=entry.size_bytes,
                    etag=entry.etag,
                    to_key=name,
                )
            )


def _is_brought(view: View, entry: Entry, best: Entry) -> bool:
    """Whether every keeper gets it. A marker of a site that mints ids stands for one that they
    have, or for nothing, unless it is what is to be served.
    """
    return not entry.is_delete_marker or view.keeps[entry.site] or entry.identity == best.identity


def _stands_before(head: Entry, best: Entry) -> bool:
    """Whether a site that serves ``head`` goes on doing so once it has ``best`` too."""
    is_same = head.identity == best.identity or (head.is_delete_marker and best.is_delete_marker)
    return not is_same and head.mtime_ms >= best.mtime_ms


def _is_unsettled(view: View, best: Entry) -> bool:
    """Whether endpoints would not all serve ``best`` once every one of them has everything."""
    known = view.known
    if any(entry.mtime_ms > best.mtime_ms for entry in known.values()):
        return True
    keepers = [history for keeps, history in zip(view.keeps, view.histories, strict=True) if keeps]
    tied = {
        entry.identity
        for entry in known.values()
        if entry.mtime_ms == best.mtime_ms and _is_brought(view, entry, best)
    }
    served = {history[0].identity if history else "" for history in keepers}
    settled = served == {best.identity} and all(
        tied <= {entry.identity for entry in history} for history in keepers
    )
    return bool(keepers) and len(tied) > 1 and not settled
