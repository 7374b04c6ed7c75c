"""What we write beside the bytes of a version, read back: which write a stored version is.

``entrepot-write`` is ``<stamp>~<write id>`` and, where there was one, ``~<stamp of the parent>``. A
server-side copy carries metadata along, so a mark counts only on the version whose id is the
write's: anywhere else it is somebody's copy. Metadata of a multipart upload is given at its start,
and the stamp at its end: there the mark's time is 0, and the time is that of the version.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from entrepot.errors import InvalidInput
from entrepot.stamp import Stamp
from entrepot.store.protocol import Attributes, Version

WRITE = "entrepot-write"
OURS = "entrepot-"
"""Names of metadata that start so are ours."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Which write a stored version is."""

    stamp: Stamp
    write_id: UUID
    parent: Stamp | None


def mark_of(version: Version) -> Mark | None:
    """The mark of a stored version, as a HEAD reports it; None where it has none of its own."""
    text = (version.attributes or Attributes()).metadata.get(WRITE, "")
    stamp, _, rest = text.partition("~")
    write_id, _, parent = rest.partition("~")
    try:
        mark = Mark(Stamp.parse(stamp), UUID(write_id), Stamp.parse(parent) if parent else None)
    except (InvalidInput, ValueError):
        return None
    if str(mark.write_id) != version.version_id:
        return None
    if mark.stamp.time_ms:
        return mark
    return replace(mark, stamp=replace(mark.stamp, time_ms=version.mtime_ms))


def without_marks(attributes: Attributes) -> Attributes:
    """The attributes that a client sees."""
    theirs = {n: text for n, text in attributes.metadata.items() if not n.startswith(OURS)}
    return replace(attributes, metadata=theirs)
