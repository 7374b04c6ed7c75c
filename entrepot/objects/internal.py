"""The one bucket of a site that is ours: what must outlive the catalog, and parts that wait.

``buckets/<name>.json`` says whose a managed bucket is and what becomes of its objects, so that a
catalog can be made again from the store alone. ``spool/<upload>/<part>`` is of ``uploads``.
"""

import contextlib
import json
from collections.abc import AsyncIterator

from entrepot.catalog.buckets import Bucket
from entrepot.errors import AlreadyExists, IntegrityError
from entrepot.objects.ground import Ground
from entrepot.store.internal import internal_bucket

_RECORDS = "buckets/"
_FIELDS = ("tenant_id", "encrypted", "compressed", "locked")


async def has_internal(ground: Ground) -> str:
    """Make it where it is not there; its name."""
    name = internal_bucket(ground.site)
    if not ground.has_internal:
        with contextlib.suppress(AlreadyExists):
            await ground.store.create(name, versioned=False)
        ground.has_internal = True
    return name


async def save_record(ground: Ground, bucket: Bucket) -> None:
    """Keep what the catalog knows of a bucket in the store as well."""
    kept = {"format": 1, **{field: getattr(bucket, field) for field in _FIELDS}}
    name = await has_internal(ground)
    await ground.store.put(name, f"{_RECORDS}{bucket.name}.json", json.dumps(kept).encode())


async def drop_record(ground: Ground, name: str) -> None:
    """Forget a bucket in the store as well."""
    await ground.store.delete(await has_internal(ground), f"{_RECORDS}{name}.json")


async def records(ground: Ground) -> AsyncIterator[tuple[str, dict[str, object]]]:
    """Every bucket that was recorded: its name, and what ``manage_bucket`` takes."""
    name = await has_internal(ground)
    async for page in ground.store.list(name, prefix=_RECORDS):
        for entry in page.versions:
            async with ground.store.get(name, entry.key) as body:
                kept = json.loads(await body.read())
            if kept.get("format") != 1:
                raise IntegrityError("a bucket's record is of a format unknown here", key=entry.key)
            bucket = entry.key.removeprefix(_RECORDS).removesuffix(".json")
            yield bucket, {field: kept[field] for field in _FIELDS}
