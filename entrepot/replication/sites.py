"""A site as replication sees it: a store, a rank, and what its endpoint was probed to do."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from entrepot.catalog.version_map import VersionMap
from entrepot.errors import BucketNotFound, InvalidInput, Unsupported
from entrepot.replication.traits import Agreed, Traits
from entrepot.store.protocol import Capability, Store, Version

Named = tuple[str, str]
"""Key and version id, as they are in the store."""


class Took(Protocol):
    """Is told what a site was given, so that a catalog beside it can learn of it."""

    async def __call__(self, bucket: str, key: str, versions: Sequence[Version]) -> None:
        """``versions`` of ``key`` are in the store now; called again, it changes nothing."""
        ...


class Rows(Protocol):
    """The catalog beside a site, which decides where a bucket is managed there."""

    async def traits(self, bucket: str, names: Sequence[Named]) -> Mapping[Named, Traits] | None:
        """What the rows of versions say; ``None`` where the bucket is not managed."""
        ...

    async def alter(
        self, bucket: str, key: str, version_id: str, *, seen: Traits, agreed: Agreed
    ) -> bool:
        """Give a version what was agreed on, in its row and in the store.

        ``seen`` is what its row said then. False where there is no such row any more, or its tags
        were changed since.
        """
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """One endpoint of a rule; ``rank`` 0 wins ties.

    ``streams`` bounds the bodies that are read while they are written elsewhere. Such a copy holds
    a connection here until it gets one there, so two directions would wait for each other for ever
    if they could take all; it must be less than the connections of ``store``. ``took`` is told of
    each version that was written here under an id and a time of our choice; ``rows`` is asked for
    tags and locks of versions, and told what becomes of them; ``version_map`` remembers what the
    versions stand for where the endpoint mints their ids.
    """

    name: str
    rank: int
    store: Store
    capabilities: frozenset[Capability]
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(16), compare=False)
    took: Took | None = None
    rows: Rows | None = None
    version_map: VersionMap | None = None

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
