"""A site as replication sees it: a store, a rank, and what its endpoint was probed to do."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from entrepot.clock import new_id
from entrepot.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidInput,
    NotFound,
    PermanentError,
    PreconditionFailed,
    Unsupported,
)
from entrepot.store.protocol import Attributes, Capability, Item, Origin, Store, Version

PROBE_TIME_MS = 1_000_000_000_000  # September 2001: no endpoint would choose it by itself


class Took(Protocol):
    """Is told what a site was given, so that a catalog beside it can learn of it."""

    async def __call__(self, bucket: str, key: str, versions: Sequence[Version]) -> None:
        """``versions`` of ``key`` are in the store now; called again, it changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """One endpoint of a rule; ``rank`` 0 wins ties.

    ``streams`` bounds the bodies that are read while they are written elsewhere. Such a copy holds
    a connection here until it gets one there, so two directions would wait for each other for ever
    if they could take all; it must be less than the connections of ``store``. ``took`` is told of
    each version that was written here under an id and a time of our choice.
    """

    name: str
    rank: int
    store: Store
    capabilities: frozenset[Capability]
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(16), compare=False)
    took: Took | None = None

    @property
    def keeps_origin(self) -> bool:
        """Whether a copy can keep its version id and time here."""
        return Capability.ORIGIN in self.capabilities


def by_rank(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites in rank order, the order in which ties are decided.

    Raises:
        InvalidInput: two of one rank or name.
    """
    ordered = tuple(sorted(sites, key=lambda site: site.rank))
    for values in ({site.rank for site in ordered}, {site.name for site in ordered}):
        if len(values) != len(ordered):
            raise InvalidInput(
                "two sites have the same name or rank",
                hint="correct replication.regions in config.yaml, then: entrepot deploy",
                sites=[site.name for site in ordered],
            )
    return ordered


async def probe(store: Store) -> frozenset[Capability]:
    """Find out what an endpoint can do, by doing it in scratch buckets that are removed again."""
    bucket = _scratch_name()
    await store.create(bucket, versioned=True)
    try:
        found = await _probe(store, bucket)
    finally:
        await _remove(store, bucket)
    if await _locks(store):
        found.add(Capability.LOCK)
    return frozenset(found)


def _scratch_name() -> str:
    return f"entrepot-probe-{new_id().hex[:16]}"


async def _probe(store: Store, bucket: str) -> set[Capability]:
    found = set()
    if await store.versioned(bucket):
        found.add(Capability.VERSIONING)
    await store.put(bucket, "conditional", b"1")
    refusals = [
        await _refusal(store.put(bucket, "conditional", b"2", if_none_match=True)),
        await _refusal(store.put(bucket, "conditional", b"2", if_match="0" * 32)),
    ]
    if all(isinstance(refusal, PreconditionFailed) for refusal in refusals):
        found.add(Capability.CONDITIONAL_WRITE)
    origin = Origin(version_id=str(new_id()), mtime_ms=PROBE_TIME_MS)
    if not await _refusal(store.put(bucket, "origin", b"1", origin=origin)):
        async for page in store.versions(bucket, prefix="origin"):
            if any(
                (version.version_id, version.mtime_ms) == (origin.version_id, origin.mtime_ms)
                for version in page.versions
            ):
                found.add(Capability.ORIGIN)
    if not await _refusal(store.tags(bucket, "conditional")):
        found.add(Capability.TAGS)
    if Capability.ORIGIN in found and await _unpacks(store, bucket):
        found.add(Capability.BATCH)
    return found


async def _unpacks(store: Store, bucket: str) -> bool:
    """Whether a batch arrives with ids, times and attributes; elsewhere it is one odd object."""
    attributes = Attributes(content_type="text/plain", metadata={"probe": "batch"})
    items = [
        Item(f"batch/{n}", b"1", attributes, Origin(str(new_id()), PROBE_TIME_MS + n))
        for n in range(2)
    ]
    if await _refusal(store.batch(bucket, items)):
        return False
    for item in items:
        try:
            found = await store.head(bucket, item.key, version_id=item.origin.version_id)
        except NotFound:
            return False
        if found.attributes != attributes:
            return False
    times = [
        v.mtime_ms async for page in store.versions(bucket, prefix="batch/") for v in page.versions
    ]
    return times == [item.origin.mtime_ms for item in items]


async def _locks(store: Store) -> bool:
    """Whether a version that is held stays.

    No retention is tried: it would outlast a probe whose user may not bypass it.
    """
    bucket = _scratch_name()
    if await _refusal(store.create(bucket, locked=True)):
        return False
    try:
        version_id = (await store.put(bucket, "lock", b"1")).version_id
        if await _refusal(store.hold(bucket, "lock", True)):
            return False
        refusal = await _refusal(store.delete(bucket, "lock", version_id=version_id))
        return isinstance(refusal, AccessDenied)
    finally:
        await _refusal(store.hold(bucket, "lock", False))
        await _remove(store, bucket)


async def _refusal(request: Awaitable[object]) -> PermanentError | None:
    """How the endpoint refuses; one that is busy or gone has answered nothing and raises."""
    try:
        await request
    except PermanentError as error:
        return error
    return None


async def _remove(store: Store, bucket: str) -> None:
    async for page in store.versions(bucket):
        for version in page.versions:
            await store.delete(bucket, version.key, version_id=version.version_id)
    await store.drop(bucket)


async def check_bucket(site: Site, bucket: str) -> None:
    """Refuse a bucket that a rule cannot keep its promise for.

    Raises:
        BucketNotFound, Unsupported: with the command that helps.
    """
    try:
        versioned = await site.store.versioned(bucket)
    except BucketNotFound as error:
        raise BucketNotFound(
            "a bucket of the rule is missing at a site",
            hint=f"create it there, versioned: mc mb --with-versioning {site.name}/{bucket}",
            bucket=bucket,
            site=site.name,
        ) from error
    if not versioned:
        raise Unsupported(
            "a bucket of the rule keeps no versions, so a losing write would be gone",
            hint=f"mc version enable {site.name}/{bucket}",
            bucket=bucket,
            site=site.name,
        )
