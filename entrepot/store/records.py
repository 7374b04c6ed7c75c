"""What the index of the memory and local stores keeps of a version, and how a row says it.

Words: *extent* a stored piece of a body (a whole object, or one part of a multipart upload).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from entrepot.store.protocol import Attributes, Lock, LockMode, Origin, Version


@dataclass(frozen=True, slots=True)
class Extent:
    """A stored piece of a body; ``md5`` is in hexadecimal."""

    name: str
    size_bytes: int
    md5: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A version with its attributes and lock, and the extents of its body, in order."""

    version: Version
    extents: tuple[Extent, ...] = ()
    arrival: int = 0
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True, slots=True)
class Change:
    """What a write left behind: its version, and the names of extents nobody needs now."""

    version: Version
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """What the current version must be for a write to happen."""

    if_match: str | None = None
    if_none_match: bool = False


ANY = Condition()
"""No condition."""


def stored_row(row: Sequence[Any]) -> Stored:
    """A row of ``versions``, columns as the index names them."""
    arrival, key, version_id, mtime_ms, size_bytes, etag, current, marker, *texts = row
    attributes, extents, lock = texts
    version = Version(
        key=key.decode(),
        version_id=version_id,
        mtime_ms=mtime_ms,
        size_bytes=size_bytes,
        etag=etag,
        is_current=bool(current),
        is_delete_marker=bool(marker),
        attributes=load(attributes),
    )
    pieces = tuple(Extent(*extent) for extent in json.loads(extents))
    return Stored(version, pieces, arrival, load_lock(lock))


def dump(attributes: Attributes) -> str:
    """Attributes as JSON."""
    return json.dumps(
        {
            "content_type": attributes.content_type,
            "metadata": dict(attributes.metadata),
            "headers": dict(attributes.headers),
            "tags": dict(attributes.tags),
        }
    )


def load(text: str) -> Attributes:
    """What ``dump`` was given."""
    return Attributes(**json.loads(text))


def dump_lock(lock: Lock) -> str:
    """A lock as JSON: mode, Unix seconds, hold."""
    return json.dumps((lock.mode, lock.until and round(lock.until.timestamp()), lock.hold))


def load_lock(text: str) -> Lock:
    """What ``dump_lock`` was given."""
    mode, until_s, hold = json.loads(text)
    return Lock(mode and LockMode(mode), until_s and moment(until_s * 1000), hold)


def lock_of(origin: Origin | None) -> Lock:
    """The lock that a write with an origin brings along."""
    return (origin.lock if origin else None) or Lock()


def moment(time_ms: int) -> datetime:
    """Unix milliseconds as UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC)
