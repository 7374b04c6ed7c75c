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
from entrepot.replication.merge import Histories
from entrepot.replication.plan import Copy
from entrepot.replication.sites import Site
from entrepot.store.protocol import Attributes, Version

ORIGIN_NAME = "entrepot-origin"
"""The metadata that holds the mark."""

LOOK_MAX = 4
"""Versions below a write that are asked what they are copies of."""


def marked(attributes: Attributes, *, bucket: str, action: Copy) -> Attributes:
    """``attributes`` with the mark of a copy."""
    version_id, time = action.source_version, str(action.mtime_ms)
    proof = _proof(bucket, action.target_key, version_id, time, action.etag)
    metadata = {**attributes.metadata, ORIGIN_NAME: f"{version_id} {time} {proof}"}
    return replace(attributes, metadata=metadata)


def unmarked(attributes: Attributes) -> Attributes:
    """``attributes`` without the mark of an earlier journey."""
    if ORIGIN_NAME not in attributes.metadata:
        return attributes
    kept = {name: text for name, text in attributes.metadata.items() if name != ORIGIN_NAME}
    return replace(attributes, metadata=kept)


def marked_time(version: Version, *, bucket: str) -> int:
    """The time (Unix ms) of what the version was copied from; its own where it is no copy."""
    time_ms = _marked_time(version, bucket)
    return version.mtime_ms if time_ms is None else time_ms


def _marked_time(version: Version, bucket: str) -> int | None:
    mark = version.attributes.metadata.get(ORIGIN_NAME, "") if version.attributes else ""
    version_id, _, rest = mark.partition(" ")
    time, _, proof = rest.partition(" ")
    is_ours = time.isdecimal() and proof == _proof(
        bucket, version.key, version_id, time, version.etag
    )
    return int(time) if is_ours else None


def _proof(bucket: str, key: str, version_id: str, time: str, etag: str) -> str:
    return str(derived_id("origin", bucket, key, version_id, time, etag))


async def with_origins(sites: Sequence[Site], bucket: str, histories: Histories) -> Histories:
    """The histories of one key; on endpoints that mint times, the head and what it was written
    over as far as the order needs it, with the times they stand for.
    """
    heads = [history[0] for history in histories if history]
    has_object = any(not head.is_delete_marker for head in heads)

    async def placed(site: Site, history: tuple[Version, ...]) -> tuple[Version, ...]:
        if not history or site.keeps_origin:
            return history
        if not has_object:
            return history[:1]  # deleted everywhere needs no order
        if history[0].is_delete_marker:
            return await _deleted(site, bucket, history)
        return await _written(site, bucket, history, is_alone=len(heads) == 1)

    pairs = zip(sites, histories, strict=True)
    return tuple(await asyncio.gather(*(placed(site, history) for site, history in pairs)))


async def _written(
    site: Site, bucket: str, history: Sequence[Version], *, is_alone: bool
) -> tuple[Version, ...]:
    """The head, and below a write of the site's own the copy that its writer may have seen."""
    head, is_copy = await _placed(site, bucket, history[0])
    found = [head]
    if not is_copy and not is_alone:
        for version in history[1 : 1 + LOOK_MAX]:
            if not version.is_delete_marker:
                below, is_copy = await _placed(site, bucket, version)
                found.append(below)
                if is_copy:
                    break
    return tuple(found)


async def _deleted(site: Site, bucket: str, history: Sequence[Version]) -> tuple[Version, ...]:
    marker = history[0]
    for version in history[1:]:
        if not version.is_delete_marker:
            below, _ = await _placed(site, bucket, version)
            return replace(marker, mtime_ms=below.mtime_ms + 1), below
    return (marker,)


async def _placed(site: Site, bucket: str, version: Version) -> tuple[Version, bool]:
    """The version with the time it stands for, and whether it is a copy."""
    # Gone since it was listed: whatever is planned then finds that out by itself.
    with suppress(NotFound):
        found = await site.store.head(bucket, version.key, version_id=version.version_id)
        time_ms = _marked_time(replace(version, attributes=found.attributes), bucket)
        if time_ms is not None:
            return replace(version, mtime_ms=time_ms), True
    return version, False
