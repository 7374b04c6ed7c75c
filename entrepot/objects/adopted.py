"""Adopted buckets: the store decides, we pass through and keep a record of what we did."""

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import Changes, Event, Listed, ObjectRow
from entrepot.clock import is_uuid
from entrepot.errors import InvalidInput, Unsupported
from entrepot.objects.ground import Ground
from entrepot.objects.notices import Notice, strike
from entrepot.objects.reads import row_of
from entrepot.objects.writes import Wish
from entrepot.store.notification import TARGETS, merged, missing
from entrepot.store.protocol import Capability, Source, Store, Version
from entrepot.store.settings import Setting


async def put(
    ground: Ground, bucket: Bucket, key: str, source: Source, *, size_bytes: int | None, wish: Wish
) -> ObjectRow:
    """Write through; the condition is the endpoint's to hold, where it can."""
    if wish.checksums:
        raise Unsupported("checksums of writes to adopted buckets", hint="use a managed bucket")
    match, none_match = _condition(ground, wish)
    version = await ground.store.put(
        bucket.name,
        key,
        source,
        size_bytes=size_bytes,
        attributes=wish.attributes,
        if_match=match,
        if_none_match=none_match,
    )
    return await _noted(ground, bucket, version, "put", wish)


def _condition(ground: Ground, wish: Wish) -> tuple[str | None, bool]:
    condition = wish.condition
    if not condition:
        return None, False
    if Capability.CONDITIONAL_WRITE not in ground.capabilities:
        raise Unsupported("this site has no conditional writes", hint="use a managed bucket")
    matches, others = condition.if_match, condition.if_none_match
    if (
        condition.if_unmodified_since_ms is not None
        or len(matches) > 1
        or others not in ((), ("*",))
    ):
        raise InvalidInput("an adopted bucket takes if-match with one ETag, or if-none-match *")
    return (matches[0] if matches else None), bool(others)


async def delete(
    ground: Ground, bucket: Bucket, key: str, *, version_id: str | None, wish: Wish
) -> ObjectRow | None:
    """Delete through, without a condition: endpoints do not agree on those of a delete."""
    if wish.condition:
        raise Unsupported("conditions of deletes in adopted buckets", hint="use a managed bucket")
    version = await ground.store.delete(bucket.name, key, version_id=version_id)
    if version_id and is_uuid(version_id):
        notice = Notice(key, version_id, removed=True)
        await strike(ground, bucket, notice, is_replica=False, actor=wish.actor)
        return None
    gone = version or Version(key=key, version_id=version_id or "", mtime_ms=0)
    row = await _noted(ground, bucket, gone, "remove" if version_id else "delete", wish)
    return row if version else None


async def follow(store: Store, bucket: str) -> None:
    """Have an endpoint tell of what is written to a bucket; its user's configuration stays.

    Somebody who changes the configuration in that moment is overwritten: nothing here is
    conditional. Raises ``Unsupported`` where the endpoint cannot, or knows none of our targets.
    """
    document = await store.setting(bucket, Setting.NOTIFICATION)
    lacking = missing(document)
    for targets in dict.fromkeys([lacking, *((each,) for each in lacking)]):
        if not targets:
            return
        try:
            await store.configure(bucket, Setting.NOTIFICATION, merged(document, targets))
        except InvalidInput:  # one that it was not started with
            continue
        return
    if lacking == TARGETS:
        raise Unsupported(
            "the endpoint does not know our targets of notifications, so the sweep alone brings "
            "what is written to this bucket",
            hint="start it with the variables in docs/replication.md",
            bucket=bucket,
        )


async def list_page(
    ground: Ground, bucket: Bucket, *, prefix: str, after: str, delimiter: str, most: int
) -> tuple[Listed, ...]:
    """One page of the store's own listing."""
    pages = ground.store.list(
        bucket.name, prefix=prefix, after=after, delimiter=delimiter, page_size=most
    )
    async for page in pages:
        if len(page):
            return tuple(
                Listed(v.key, v.version_id, v.mtime_ms, v.size_bytes, v.etag) for v in page.versions
            )
    return ()


async def _noted(
    ground: Ground, bucket: Bucket, version: Version, action: str, wish: Wish
) -> ObjectRow:
    row = row_of(ground.site, bucket, version)
    record = {
        "action": action,
        "actor": wish.actor,
        "bucket_id": bucket.id,
        "key": row.key,
        "version_id": row.version_id,
    }
    event = Event(bucket.id, row.key, row.version_id, action, str(row.stamp))
    await ground.note(Changes(records=(record,), events=(event,)))
    return row
