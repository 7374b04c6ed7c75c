"""What we write beside the bytes of a version, so that the bucket alone tells its history.

``entrepot-write`` is ``<stamp>~<write id>`` and, where there was one, ``~<stamp of the parent>``;
``entrepot-seal`` is of the codec. A server-side copy carries metadata along, so a mark counts only
on the version whose id is the write's: anywhere else it is somebody's copy. Metadata of a multipart
upload is given at its start, and the stamp at its end: there the mark's time is 0, and the time is
that of the version.
"""

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from entrepot.catalog.objects.facts import Json
from entrepot.codec.seal import METADATA_NAME as SEAL
from entrepot.errors import InvalidInput
from entrepot.stamp import Stamp
from entrepot.store.marks import OURS, WRITE, without_marks
from entrepot.store.protocol import Attributes

METADATA_MAX_BYTES = 2040 - 512
"""What a store keeps of metadata in all (tried on MinIO; S3 says 2 KB), less what is ours."""


def check_attributes(attributes: Attributes) -> None:
    """Refuse metadata that would pass for ours, or that leaves no room for ours."""
    for name in attributes.metadata:
        if name.startswith(OURS):
            raise InvalidInput("metadata names that start with entrepot- are reserved", name=name)
    size = sum(
        len(name.encode()) + len(text.encode()) for name, text in attributes.metadata.items()
    )
    if size > METADATA_MAX_BYTES:
        raise InvalidInput(
            "the metadata is too long", size_bytes=size, limit_bytes=METADATA_MAX_BYTES
        )


def marked(
    attributes: Attributes, stamp: Stamp, write_id: UUID, *, parent: Stamp | None, seal: str
) -> Attributes:
    """The attributes that go to the store."""
    parts = [str(stamp), str(write_id)] + ([str(parent)] if parent else [])
    ours = {WRITE: "~".join(parts)} | ({SEAL: seal} if seal else {})
    return replace(attributes, metadata={**attributes.metadata, **ours})


def unmarked(attributes: Attributes | None) -> Attributes:
    """The attributes that a client sees."""
    return without_marks(attributes or Attributes())


def to_json(attributes: Attributes) -> Json:
    """Attributes as a row of ``versions`` keeps them; what is empty is left out."""
    kept = {
        "type": attributes.content_type,
        "metadata": dict(attributes.metadata),
        "headers": dict(attributes.headers),
        "tags": dict(attributes.tags),
    }
    return {name: value for name, value in kept.items() if value}


def from_json(kept: Json) -> Attributes:
    """The inverse."""
    tags: Mapping[str, str] = kept.get("tags", {})
    return Attributes(
        content_type=kept.get("type", ""),
        metadata=kept.get("metadata", {}),
        headers=kept.get("headers", {}),
        tags=tags,
        tag_count=len(tags),
    )
