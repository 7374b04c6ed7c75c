"""The values that the catalog of objects takes and gives. Sizes are in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from entrepot.stamp import Stamp

Json = Mapping[str, Any]

Place = tuple[int, str]
"""Bucket id and key."""


class WriteKind(StrEnum):
    """What an intent will do once the store has done its part."""

    PUT = "put"
    DELETE = "delete"  # adds a delete marker
    COMPLETE = "complete"  # a multipart upload becomes an object
    REPLICA = "replica"  # a version of another site, with the stamp that it got there


@dataclass(frozen=True, slots=True)
class NewIntent:
    """A write about to start. ``clock_ms`` is the least time that its stamp may have."""

    write_id: UUID
    bucket_id: int
    key: str
    kind: WriteKind
    version_id: str
    clock_ms: int
    details: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intent:
    """A write under way. ``parent`` is the newest version of the key when it started."""

    write_id: UUID
    bucket_id: int
    key: str
    kind: WriteKind
    version_id: str
    stamp: Stamp
    parent: Stamp | None
    details: Json


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One version of a key.

    ``size_bytes``, ``etag`` and ``attributes`` are of what the client sent, ``stored_bytes`` of
    what lies in the bucket; ``seal`` says how the one became the other ("": they are the same).
    ``served_by`` is the other site that it was read from; no row of a catalog has that.
    """

    bucket_id: int
    key: str
    version_id: str
    stamp: Stamp
    write_id: UUID
    parent: Stamp | None = None
    is_delete_marker: bool = False
    is_quarantined: bool = False
    size_bytes: int = 0
    stored_bytes: int = 0
    etag: str = ""
    seal: str = ""
    attributes: Json = field(default_factory=dict)
    served_by: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A live key as a listing shows it; a common prefix has no version."""

    key: str
    version_id: str = ""
    mtime_ms: int = 0
    size_bytes: int = 0
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a bucket holds, or how that changed."""

    objects: int = 0
    versions: int = 0
    delete_markers: int = 0
    current_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.objects + other.objects,
            self.versions + other.versions,
            self.delete_markers + other.delete_markers,
            self.current_bytes + other.current_bytes,
            self.total_bytes + other.total_bytes,
            self.stored_bytes + other.stored_bytes,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a key, for whoever follows the bucket.

    ``is_replica``: it was another site's first. Who ships to other sites does not get it.
    """

    bucket_id: int
    key: str
    version_id: str
    kind: str
    stamp: str
    is_replica: bool = False


class EffectKind(StrEnum):
    """What the store must do."""

    PURGE = "purge"  # remove a version for good
    SETTLE = "settle"  # give it the tags and the lock that its row has
    ABORT = "abort"  # drop the upload that it was to come from, unless that has an owner


@dataclass(frozen=True, slots=True)
class Effect:
    """What the store must still be told of one version."""

    id: int
    bucket_id: int
    key: str
    version_id: str
    kind: EffectKind
    details: Json


@dataclass(frozen=True, slots=True)
class Changes:
    """All that one transaction writes."""

    rows: tuple[ObjectRow, ...] = ()
    current: Mapping[tuple[int, str], ObjectRow | None] = field(default_factory=dict)
    usage: Mapping[int, Usage] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    records: tuple[Json, ...] = ()
    effects: tuple[tuple[int, str, str, EffectKind, Json], ...] = ()
