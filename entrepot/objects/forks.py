"""Writes of an adopted bucket that did not know of each other, found before either is brought.

Rows of adopted buckets have no parents: what a site's store holds says what its writers could know,
as in a sweep. So both stores are looked at before a version is copied; afterwards nobody could
tell. Each direction looks, so it does not matter whose copy comes first.

Writes of a third site are left to the directions that bring them from there: between two other
sites, one that lags would pass for one that nobody knew.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.read import get_version
from entrepot.errors import BucketNotFound, NotFound
from entrepot.objects.ground import Ground
from entrepot.objects.names import shown_key
from entrepot.objects.notices import stored_versions
from entrepot.store.protocol import Version

Counts = Callable[[Ground, Bucket, Version], Awaitable[bool]]
"""Whether a version in a site's store is of the rule."""


@dataclass(frozen=True, slots=True)
class Made:
    """A write, where it was made."""

    ground: Ground
    version: Version


async def fork(
    source: tuple[Ground, Bucket], target: tuple[Ground, Bucket], name: str, *, counts: Counts
) -> tuple[Made, Made] | None:
    """The writes that both sites serve under a stored key, the later first, where each was made at
    its site and neither knew of the other; else None.

    Equal times are left to a sweep, which settles them.
    """
    theirs = await _served(*target, name, counts)
    if theirs is None or await _is_at(*source, theirs) or not await _is_own(*target, theirs):
        return None
    ours = await _served(*source, name, counts)
    if ours is None or await _is_at(*target, ours) or not await _is_own(*source, ours):
        return None
    if ours.mtime_ms == theirs.mtime_ms:
        return None
    sides = Made(source[0], ours), Made(target[0], theirs)
    later, earlier = sorted(sides, key=lambda side: -side.version.mtime_ms)
    return later, earlier


async def _served(ground: Ground, bucket: Bucket, name: str, counts: Counts) -> Version | None:
    """The newest version of the rule."""
    async for version in stored_versions(ground, bucket, name):
        if await counts(ground, bucket, version):
            return version
    return None


async def _is_at(ground: Ground, bucket: Bucket, version: Version) -> bool:
    """Whether a site's store has this version."""
    try:
        await ground.store.head(bucket.name, version.key, version_id=version.version_id)
    except BucketNotFound:
        raise
    except NotFound as error:
        return error.fields.get("status") == 405  # a delete marker
    return True


async def _is_own(ground: Ground, bucket: Bucket, version: Version) -> bool:
    """Whether it was made here, as far as its row says: what others made has one."""
    key = shown_key(version.key)
    row = await get_version(
        ground.catalog, bucket_id=bucket.id, key=key, version_id=version.version_id
    )
    return row is None or row.stamp.site == ground.site
