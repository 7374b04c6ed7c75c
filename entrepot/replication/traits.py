"""Tags, retention and legal hold of one version that several sites hold: what they agree on. Pure.

Nothing of this makes a new version, so no version says who changed it when. Three sources do:

- *stamps*: the catalogs of managed buckets keep when tags, and the hold, were last changed. Among
  managed sites the latest stamp counts, as it does for the stream.
- the *base*: the tags that all sites had when they were last compared. By name of tag: who still
  has what the base has did not change it, so what another site has is the newer; that may be
  another value, or none. Where nothing is known of a version its base has no tags, which makes the
  rule a union: it adds, and takes nothing away.
- neither, where two sites changed one tag: a value counts more than a removal, and of two values
  that of the site of lower rank. What loses is a *dispute*, which goes to the conflict ledger.

Locks only get stronger: the retention is the longer and the stricter of all, and a hold anywhere is
a hold everywhere. One exception: a hold that a catalog says was released, and that no other bucket
without a catalog still has, is released.

Invariant: what sites agree on depends on what they have and on their ranks, not on the order in
which it is looked at; sites that have it agree on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from entrepot.stamp import Stamp
from entrepot.store.protocol import Lock, LockMode

Tags = Mapping[str, str]

TAGS_MAX = 10
"""S3's limit for one object."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What one site has of a version; ``tagged`` and ``held`` are stamps of its catalog, where the
    bucket is managed there and they were changed after the write.
    """

    tags: Tags = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    tagged: Stamp | None = None
    held: Stamp | None = None
    is_managed: bool = False


@dataclass(frozen=True, slots=True)
class Dispute:
    """A change that does not count: ``site`` (its rank) has ``lost``, and gets something else."""

    site: int
    lost: Tags


@dataclass(frozen=True, slots=True)
class Agreed:
    """What every site shall have. ``tagged`` and ``held`` are the stamps of the changes that made
    it so, ``None`` where no stamp stands for it.
    """

    tags: Tags
    lock: Lock
    tagged: Stamp | None = None
    held: Stamp | None = None
    disputes: tuple[Dispute, ...] = ()


def agree(sides: Mapping[int, Traits], *, base: Tags) -> Agreed:
    """What the sites agree on; ``sides`` by rank, one at least."""
    managed = {rank: side for rank, side in sides.items() if side.is_managed}
    tagged = max((side.tagged for side in managed.values() if side.tagged), default=None)
    held = max((side.held for side in managed.values() if side.held), default=None)
    meant = {rank: _meant(side, managed, tagged) for rank, side in sides.items()}
    tags: Tags = _merged(meant, base)
    if len(tags) > TAGS_MAX:  # too many together: whose come first keeps them whole
        tags = meant[min(meant)]
    stands = tagged is not None and tags == _of(managed, tagged).tags
    is_held = _is_held(sides, managed, held)
    told = held is not None and is_held == _holder(managed, held).lock.hold
    mode, until = strictest(side.lock for side in sides.values())
    return Agreed(
        tags=tags,
        lock=Lock(mode, until, is_held),
        tagged=tagged if stands else None,
        held=held if told else None,
        disputes=_disputes(meant, tags, base),
    )


def follow(source: Traits, target: Traits, *, base: Tags) -> Agreed:
    """What a site that only receives shall have: the changes of the source, beside those of its
    own that these leave.
    """
    return agree({0: source, 1: target}, base=base)


@dataclass(frozen=True, slots=True)
class Settled:
    """What becomes of a version: ``agreed`` by rank, of the sites that shall have something else
    than they have; ``base`` is what they have agreed on once that is done; ``drifted`` are sites
    that only receive and keep what they changed by themselves.
    """

    agreed: Mapping[int, Agreed]
    base: Tags
    disputes: tuple[Dispute, ...] = ()
    drifted: tuple[int, ...] = ()


def settle(
    sides: Mapping[int, Traits],
    *,
    base: Tags,
    source: int | None = None,
    overwrite: bool = False,
) -> Settled:
    """What must be changed where; ``source`` is the only site that others follow, if any, also
    against changes of their own tags where it is to ``overwrite`` them.
    """
    if source is None:
        agreed = agree(sides, base=base)
        found = {rank: agreed for rank, side in sides.items() if _differs(side, agreed)}
        return Settled(found, agreed.tags, agreed.disputes)
    if source not in sides:
        return Settled({}, base)
    ahead = sides[source]
    others = {rank: side for rank, side in sides.items() if rank != source}
    followed = {rank: follow(ahead, side, base=base) for rank, side in others.items()}
    if overwrite:
        # Later than any stamp that a target has, so it gets one of its own.
        followed = {
            rank: replace(each, tags=ahead.tags, tagged=None) for rank, each in followed.items()
        }
    return Settled(
        agreed={rank: each for rank, each in followed.items() if _differs(others[rank], each)},
        base=ahead.tags,
        drifted=tuple(rank for rank, each in followed.items() if each.tags != ahead.tags),
    )


def _differs(side: Traits, agreed: Agreed) -> bool:
    return (side.tags, side.lock) != (agreed.tags, agreed.lock)


def strictest(locks: Iterable[Lock]) -> tuple[LockMode | None, datetime | None]:
    """The retention that keeps the promises of all."""
    kept = [lock for lock in locks if lock.mode and lock.until]
    if not kept:
        return None, None
    strict = any(lock.mode is LockMode.COMPLIANCE for lock in kept)
    mode = LockMode.COMPLIANCE if strict else LockMode.GOVERNANCE
    return mode, max(lock.until for lock in kept if lock.until)


def unexpired(lock: Lock, now: datetime) -> Lock:
    """The lock without a retention that has passed, which no endpoint sets again."""
    return lock if lock.until is None or lock.until > now else Lock(hold=lock.hold)


def _meant(side: Traits, managed: Mapping[int, Traits], tagged: Stamp | None) -> Tags:
    """The tags that a site stands for: of catalogs, those of the latest change."""
    return _of(managed, tagged).tags if side.is_managed and tagged else side.tags


def _of(managed: Mapping[int, Traits], tagged: Stamp | None) -> Traits:
    return next(managed[rank] for rank in sorted(managed) if managed[rank].tagged == tagged)


def _holder(managed: Mapping[int, Traits], held: Stamp | None) -> Traits:
    return next(managed[rank] for rank in sorted(managed) if managed[rank].held == held)


def _is_held(
    sides: Mapping[int, Traits], managed: Mapping[int, Traits], held: Stamp | None
) -> bool:
    if any(side.lock.hold for rank, side in sides.items() if rank not in managed):
        return True
    if held is not None:
        return _holder(managed, held).lock.hold
    return any(side.lock.hold for side in managed.values())


def _merged(meant: Mapping[int, Tags], base: Tags) -> dict[str, str]:
    found = {}
    for name in sorted(_names([base, *meant.values()])):
        changes = _changes(meant, name, base)
        values = [value for _, value in changes if value is not None]
        value = values[0] if values else None if changes else base.get(name)
        if value is not None:
            found[name] = value
    return found


def _changes(meant: Mapping[int, Tags], name: str, base: Tags) -> list[tuple[int, str | None]]:
    """By rank, what sites made of a tag that they changed; ``None`` where they removed it."""
    return [
        (rank, meant[rank].get(name))
        for rank in sorted(meant)
        if meant[rank].get(name) != base.get(name)
    ]


def _disputes(meant: Mapping[int, Tags], tags: Tags, base: Tags) -> tuple[Dispute, ...]:
    found = []
    for rank in sorted(meant):
        lost = {
            name: value
            for name, value in meant[rank].items()
            if value != base.get(name) and value != tags.get(name)
        }
        if lost:
            found.append(Dispute(rank, lost))
    return tuple(found)


def _names(tags: Sequence[Tags]) -> set[str]:
    return set().union(*tags)
