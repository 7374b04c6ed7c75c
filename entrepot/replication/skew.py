"""How far the sites' clocks are from ours, measured by a write.

A probe is an empty object in the site's internal bucket, written without an origin, looked up in a
listing for the time that the endpoint gave it, and removed. The bucket keeps no versions, and no
bucket of a rule is touched. What is measured is the clock that orders the site's own writes, to
half of the time that the write took; to a second more where the listing shows whole seconds.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.errors import AlreadyExists, BucketNotFound, PermanentError
from entrepot.replication.sites import Site
from entrepot.store.internal import internal_bucket

PREFIX = "clock/"
UNKNOWN_MS = 1_000
"""How far a clock may be off that may not be measured: one that NTP keeps is nearer."""


@dataclass(frozen=True, slots=True)
class Skew:
    """A site's clock minus ours, give or take; milliseconds."""

    offset_ms: int
    uncertainty_ms: int


async def measure(sites: Sequence[Site], *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Skew]:
    """Every site's clock, by name; what may not be written to is not measured."""
    found = await asyncio.gather(*(_measure(site, clock) for site in sites))
    return {site.name: skew for site, skew in zip(sites, found, strict=True) if skew is not None}


async def _measure(site: Site, clock: Clock) -> Skew | None:
    bucket, key = internal_bucket(site.name), PREFIX + new_id().hex
    try:
        try:
            return await _probe(site, bucket, key, clock)
        except BucketNotFound:
            with suppress(AlreadyExists):
                await site.store.create(bucket, versioned=False)
            return await _probe(site, bucket, key, clock)
    except PermanentError:
        return None


async def _probe(site: Site, bucket: str, key: str, clock: Clock) -> Skew | None:
    before_s = clock.now().timestamp()
    await site.store.put(bucket, key, b"")
    after_s = clock.now().timestamp()
    found: Skew | None = None
    async for page in site.store.versions(bucket, prefix=key):
        for version in page.versions:
            middle_ms = round((before_s + after_s) * 500)
            is_coarse = version.mtime_ms % 1000 == 0
            half_ms = round((after_s - before_s) * 500) + 1
            found = Skew(version.mtime_ms - middle_ms, half_ms + is_coarse * 1000)
            await site.store.delete(bucket, key, version_id=version.version_id)
    return found


def bound_ms(skews: Mapping[str, Skew], *, sites: int) -> int:
    """How far the times of one moment may be apart at two sites, at most."""
    known = [*skews.values(), *[Skew(0, UNKNOWN_MS)] * (sites - len(skews))]
    return max(
        (
            abs(one.offset_ms - other.offset_ms) + one.uncertainty_ms + other.uncertainty_ms
            for one, other in combinations(known, 2)
        ),
        default=0,
    )
