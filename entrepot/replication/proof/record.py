"""What of a key is compared, and its bytes as ``docs/format.md`` has them: pure.

Invariant: two keys have the same record exactly where nothing that the profile compares differs,
whatever machine, version of the program or endpoint made them.

Words: *profile* what is compared; *exact* with version ids and times, *loose* without, for sites
that mint their own; *fact* what is known of one version; *record* all facts of a key as bytes.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlencode

from entrepot.clock import derived_id, is_uuid
from entrepot.codec.primitives import prefixed
from entrepot.store.protocol import Attributes, Lock, LockMode, Version
from entrepot.terms import fits

SAMPLE_ALL = 1000
"""All of a thousand."""

_KEY = b"entrepot/1 key"
_HEAD = struct.Struct(">BH").pack
_COUNT = struct.Struct(">I").pack
_NUMBERS = struct.Struct(">QQH").pack
_NOTHING = bytes(6)  # three empty texts
_MODES = {None: 0, LockMode.GOVERNANCE: 1, LockMode.COMPLIANCE: 2}


class Level(StrEnum):
    """How deep a comparison looks; each takes in the ones before."""

    LISTING = "listing"  # what listings tell: ids, times, sizes, ETags, markers, current
    ATTRIBUTES = "attributes"  # and headers, metadata, tags, locks
    CONTENT = "content"  # and the bytes, read again, in place of ETags


class Aspect(StrEnum):
    """What a rule may leave to each site."""

    HISTORY = "history"
    METADATA = "metadata"
    TAGS = "tags"
    LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Profile:
    """What is compared. Without history, or loosely, a deleted key is as one that never was.

    With a tag filter, only versions whose tags fit are, each by its tags at its site: all of them,
    or the newest of each key without history; which version is current does not count then.

    ``sample`` is how many of a thousand versions are read at level ``CONTENT``, the same ones
    everywhere.
    """

    level: Level = Level.LISTING
    is_exact: bool = True
    aspects: frozenset[Aspect] = frozenset(Aspect)
    sample: int = SAMPLE_ALL
    tag_filter: tuple[tuple[str, str], ...] = ()

    def counts(self, version: Version) -> bool:
        """Whether the version is of what is compared; it tells its tags where they are asked."""
        if not self.tag_filter:
            return True
        tags = version.attributes.tags if version.attributes else {}
        return not version.is_delete_marker and fits(tags, dict(self.tag_filter))

    @property
    def is_listed(self) -> bool:
        """Whether a listing without details tells all that is compared."""
        return self.level is Level.LISTING and not self.tag_filter

    @property
    def has_history(self) -> bool:
        """Whether noncurrent versions and delete markers count."""
        return self.is_exact and Aspect.HISTORY in self.aspects

    def looks_at(self, aspect: Aspect) -> bool:
        """Whether this aspect is compared."""
        return aspect in self.aspects and self.level is not Level.LISTING

    @property
    def text(self) -> str:
        """The profile as digests bind it, such as ``exact listing history``."""
        aspects = [aspect for aspect in sorted(Aspect) if self.looks_at(aspect)]
        words = ["exact" if self.is_exact else "loose", str(self.level)]
        words += ["history"] if self.has_history else []
        words += [str(aspect) for aspect in aspects if aspect is not Aspect.HISTORY]
        words += [f"sample={self.sample}"] if self.level is Level.CONTENT else []
        words += [f"tags={urlencode(sorted(self.tag_filter))}"] if self.tag_filter else []
        return " ".join(words)


class Fact(NamedTuple):
    """One version as it is compared; what the profile leaves out is empty.

    ``content`` is ``etag:`` or ``sha256:`` and the digest, and "" for a delete marker.
    """

    version_id: str
    mtime_ms: int
    is_current: bool
    is_delete_marker: bool
    size_bytes: int
    content: str
    metadata: bytes = b""
    tags: bytes = b""
    lock: bytes = b""

    def encoded(self) -> bytes:
        """The version's part of a record."""
        flags = self.is_delete_marker | self.is_current << 1
        version_id, content = self.version_id.encode(), self.content.encode()
        head = _HEAD(flags, len(version_id)) + version_id
        numbers = _NUMBERS(self.mtime_ms, self.size_bytes, len(content)) + content
        if not (self.metadata or self.tags or self.lock):
            return head + numbers + _NOTHING
        return head + numbers + prefixed(self.metadata) + prefixed(self.tags) + prefixed(self.lock)


Facts = tuple[Fact, ...]
"""The facts of a key: newest first, equal times by version id; none where it is not there."""


def fact_of(version: Version, profile: Profile, *, sha256: str = "") -> Fact:
    """What the profile compares of a version; ``sha256`` in hexadecimal where it was read."""
    is_exact, is_object = profile.is_exact, not version.is_delete_marker
    content = f"sha256:{sha256}" if sha256 else f"etag:{version.etag}"
    plain = (
        identity(version) if is_exact else "",
        version.mtime_ms if is_exact else 0,
        version.is_current and not profile.tag_filter,
        version.is_delete_marker,
        version.size_bytes if is_object else 0,
        content if is_object else "",
    )
    if not is_object or profile.level is Level.LISTING:
        return Fact(*plain)
    attributes, lock = version.attributes or Attributes(), version.lock or Lock()
    return Fact(
        *plain,
        metadata=_metadata(attributes) if profile.looks_at(Aspect.METADATA) else b"",
        tags=_pairs(attributes.tags) if profile.looks_at(Aspect.TAGS) else b"",
        lock=_lock(lock) if profile.looks_at(Aspect.LOCK) else b"",
    )


def identity(version: Version) -> str:
    """The version id that all sites know it by: one that is no UUID gets a derived one in copies.

    See ``plan``, which gives the copy of such a version this id.
    """
    if is_uuid(version.version_id):
        return version.version_id
    parts = (version.key, version.version_id, str(version.mtime_ms), version.etag)
    return str(derived_id("copy", *parts))


def in_order(facts: Sequence[Fact], profile: Profile) -> Facts:
    """The facts that count, newest first as they are listed, in the order of a record."""
    if not profile.has_history and profile.tag_filter:
        return tuple(facts[:1])
    if not profile.has_history:
        return tuple(fact for fact in facts if fact.is_current and not fact.is_delete_marker)
    return tuple(sorted(facts, key=lambda fact: (-fact.mtime_ms, fact.version_id)))


def digest_of(key: bytes, facts: Facts) -> bytes:
    """SHA-256 of the record of a key."""
    head = _KEY + prefixed(key) + _COUNT(len(facts))
    if len(facts) == 1:  # nearly every one
        return hashlib.sha256(head + facts[0].encoded()).digest()
    return hashlib.sha256(head + b"".join([fact.encoded() for fact in facts])).digest()


def is_sampled(version: Version, profile: Profile) -> bool:
    """Whether this version's bytes are read: the same answer at every site."""
    if version.is_delete_marker or profile.level is not Level.CONTENT:
        return False
    name = version.key + ("\0" + identity(version) if profile.is_exact else "")
    draw = hashlib.sha256(b"entrepot/1 sample" + name.encode()).digest()
    return int.from_bytes(draw[:8], "big") % SAMPLE_ALL < profile.sample


def _metadata(attributes: Attributes) -> bytes:
    return (
        prefixed(attributes.content_type) + _pairs(attributes.headers) + _pairs(attributes.metadata)
    )


def _pairs(pairs: Mapping[str, str]) -> bytes:
    named = sorted((name.encode(), value.encode()) for name, value in pairs.items())
    texts = b"".join(prefixed(name) + prefixed(value) for name, value in named)
    return struct.pack(">H", len(named)) + texts


def _lock(lock: Lock) -> bytes:
    until_s = int(lock.until.timestamp()) if lock.until else 0
    return struct.pack(">BQ", _MODES[lock.mode] | lock.hold << 2, until_s)
