"""One key as all sites hold it: which version is which write, and who knew of whom. Pure.

A version is the same write at every site where its *identity* is the same. Where endpoints keep our
ids that is the version id; what has none that every endpoint takes ("null", other vendors' ids)
gets a derived one, so that doing a copy twice is doing it once. A version on an endpoint that mints
ids is the write whose time, size and ETag it stands for (``origins``); a delete marker there is the
first one that keepers have after what it deletes.

Versions are ordered by time; of equal times the one at the site of lower rank is later. A head
*descends* from another where a site that serves the first holds the second too. Heads from which
no other descends, two or more of them, are *contenders*: neither writer had seen the other's write.

Words: *head* the version that a site serves; *keeper* a site that keeps ids and times of copies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from entrepot.clock import derived_id, is_uuid


class Head(Protocol):
    """What must be known of a version."""

    @property
    def version_id(self) -> str: ...
    @property
    def mtime_ms(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def etag(self) -> str: ...
    @property
    def is_delete_marker(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A version at a site (by its index in rank order)."""

    identity: str
    site: int
    version_id: str
    mtime_ms: int
    size_bytes: int
    etag: str
    is_delete_marker: bool

    @property
    def order(self) -> tuple[int, int, str]:
        """Later is larger, the same for whoever looks."""
        return self.mtime_ms, -self.site, self.identity

    @property
    def bytes(self) -> tuple[int, str, bool]:
        """Equal where the bytes are, as far as a listing tells."""
        return self.size_bytes, self.etag, self.is_delete_marker


History = tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class View:
    """A key: ``histories`` of all sites in rank order, newest first; of endpoints that mint ids
    only as much as was looked up, the head at least. ``keeps`` says who is a keeper.
    """

    key: str
    histories: tuple[History, ...]
    keeps: tuple[bool, ...]

    def head(self, site: int) -> Entry | None:
        """What the site serves, delete markers included."""
        return self.histories[site][0] if self.histories[site] else None

    @property
    def heads(self) -> list[Entry]:
        """The heads of all sites that have one."""
        return [history[0] for history in self.histories if history]

    @property
    def known(self) -> dict[str, Entry]:
        """Each write that a keeper holds or another site serves, where it is found first; of
        keepers rather, since they know its time.
        """
        found: dict[str, Entry] = {}
        for site in _keepers_first(self.keeps):
            history = self.histories[site]
            for entry in history if self.keeps[site] else history[:1]:
                found.setdefault(entry.identity, entry)
        return found

    def without(self, identities: frozenset[str]) -> "View":
        """The key as it is without some writes."""
        if not identities:
            return self
        histories = tuple(
            tuple(entry for entry in history if entry.identity not in identities)
            for history in self.histories
        )
        return replace(self, histories=histories)

    def since(self, floor_ms: int) -> "View":
        """The key without what is older; heads stay."""
        histories = tuple(
            tuple(entry for n, entry in enumerate(history) if not n or entry.mtime_ms >= floor_ms)
            for history in self.histories
        )
        return replace(self, histories=histories)


def see(key: str, histories: Sequence[Sequence[Head]], *, keeps: Sequence[bool]) -> View:
    """Tell which version is which write.

    Args:
        histories: each site's versions in rank order, newest first; of endpoints that mint times
            with those that they stand for.
    """
    seen: dict[int, History] = {}
    for site in _keepers_first(keeps):
        if keeps[site]:
            seen[site] = tuple(_entry(key, site, head) for head in histories[site])
            continue
        others = [entry for history in seen.values() for entry in history]
        markers = [other for other in others if other.is_delete_marker and keeps[other.site]]
        seen[site] = _matched(key, site, histories[site], others, markers=markers)
    return View(key, tuple(seen[site] for site in range(len(keeps))), tuple(keeps))


def _keepers_first(keeps: Sequence[bool]) -> list[int]:
    return sorted(range(len(keeps)), key=lambda site: not keeps[site])


def _matched(
    key: str,
    site: int,
    heads: Sequence[Head],
    others: Sequence[Entry],
    *,
    markers: Sequence[Entry],
) -> History:
    by_bytes = {(other.mtime_ms, other.bytes): other.identity for other in reversed(others)}
    found: list[Entry] = []
    for number, head in enumerate(heads):
        entry = _entry(key, site, head)
        if head.is_delete_marker:
            below_ms = heads[number + 1].mtime_ms if number + 1 < len(heads) else 0
            above_ms = heads[number - 1].mtime_ms if number else inf
            later = [each for each in markers if below_ms < each.mtime_ms <= above_ms]
            if later:
                same = min(later, key=lambda each: each.order)
                entry = replace(entry, identity=same.identity, mtime_ms=same.mtime_ms)
        elif identity := by_bytes.get((entry.mtime_ms, entry.bytes)):
            entry = replace(entry, identity=identity)
        found.append(entry)
    return tuple(found)


def _entry(key: str, site: int, head: Head) -> Entry:
    identity = head.version_id
    if not is_uuid(identity):
        identity = str(derived_id("copy", key, identity, str(head.mtime_ms), head.etag))
    return Entry(
        identity=identity,
        site=site,
        version_id=head.version_id,
        mtime_ms=head.mtime_ms,
        size_bytes=head.size_bytes,
        etag=head.etag,
        is_delete_marker=head.is_delete_marker,
    )


def newest(view: View) -> Entry:
    """What is served where nobody contends: the latest head; of equal times one that was not
    written over, since a write that knew of another one comes after it.
    """
    latest_ms = max(entry.mtime_ms for entry in view.heads)
    latest = [entry for entry in _leaves(view, {}) if entry.mtime_ms == latest_ms]
    return max(latest or view.heads, key=lambda entry: entry.order)


def contenders(view: View) -> tuple[Entry, ...]:
    """The heads of which none descends from another, by order; fewer than two: no conflict."""
    found = _undescended(view, {})
    if len(found) < 2:
        return ()
    # A conflict that was being settled when somebody was killed is none with its own outcome.
    settled = {entry.identity: _settled(view, entry) for entry in found}
    return _undescended(view, settled)


def _undescended(view: View, settled: Mapping[str, frozenset[str]]) -> tuple[Entry, ...]:
    left = _leaves(view, settled)
    return tuple(sorted(left, key=lambda entry: entry.order)) if len(left) > 1 else ()


def _leaves(view: View, settled: Mapping[str, frozenset[str]]) -> list[Entry]:
    heads: dict[str, Entry] = {}
    ancestors: dict[str, set[str]] = {}
    for history in view.histories:
        if history:
            head = history[0]
            heads.setdefault(head.identity, head)
            known = ancestors.setdefault(head.identity, set(settled.get(head.identity, ())))
            known.update(entry.identity for entry in history[1:])
    return [
        head
        for identity, head in heads.items()
        if not any(identity in known for other, known in ancestors.items() if other != identity)
    ]


def _settled(view: View, head: Entry) -> frozenset[str]:
    """The contenders that ``head`` was written to settle, if it was."""
    before = view.without(frozenset((head.identity,)))
    for candidates in (_undescended(before, {}), before.heads):
        names = frozenset(entry.identity for entry in candidates)
        if any(head.identity == settlement_id(view.key, n, names, head.mtime_ms) for n in names):
            return names
    return frozenset()


def is_written_anew(view: View, head: Entry, winner: Entry) -> bool:
    """Whether ``head`` is ``winner``, written once more above something else at its site."""
    return any(
        head.identity
        == settlement_id(
            view.key,
            winner.identity,
            frozenset((winner.identity, below.identity)),
            head.mtime_ms,
        )
        for below in view.histories[head.site]
        if below.mtime_ms == head.mtime_ms - 1
    )


def settlement_id(key: str, winner: str, names: frozenset[str], mtime_ms: int) -> str:
    """The version id under which ``winner`` of the writes ``names`` is written once more."""
    return str(derived_id("settle", key, winner, *sorted(names), str(mtime_ms)))
