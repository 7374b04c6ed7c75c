"""Which site's version of a key wins, and what the others must do: pure.

The newest current version or delete marker wins; equal times are decided by the sites' rank. A
key that a site does not have was never deleted there as far as anyone can tell, so absence alone
deletes nothing. Sites are given in rank order and named by their index.

Two versions are *the same write* when their times are equal and so are their bytes (size and
ETag): a change of metadata alone has a new time. Where an endpoint mints its own ids and times,
``origins`` hands us the time that the copy was made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from entrepot.clock import derived_id, is_uuid

MULTIPART_SIGN = "-"


class Head(Protocol):
    """What must be known of a current version."""

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
class Target:
    """A site that lacks the winner; ``expected_etag`` is its current one, "" for none."""

    site: int
    expected_etag: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Bring the winner's bytes and attributes to ``targets``.

    ``source_version`` is read at ``source``; ``version_id`` and ``mtime_ms`` are what the copies
    shall carry. They differ from the source's where a tie is settled or its id is no UUID.
    """

    key: str
    source: int
    source_version: str
    targets: tuple[Target, ...]
    version_id: str
    mtime_ms: int
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Bring the winning delete marker to ``targets``."""

    key: str
    targets: tuple[Target, ...]
    version_id: str
    mtime_ms: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A version from the future: applying it would swallow every later write. Left alone."""

    key: str
    site: int
    mtime_ms: int


Action = Copy | Mark | Quarantine


def decide(
    key: str,
    heads: Sequence[Head | None],
    *,
    keeps_origin: Sequence[bool],
    horizon_ms: int,
) -> Action | None:
    """What makes all sites agree on ``key``; ``None`` where they do.

    Args:
        heads: each site's current version in rank order, ``None`` where it has none.
        keeps_origin: whether a site keeps the version id and time of a copy.
        horizon_ms: versions later than this (Unix milliseconds) are from the future.
    """
    present = [(head.mtime_ms, -site) for site, head in enumerate(heads) if head is not None]
    if not present:
        return None
    winner = -max(present)[1]
    best = _known(heads[winner])
    if best.mtime_ms > horizon_ms:
        return Quarantine(key=key, site=winner, mtime_ms=best.mtime_ms)
    losers = [site for site, head in enumerate(heads) if site != winner and not _agrees(best, head)]
    if not losers:
        return None
    version_id, mtime_ms = _identity(key, best), best.mtime_ms
    if any(keeps_origin[site] and _time(heads[site]) == mtime_ms for site in losers):
        # Endpoints serve equal times by arrival, each another one: only a later write of the
        # winner, at its own site and where it is already, makes them agree. A marker that stays
        # behind by a millisecond is a marker all the same.
        mtime_ms += 1
        version_id = str(derived_id("settle", key, best.version_id, str(mtime_ms)))
        losers = list(range(len(heads))) if not best.is_delete_marker else losers
    targets = tuple(Target(site=site, expected_etag=_etag(heads[site])) for site in losers)
    if best.is_delete_marker:
        return Mark(key=key, targets=targets, version_id=version_id, mtime_ms=mtime_ms)
    return Copy(
        key=key,
        source=winner,
        source_version=best.version_id,
        targets=targets,
        version_id=version_id,
        mtime_ms=mtime_ms,
        size_bytes=best.size_bytes,
        etag=best.etag,
    )


def _known(head: Head | None) -> Head:
    assert head is not None
    return head


def _etag(head: Head | None) -> str:
    return "" if head is None else head.etag


def _time(head: Head | None) -> int | None:
    return None if head is None else head.mtime_ms


def _agrees(best: Head, head: Head | None) -> bool:
    if best.is_delete_marker:
        return head is None or head.is_delete_marker
    if head is None or head.is_delete_marker:
        return False
    same_bytes = (best.size_bytes, best.etag) == (head.size_bytes, head.etag)
    return same_bytes and best.mtime_ms == head.mtime_ms


def _identity(key: str, best: Head) -> str:
    # "null" (written while versioning was off) and other vendors' ids are no UUIDs; the copy gets
    # an id that is derived, so that doing it twice is doing it once.
    if is_uuid(best.version_id):
        return best.version_id
    return str(derived_id("copy", key, best.version_id, str(best.mtime_ms), best.etag))
