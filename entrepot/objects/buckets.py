"""Buckets of a site: made, adopted and dropped, in the store, the catalog and our own record.

Invariant: the store goes first where a bucket is made and where it is dropped, since it alone
refuses both for good: a bucket of somebody else's, and one that is not empty.
"""

import contextlib

from entrepot.catalog.buckets import (
    Bucket,
    adopt_bucket,
    forget_bucket,
    get_bucket,
    list_buckets,
    manage_bucket,
)
from entrepot.catalog.objects.facts import Changes
from entrepot.catalog.objects.read import list_versions
from entrepot.catalog.objects.uploads import list_uploads
from entrepot.catalog.states import BucketMode
from entrepot.errors import (
    AlreadyExists,
    BucketNotFound,
    InvalidInput,
    PreconditionFailed,
    Unsupported,
)
from entrepot.objects.ground import Ground
from entrepot.objects.internal import drop_record, save_record
from entrepot.store.check import check_bucket
from entrepot.store.internal import PREFIX
from entrepot.store.protocol import Capability

_NEEDED = (Capability.VERSIONING, Capability.ORIGIN)


async def create(
    ground: Ground,
    name: str,
    *,
    tenant_id: str,
    encrypted: bool = False,
    compressed: bool = False,
    locked: bool = False,
) -> Bucket:
    """See ``Objects.create_bucket``."""
    check_bucket(name)
    if name.startswith(PREFIX):
        raise InvalidInput("bucket names that start like this are reserved", bucket=name)
    needed = (*_NEEDED, Capability.LOCK) if locked else _NEEDED
    if missing := [each for each in needed if each not in ground.capabilities]:
        raise Unsupported(
            "this site cannot hold managed buckets",
            hint="adopt the bucket instead, or use a site with these capabilities",
            missing=", ".join(missing),
        )
    try:
        await ground.store.create(name, versioned=True, locked=locked)
    except AlreadyExists:
        await _check_ours(ground, name, tenant_id)
    bucket = await manage_bucket(
        ground.catalog,
        name=name,
        tenant_id=tenant_id,
        encrypted=encrypted,
        compressed=compressed,
        locked=locked,
    )
    await save_record(ground, bucket)
    await _note(ground, "create bucket", bucket)
    return bucket


async def _check_ours(ground: Ground, name: str, tenant_id: str) -> None:
    """A bucket that is in the store already is ours, or empty and versioned."""
    if name in {each.name for each in await list_buckets(ground.catalog)}:
        return
    async for page in ground.store.versions(name, page_size=1):
        if len(page):
            raise AlreadyExists(
                "the bucket holds objects that did not come through us",
                hint=f"entrepot bucket adopt {name} --tenant {tenant_id}",
                bucket=name,
            )
    if not await ground.store.versioned(name):
        raise AlreadyExists("the bucket is not versioned", bucket=name)


async def adopt(ground: Ground, name: str, *, tenant_id: str) -> Bucket:
    """See ``Objects.adopt_bucket``."""
    check_bucket(name)
    await ground.store.versioned(name)  # is it there?
    bucket = await adopt_bucket(ground.catalog, name=name, tenant_id=tenant_id)
    await _note(ground, "adopt bucket", bucket)
    return bucket


async def drop(ground: Ground, name: str) -> None:
    """See ``Objects.drop_bucket``."""
    found = await get_bucket(ground.catalog, name=name)
    if found.mode is BucketMode.MANAGED:
        uploads = await list_uploads(ground.catalog, bucket_id=found.id, most=1)
        if uploads or await list_versions(ground.catalog, bucket_id=found.id, most=1):
            raise PreconditionFailed(
                "the bucket is not empty", hint=f"entrepot object versions {name}", bucket=name
            )
        with contextlib.suppress(BucketNotFound):
            await ground.store.drop(name)
        await drop_record(ground, name)
    await forget_bucket(ground.catalog, name=name)
    ground.forget(name)
    await _note(ground, "drop bucket", found)


async def _note(ground: Ground, action: str, bucket: Bucket) -> None:
    facts = {"bucket_id": bucket.id, "bucket": bucket.name, "tenant": bucket.tenant_id}
    await ground.note(Changes(records=({"action": action, **facts},)))
