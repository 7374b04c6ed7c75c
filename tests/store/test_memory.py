"""The store in memory against the contract, and against a plain dict."""

from collections.abc import AsyncIterator

import pytest

from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import BucketStore, ObjectStore
from entrepot.testing.contract_tools import history, new_bucket
from entrepot.testing.store_contract import StoreContract
from tests.store.machine import STEADY, SteppingClock, StoreMachine


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        store = MemoryStore()
        yield store
        await store.close()


class _Machine(StoreMachine):
    def make(self, clock: SteppingClock) -> MemoryStore:
        return MemoryStore(clock=clock)


TestMemoryAgainstADict = _Machine.TestCase
TestMemoryAgainstADict.settings = STEADY


async def test_time_comes_from_the_clock_that_is_given() -> None:
    clock = SteppingClock()
    store = MemoryStore(clock=clock)
    bucket = await new_bucket(store)
    await store.put(bucket, "k", b"x")
    (found,) = await history(store, bucket)
    assert found.mtime_ms == clock.time.timestamp() * 1000
    assert (await store.buckets())[0].created == clock.time
    await store.close()


async def test_it_is_both_stores() -> None:
    store = MemoryStore()
    assert isinstance(store, ObjectStore)
    assert isinstance(store, BucketStore)
    await store.close()


async def test_bytes_nobody_names_are_given_back() -> None:
    store = MemoryStore()
    bucket = await new_bucket(store, versioned=False)
    for body in (b"one", b"two", b"three"):
        await store.put(bucket, "k", body)
    upload_id = await store.start(bucket, "k")
    await store.part(bucket, "k", upload_id, 1, b"one")
    await store.part(bucket, "k", upload_id, 1, b"two")
    await store.abort(bucket, "k", upload_id)
    await store.delete(bucket, "k")
    assert store.held_bytes == 0
    await store.close()
