"""Managed buckets under a sweep: their catalogs learn what it brings, and say what was removed.

A sweep works on stores. Where a site's bucket is managed, the catalog beside it decides what is
current, so each version that a sweep wrote there gets its row; and what was removed there by its id
is told to the sweep, which would take its absence for a version that has not come yet. Tags and
locks are the rows' as well: it asks them, and changes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from entrepot.catalog.buckets import Bucket, get_bucket
from entrepot.catalog.objects.replicas import purged
from entrepot.catalog.removals import record_removals
from entrepot.catalog.states import BucketMode
from entrepot.errors import NotFound
from entrepot.objects.check import take_up
from entrepot.objects.names import shown_key, stored_key
from entrepot.objects.traits import give, traits_of
from entrepot.replication.sites import Named, Took
from entrepot.replication.traits import Agreed, Traits
from entrepot.store.protocol import Version
from tasks.library import catalog, objects

_found: dict[tuple[str, str], Bucket | None] = {}


def took_at(site: str) -> Took:
    """What a sweep calls for each key that it wrote at the site."""
    return partial(_took, site)


async def _took(site: str, bucket: str, key: str, versions: Sequence[Version]) -> None:  # noqa: ARG001
    found = await managed(site, bucket)
    if found is not None:
        await take_up((await objects(site)).ground, found, versions)


@dataclass(frozen=True, slots=True)
class RowsAt:
    """What a sweep asks and tells of tags and locks at the site; see ``replication.sites.Rows``."""

    site: str

    async def traits(self, bucket: str, names: Sequence[Named]) -> Mapping[Named, Traits] | None:
        found = await managed(self.site, bucket)
        if found is None:
            return None
        return await traits_of((await objects(self.site)).ground, found, names)

    async def alter(
        self, bucket: str, key: str, version_id: str, *, seen: Traits, agreed: Agreed
    ) -> bool:
        found = await managed(self.site, bucket)
        assert found is not None
        ground = (await objects(self.site)).ground
        return await give(ground, found, shown_key(key), version_id, seen=seen, agreed=agreed)


async def managed(site: str, bucket: str) -> Bucket | None:
    """The bucket where it is managed at the site; asked once a process.

    A site without a catalog has none.
    """
    if (site, bucket) not in _found:
        try:
            found = await get_bucket(await catalog(site), name=bucket)
        except NotFound:
            _found[site, bucket] = None
        else:
            _found[site, bucket] = found if found.mode is BucketMode.MANAGED else None
    return _found[site, bucket]


async def share_removals(sites: Sequence[str], bucket: str) -> None:
    """Record in the control catalog what was removed by its id where the bucket is managed."""
    control = await catalog()
    for site in sites:
        if (found := await managed(site, bucket)) is None:
            continue
        async for names in purged(await catalog(site), bucket_id=found.id):
            removed = [(stored_key(key), version_id) for key, version_id in names]
            await record_removals(control, removed, bucket=bucket, site=site)
