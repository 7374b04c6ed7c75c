"""What the index of the memory and local stores keeps of a version, and how a row says it.

Words: *extent* a stored piece of a body (a whole object, or one part of a multipart upload).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from entrepot.store.protocol import Attributes, Version


@dataclass(frozen=True, slots=True)
class Extent:
    """A stored piece of a body; ``md5`` is in hexadecimal."""

    name: str
    size_bytes: int
    md5: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A version with its attributes, and the extents that make up its body, in order."""

    version: Version
    extents: tuple[Extent, ...] = ()
    arrival: int = 0


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
    arrival, key, version_id, mtime_ms, size_bytes, etag, current, marker, attributes, extents = row
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
    return Stored(version, tuple(Extent(*extent) for extent in json.loads(extents)), arrival)


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
