"""The S3 store on a real MinIO against the contract, and what MinIO does otherwise.

The overridden tests hold MinIO's own answers where they differ from S3's (tried on the build
that is embedded). If one of them fails after an upgrade, MinIO came closer to S3: delete it.
"""

from collections.abc import AsyncIterator

import pytest

from entrepot.embedded.minio import MinioServer
from entrepot.store.protocol import NULL_VERSION, Store
from entrepot.store.s3 import S3Store
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
