"""The contract of buckets and multipart uploads."""

import hashlib

import pytest

from entrepot.clock import new_id
from entrepot.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed
from entrepot.store.protocol import Attributes, BucketStore, Part, Store
from entrepot.testing.contract_tools import (
    ContractPart,
    history,
    is_visible,
    new_bucket,
    origin,
    pieces,
    read,
)

MIB = 1024 * 1024
FIRST, LAST = b"1" * (5 * MIB), b"2" * 1000
ATTRIBUTES = Attributes(content_type="video/mp4", metadata={"m": "1"}, tags={"t": "2"})


async def _upload(store: BucketStore, bucket: str, key: str) -> tuple[str, tuple[Part, Part]]:
    upload_id = await store.start(bucket, key, attributes=ATTRIBUTES)
    last = await store.part(bucket, key, upload_id, 2, pieces(LAST), size_bytes=len(LAST))
    first = await store.part(bucket, key, upload_id, 1, FIRST)
    return upload_id, (first, last)


class BucketContract(ContractPart):
    """Buckets, and objects that arrive in parts."""

    async def test_buckets_come_and_go(self, store: Store) -> None:
        names = sorted([await new_bucket(store), await new_bucket(store)])
        assert [info.name for info in await store.buckets() if info.name in names] == names
        assert all(info.created.tzinfo for info in await store.buckets())
        with pytest.raises(AlreadyExists):
            await store.create(names[0])
        await store.drop(names[0])
        assert names[0] not in {info.name for info in await store.buckets()}

    async def test_a_bucket_with_versions_is_not_dropped(self, store: Store, bucket: str) -> None:
        assert await store.versioned(bucket)
        await store.put(bucket, "k", b"x")
        await store.delete(bucket, "k")
        with pytest.raises(PreconditionFailed):
            await store.drop(bucket)
        for version in await history(store, bucket):
            await store.delete(bucket, "k", version_id=version.version_id)
        await store.drop(bucket)

    @pytest.mark.parametrize("name", ["ab", "Upper", "a" * 64, "under_score", "../x", "-a-"])
    async def test_a_bucket_has_a_plain_name(self, store: Store, name: str) -> None:
        with pytest.raises(InvalidInput):
            await store.create(name)

    async def test_parts_become_an_object(self, store: Store, bucket: str) -> None:
        upload_id, parts = await _upload(store, bucket, "k")
        assert not await is_visible(store, bucket, "k")
        done = await store.complete(bucket, "k", upload_id, parts)
        digests = b"".join(
            hashlib.md5(part, usedforsecurity=False).digest() for part in (FIRST, LAST)
        )
        etag = hashlib.md5(digests, usedforsecurity=False).hexdigest() + "-2"
        head = await store.head(bucket, "k")
        assert done.etag == head.etag == etag
        assert done.version_id == head.version_id
        assert head.size_bytes == len(FIRST + LAST)
        assert head.attributes is not None
        assert head.attributes.content_type == ATTRIBUTES.content_type
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata
        assert dict(await store.tags(bucket, "k")) == ATTRIBUTES.tags
        assert await read(store, bucket, "k") == FIRST + LAST
        async with store.get(bucket, "k", part=2) as body:
            assert (body.version.size_bytes, body.length) == (len(FIRST + LAST), len(LAST))
            assert await body.read() == LAST
        assert await read(store, bucket, "k", part=1) == FIRST
        edge = len(FIRST)
        assert await read(store, bucket, "k", start=edge - 2, stop=edge + 2) == b"1122"
        with pytest.raises(InvalidInput):
            await read(store, bucket, "k", part=3)

    async def test_a_part_can_be_sent_again(self, store: Store, bucket: str) -> None:
        upload_id = await store.start(bucket, "k")
        wrong = await store.part(bucket, "k", upload_id, 1, b"wrong")
        right = await store.part(bucket, "k", upload_id, 1, b"right")
        with pytest.raises(InvalidInput):
            await store.complete(bucket, "k", upload_id, (wrong,))
        await store.complete(bucket, "k", upload_id, (right,))
        assert await read(store, bucket, "k") == b"right"

    async def test_parts_that_are_small_or_missing_are_refused(
        self, store: Store, bucket: str
    ) -> None:
        upload_id = await store.start(bucket, "k")
        one = await store.part(bucket, "k", upload_id, 1, b"small")
        two = await store.part(bucket, "k", upload_id, 2, b"last")
        for parts in ((one, two), (two, one), (one, Part(number=7, etag=one.etag))):
            with pytest.raises(InvalidInput):
                await store.complete(bucket, "k", upload_id, parts)
        for number in (0, 10_001):
            with pytest.raises(InvalidInput):
                await store.part(bucket, "k", upload_id, number, b"x")
        assert not await is_visible(store, bucket, "k")

    async def test_an_upload_can_be_dropped(self, store: Store, bucket: str) -> None:
        upload_id, parts = await _upload(store, bucket, "k")
        await store.abort(bucket, "k", upload_id)
        await store.abort(bucket, "k", upload_id)  # gone already: no error
        with pytest.raises(NotFound):
            await store.complete(bucket, "k", upload_id, parts)
        with pytest.raises(NotFound):
            await store.part(bucket, "k", upload_id, 1, b"late")
        with pytest.raises(NotFound):
            await store.part(bucket, "k", str(new_id()), 1, b"never")
        assert not await is_visible(store, bucket, "k")

    async def test_an_upload_can_have_an_origin(self, store: Store, bucket: str) -> None:
        chosen = origin()
        await store.put(bucket, "k", b"now")
        upload_id = await store.start(bucket, "k", origin=chosen)
        part = await store.part(bucket, "k", upload_id, 1, LAST)
        done = await store.complete(bucket, "k", upload_id, (part,), origin=chosen)
        assert done.version_id == chosen.version_id
        newest, oldest = await history(store, bucket)
        assert newest.is_current and newest.etag == hashlib.md5(b"now").hexdigest()  # noqa: S324
        assert (oldest.version_id, oldest.mtime_ms) == (chosen.version_id, chosen.mtime_ms)
        assert oldest.etag.endswith("-1")
