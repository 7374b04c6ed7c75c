"""Uploads of the store that nobody will complete, because whoever began them has gone.

Invariant: an upload that somebody may still complete is never dropped. Before one begins, an effect
says that there will be one, of which key and for which write; once it has begun, which one it is.
Then it is dropped when its write is no longer under way. A writer that died in between leaves an
effect that names none: uploads of that very key are looked up, and of those that nobody owns each
becomes an effect of its own. It is dropped a lease later, if nobody owns it still: by then who
lives has said so, or has been told that it is too late.

Words: *owner* a client's upload that the catalog knows, or a write under way.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.effects import done_effects, expect_upload, is_owned, name_upload
from entrepot.catalog.objects.facts import Effect
from entrepot.catalog.objects.intents import under_way
from entrepot.errors import RetryableError, Unavailable
from entrepot.objects.ground import Ground
from entrepot.objects.names import stored_key

Naming = Callable[[str], Awaitable[None]]
"""Told the id of the upload that has begun, before its first part."""


@asynccontextmanager
async def expected_upload(
    ground: Ground, bucket: Bucket, key: str, version_id: str
) -> AsyncIterator[Naming]:
    """Around an upload of the store: while it lasts recovery knows of it.

    What ends with an error is left to recovery: an answer may have been lost.
    """
    effect = await expect_upload(
        ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id
    )

    async def name(upload: str) -> None:
        if not await name_upload(ground.catalog, effect, upload):
            await ground.store.abort(bucket.name, stored_key(key), upload)
            raise Unavailable(
                "the write took too long and was given up", hint="send it again", key=key
            )

    yield name
    with suppress(RetryableError):  # the upload is over: recovery will find that it is gone
        await done_effects(ground.catalog, [effect])


async def drop_upload(ground: Ground, bucket: Bucket, effect: Effect) -> bool:
    """Drop what an effect names, or find what it does not name; False: its writer is at work."""
    if await under_way(ground.catalog, version_ids=[effect.version_id]):
        return False
    name = stored_key(effect.key)
    if upload := effect.details.get("upload", ""):
        if not await _has_owner(ground, effect, upload):
            await ground.store.abort(bucket.name, name, upload)
        return True
    for found in await ground.store.uploads(bucket.name, prefix=name):
        if found.key == name and not await _has_owner(ground, effect, found.upload_id):
            await expect_upload(
                ground.catalog,
                bucket_id=bucket.id,
                key=effect.key,
                version_id=effect.version_id,
                upload=found.upload_id,
            )
    return True


async def _has_owner(ground: Ground, effect: Effect, upload: str) -> bool:
    return await is_owned(ground.catalog, bucket_id=effect.bucket_id, key=effect.key, upload=upload)
