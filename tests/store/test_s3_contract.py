"""The S3 store on a real MinIO against the contract, and what MinIO does otherwise.

The overridden tests hold MinIO's own answers where they differ from S3's (tried on the build
that is embedded). If one of them fails after an upgrade, MinIO came closer to S3: delete it.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from entrepot.clock import SYSTEM_CLOCK, new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer
from entrepot.store.protocol import (
    NULL_VERSION,
    Attributes,
    Item,
    Lock,
    LockMode,
    Part,
    Store,
)
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store, uploads
from entrepot.testing.contract_tools import THEN_MS, current, history, new_bucket, origin, read
from entrepot.testing.store_contract import StoreContract


def _store(server: MinioServer) -> S3Store:
    return S3Store(
        endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key
    )


class TestS3Store(StoreContract):
    @pytest.fixture
    async def store(self, minio_a: MinioServer) -> AsyncIterator[S3Store]:
        store = _store(minio_a)
        yield store
        await store.close()

    async def test_a_key_can_start_other_keys(self, store: Store, bucket: str) -> None:
        """MinIO keeps ``a/b`` beside an object ``a``, but lists nothing below an object."""
        for key in ("a", "a/b"):
            await store.put(bucket, key, key.encode())
            assert await read(store, bucket, key) == key.encode()
        assert [entry.key for entry in await current(store, bucket)] == ["a"]
        assert await history(store, bucket, prefix="a/") == []
        await store.delete(bucket, "a")  # the marker hides it as well
        assert await current(store, bucket) == []
        assert await read(store, bucket, "a/b") == b"a/b"

    async def test_a_key_can_end_with_a_slash(self, store: Store, bucket: str) -> None:
        """MinIO keeps one ``null`` version of such a key, even in a versioned bucket."""
        for body in (b"one", b"two"):
            await store.put(bucket, "trailing/", body)
        assert await read(store, bucket, "trailing/") == b"two"
        (found,) = await history(store, bucket)
        assert (found.key, found.version_id) == ("trailing/", NULL_VERSION)
        assert await store.delete(bucket, "trailing/") is None
        assert await history(store, bucket) == []

    async def test_pages_of_parts_and_uploads_follow_each_other(
        self, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = [await store.start(bucket, "k") for _ in range(5)]
        for number in (1, 3, 4, 7, 10_000):
            await store.part(bucket, "k", ids[0], number, b"x")
        for size in (1, 2, 5):
            monkeypatch.setattr(uploads, "PAGE_SIZE", size)
            found = await store.uploads(bucket, prefix="k")
            assert sorted(each.upload_id for each in found) == sorted(ids)
            numbers = [part.number for part in await store.parts(bucket, "k", ids[0])]
            assert numbers == [1, 3, 4, 7, 10_000]

    async def test_a_bucket_with_object_lock_takes_no_batch(self, store: Store) -> None:
        """MinIO would unpack over a locked version, and drop its lock."""
        bucket = await new_bucket(store, locked=True)
        items = [Item("k", b"x", Attributes(), origin())]
        assert await store.batch(bucket, items) == items
        assert await history(store, bucket) == []

    async def test_a_version_in_governance_can_be_written_again(self, store: Store) -> None:
        """MinIO refuses that for a held version, or one in compliance mode, only."""
        bucket, chosen = await new_bucket(store, locked=True), origin()
        await store.put(bucket, "k", b"one", origin=chosen)
        until = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(hours=1)
        await store.retain(bucket, "k", mode=LockMode.GOVERNANCE, until=until)
        await store.put(bucket, "k", b"two", origin=chosen)
        assert await read(store, bucket, "k") == b"two"
        assert await store.lock(bucket, "k") == Lock(LockMode.GOVERNANCE, until)

    async def test_a_copy_loses_its_time_of_expiry(self, store: Store, bucket: str) -> None:
        """MinIO forgets ``expires`` in a copy; given as an attribute, it stays."""
        attributes = Attributes(headers={"expires": "Thu, 01 Dec 2033 16:00:00 GMT"})
        await store.put(bucket, "k", b"x", attributes=attributes)
        copied = await store.copy(bucket, "plain", source=(bucket, "k", None))
        assert copied.attributes == Attributes()
        copied = await store.copy(
            bucket, "given", source=(bucket, "k", None), attributes=attributes
        )
        assert copied.attributes == attributes


async def test_uploads_are_forgotten_in_a_restart_but_by_their_key(tmp_path: Path) -> None:
    """MinIO lists them from memory, and looks on its disks only for a whole key."""
    server = MinioServer(tmp_path, MinioCredentials(new_token(8), SecretStr(new_token(24))))
    store = _store(server.start())
    try:
        bucket = await new_bucket(store)
        upload_id = await store.start(bucket, "a/b")
        part = await store.part(bucket, "a/b", upload_id, 1, b"x")
        await store.close()
        server.stop()
        server.start()
        assert await store.uploads(bucket) == await store.uploads(bucket, prefix="a/") == ()
        (found,) = await store.uploads(bucket, prefix="a/b")
        assert (found.key, found.upload_id) == ("a/b", upload_id)
        assert await store.parts(bucket, "a/b", upload_id) == (Part(1, part.etag, 1),)
        await store.complete(bucket, "a/b", upload_id, (part,))
        assert await read(store, bucket, "a/b") == b"x"
    finally:
        await store.close()
        server.stop()


async def test_two_sites_in_step_have_equal_tokens(
    minio_a: MinioServer, minio_b: MinioServer
) -> None:
    stores = _store(minio_a), _store(minio_b)
    writes = [origin(mtime_ms=THEN_MS + step) for step in range(3)]
    found = []
    for store in stores:
        bucket = await new_bucket(store)
        await store.put(bucket, "ü &<", b"one", origin=writes[0])
        await store.put(bucket, "ü &<", b"two", origin=writes[1])
        await store.delete(bucket, "gone", origin=writes[2])
        current_tokens = [token async for page in store.list(bucket) for token in page.tokens]
        tokens = [token async for page in store.versions(bucket) for token in page.tokens]
        found.append((current_tokens, tokens))
        await store.close()
    assert found[0] == found[1]
    assert [len(tokens) for tokens in found[0]] == [1, 3]


class LooksAtOnce(S3Store):
    """A store whose first look for a marker waits until another writer looked as well."""

    both: asyncio.Barrier | None = None

    async def _exists(self, bucket: str, key: str, version_id: str) -> bool:
        found = await super()._exists(bucket, key, version_id)
        if (both := self.both) is not None:
            self.both = None
            await both.wait()
        return found


@pytest.mark.parametrize("writers", [2, 3])
async def test_writers_of_one_delete_marker_leave_it(minio_a: MinioServer, writers: int) -> None:
    """MinIO removes a marker that it is sent again: each had looked before another had written."""
    reader, both = _store(minio_a), asyncio.Barrier(writers)
    stores = []
    for _ in range(writers):
        stores.append(
            LooksAtOnce(
                endpoint=minio_a.endpoint,
                access_key=minio_a.access_key,
                secret_key=minio_a.secret_key,
            )
        )
        stores[-1].both = both
    try:
        bucket, chosen = await new_bucket(reader), origin()
        await reader.put(bucket, "k", b"x", origin=origin(mtime_ms=THEN_MS - 1))
        found = await asyncio.gather(
            *(RetryStore(store).delete(bucket, "k", origin=chosen) for store in stores)
        )
        assert {each.version_id for each in found if each} == {chosen.version_id}
        markers = [each for each in await history(reader, bucket) if each.is_delete_marker]
        assert [(each.version_id, each.mtime_ms) for each in markers] == [
            (chosen.version_id, chosen.mtime_ms)
        ]
    finally:
        for store in (reader, *stores):
            await store.close()
