"""What the versions on an endpoint that mints ids and times stand for.

A copy there is younger than what it was copied from, so by its own time it would win over every
write that it does not know. Two rules give it its right place in the order:

- A copy carries a *mark* in its metadata: "<version id> <time in ms> <proof>" of its origin. The
  proof binds the mark to bucket, key, time and bytes, since a server-side copy carries metadata
  along. Whoever rewrites an object under its own key, bytes and metadata keeps the mark, so a
  change of other metadata made in that way is not seen.
- A delete marker carries nothing. It deletes what lies below it, so it counts from a millisecond
  after that; a later write, which it did not know of, wins.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from entrepot.clock import derived_id
from entrepot.errors import NotFound
from entrepot.replication.plan import Copy
from entrepot.replication.sites import Site
from entrepot.store.protocol import Attributes, Version

ORIGIN_NAME = "entrepot-origin"
"""The metadata that holds the mark."""

Heads = tuple[Version | None, ...]


def marked(attributes: Attributes, *, bucket: str, action: Copy) -> Attributes:
    """``attributes`` with the mark of a copy."""
    version_id, time = action.source_version, str(action.mtime_ms)
    proof = _proof(bucket, action.key, version_id, time, action.etag)
    metadata = {**attributes.metadata, ORIGIN_NAME: f"{version_id} {time} {proof}"}
    return replace(attributes, metadata=metadata)


def unmarked(attributes: Attributes) -> Attributes:
    """``attributes`` without the mark of an earlier journey."""
    kept = {name: text for name, text in attributes.metadata.items() if name != ORIGIN_NAME}
    return replace(attributes, metadata=kept)


def marked_time(version: Version, *, bucket: str) -> int:
    """The time (Unix ms) of what the version was copied from; its own where it is no copy."""
    mark = version.attributes.metadata.get(ORIGIN_NAME, "") if version.attributes else ""
    version_id, _, rest = mark.partition(" ")
    time, _, proof = rest.partition(" ")
    is_ours = time.isdecimal() and proof == _proof(
        bucket, version.key, version_id, time, version.etag
    )
    return int(time) if is_ours else version.mtime_ms


def _proof(bucket: str, key: str, version_id: str, time: str, etag: str) -> str:
    return str(derived_id("origin", bucket, key, version_id, time, etag))


async def with_origins(sites: Sequence[Site], bucket: str, heads: Heads) -> Heads:
    """``heads`` of one key, those on endpoints that mint times with the time they stand for."""
    has_object = any(head is not None and not head.is_delete_marker for head in heads)

    async def placed(site: Site, head: Version | None) -> Version | None:
        if head is None or site.keeps_origin:
            return head
        if not head.is_delete_marker:
            return replace(head, mtime_ms=await _copied_at(site, bucket, head))
        # Deleted everywhere needs no order.
        return await _deleted_at(site, bucket, head) if has_object else head

    pairs = zip(sites, heads, strict=True)
    return tuple(await asyncio.gather(*(placed(site, head) for site, head in pairs)))


async def _copied_at(site: Site, bucket: str, version: Version) -> int:
    # Gone since it was listed: whatever is planned then finds that out by itself.
    with suppress(NotFound):
        found = await site.store.head(bucket, version.key, version_id=version.version_id)
        return marked_time(replace(version, attributes=found.attributes), bucket=bucket)
    return version.mtime_ms


async def _deleted_at(site: Site, bucket: str, marker: Version) -> Version:
    async for page in site.store.versions(bucket, prefix=marker.key):
        for version in page.versions:
            if version.key != marker.key:
                return marker
            if not version.is_delete_marker:
                below_ms = await _copied_at(site, bucket, version)
                return replace(marker, mtime_ms=below_ms + 1)
    return marker
