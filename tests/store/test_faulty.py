"""The faults themselves: scripted ones in process, and a proxy before a real server."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from entrepot.embedded.minio import MinioServer
from entrepot.errors import NotFound, Unavailable
from entrepot.store.memory import MemoryStore
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.s3 import S3Store
from entrepot.testing.contract_tools import current, new_bucket, pieces, read
from entrepot.testing.faulty import (
    OK,
    BreakListing,
    Corrupt,
    Delay,
    Fault,
    FaultyStore,
    LoseAnswer,
    Refuse,
    Stale,
    Truncate,
)
from entrepot.testing.proxy import BreakableProxy

BODY = b"0123456789"
MIB = 1024 * 1024


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    """Memory with ``BODY`` as ``k`` in ``bucket``."""
    memory = MemoryStore()
    await memory.create("bucket")
    await memory.put("bucket", "k", BODY)
    yield memory
    await memory.close()


async def test_refused_is_not_done_and_a_lost_answer_is(memory: MemoryStore) -> None:
    store = FaultyStore(memory, {"put": [Refuse(), LoseAnswer(), OK]})
    for key, is_done in (("a", False), ("b", True)):
        with pytest.raises(Unavailable):
            await store.put("bucket", key, b"x")
        if is_done:
            await memory.head("bucket", key)
        else:
            with pytest.raises(NotFound):
                await memory.head("bucket", key)
    await store.put("bucket", "c", b"x")
    assert store.left == {}
    assert store.calls == ["put"] * 3


async def test_a_body_is_cut_or_damaged(memory: MemoryStore) -> None:
    faults: list[Fault] = [
        Truncate(4),
        Truncate(4, error=None),
        Corrupt(2),
        LoseAnswer(),
        Truncate(99),
    ]
    store = FaultyStore(memory, {"get": faults})
    with pytest.raises(Unavailable):
        await read(store, "bucket", "k")
    assert await read(store, "bucket", "k") == b"0123"
    assert await read(store, "bucket", "k") == b"01" + bytes((ord("2") ^ 0xFF,)) + b"3456789"
    with pytest.raises(Unavailable):
        await read(store, "bucket", "k")
    assert await read(store, "bucket", "k") == BODY


async def test_a_delay_comes_before(memory: MemoryStore) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    store = FaultyStore(memory, {"head": [Delay(7)]}, sleep=sleep)
    assert (await store.head("bucket", "k")).size_bytes == len(BODY)
    assert slept == [7]


async def test_a_listing_is_stale_or_breaks(memory: MemoryStore) -> None:
    before = [page async for page in memory.list("bucket")]
    await memory.put("bucket", "l", b"x")
    faults: list[Fault] = [Stale(before), BreakListing(1), BreakListing(9), OK]
    store = FaultyStore(memory, {"list": faults})
    assert [entry.key for entry in await current(store, "bucket")] == ["k"]
    for page_size, seen in ((1, 1), (1, 2)):
        pages = 0
        with pytest.raises(Unavailable):
            async for _ in store.list("bucket", page_size=page_size):
                pages += 1
        assert pages == seen
    assert [entry.key for entry in await current(store, "bucket")] == ["k", "l"]


def test_a_script_with_an_unknown_verb_is_refused() -> None:
    with pytest.raises(AssertionError):
        FaultyStore(MemoryStore(), {"putt": [OK]})


@pytest.fixture
async def proxy(minio_a: MinioServer) -> AsyncIterator[BreakableProxy]:
    """A proxy before MinIO."""
    target = urlsplit(minio_a.endpoint)
    assert target.hostname and target.port
    async with BreakableProxy(target.hostname, target.port) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: BreakableProxy, minio_a: MinioServer) -> AsyncIterator[S3Store]:
    """A client that sees MinIO through the proxy; silence of 0.5 s is a failure."""
    store = S3Store(
        endpoint=proxy.endpoint,
        access_key=minio_a.access_key,
        secret_key=minio_a.secret_key,
        connect_timeout_s=0.5,
        read_timeout_s=0.5,
    )
    yield store
    await store.close()


async def test_a_refused_connection_is_unavailable_until_it_heals(
    store: S3Store, proxy: BreakableProxy
) -> None:
    bucket = await new_bucket(store)
    await proxy.refuse()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.put(bucket, "k", BODY)
    await proxy.heal()
    await store.put(bucket, "k", BODY)
    assert await read(store, bucket, "k") == BODY


async def test_a_hanging_server_is_unavailable(store: S3Store, proxy: BreakableProxy) -> None:
    bucket = await new_bucket(store)
    proxy.hang()
    with pytest.raises(Unavailable):
        await store.head(bucket, "k")
    await proxy.heal()
    with pytest.raises(NotFound):
        await store.head(bucket, "k")


async def test_a_body_reset_in_the_middle_is_unavailable(
    store: S3Store, proxy: BreakableProxy
) -> None:
    bucket = await new_bucket(store)
    await store.put(bucket, "k", bytes(MIB))
    proxy.reset_after(MIB // 2)
    with pytest.raises(Unavailable):
        await read(store, bucket, "k")
    assert await read(store, bucket, "k") == bytes(MIB)


async def test_a_cut_connection_is_made_again(store: S3Store, proxy: BreakableProxy) -> None:
    bucket = await new_bucket(store)
    parts = [bytes(512 * 1024)] * 8
    await store.put(bucket, "k", pieces(*parts), size_bytes=4 * MIB)
    proxy.delay(0.02)  # so that the rest is still under way
    async with store.get(bucket, "k") as body:
        reading = aiter(body)
        await anext(reading)
        await proxy.cut()
        with pytest.raises(Unavailable):
            _ = [piece async for piece in reading]
    await proxy.heal()
    assert len(await read(store, bucket, "k")) == 4 * MIB


async def test_retry_rides_over_a_restart(store: S3Store, proxy: BreakableProxy) -> None:
    bucket = await new_bucket(store)
    retrying = RetryStore(store, RetryPolicy(max_retries=20, max_backoff_ms=100))
    await proxy.refuse()
    writes = [asyncio.create_task(retrying.put(bucket, f"k{number}", BODY)) for number in range(5)]
    await asyncio.sleep(0.3)
    await proxy.heal()
    await asyncio.gather(*writes)
    assert len(await current(store, bucket)) == 5


async def test_retry_goes_on_with_a_listing_that_was_reset(
    store: S3Store, proxy: BreakableProxy
) -> None:
    bucket = await new_bucket(store)
    keys = [f"key-{number:03}" for number in range(60)]
    await asyncio.gather(*(store.put(bucket, key, b"") for key in keys))
    retrying = RetryStore(store)
    for listing in (retrying.list, retrying.versions):
        proxy.reset_after(9000)  # about half of what the listing has
        found = [
            entry.key async for page in listing(bucket, page_size=7) for entry in page.versions
        ]
        assert found == keys
        assert proxy.passed_bytes > 9000
