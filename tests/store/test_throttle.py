"""Everything that is sent is paid for first, and nothing is sent that is not."""

from collections.abc import AsyncIterator

import pytest

from entrepot.clock import new_id
from entrepot.errors import Paused, Throttled
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Attributes, Item, Origin
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.throttle import PIECE_BYTES, ThrottledStore
from entrepot.store.wrapper import Replay
from entrepot.testing.faulty import OK, FaultyStore, Refuse

BUCKET = "throttled"


class Purse:
    """Counts what was paid; refuses once ``most`` requests were."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.requests = 0
        self.most = 10**9
        self.limited = True

    def limits_bytes(self) -> bool:
        return self.limited

    async def take(self, *, size_bytes: int = 0, requests: int = 0) -> None:
        if self.requests + requests > self.most or (size_bytes and self.most == 0):
            raise Paused("not now")
        self.requests += requests
        if size_bytes:
            self.bytes.append(size_bytes)


async def made() -> tuple[ThrottledStore, MemoryStore, Purse]:
    memory, purse = MemoryStore(), Purse()
    await memory.create(BUCKET)
    return ThrottledStore(memory, purse), memory, purse


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


async def test_each_call_is_a_request_and_each_body_its_bytes() -> None:
    store, _, purse = await made()
    await store.put(BUCKET, "a", b"12345")
    assert (purse.requests, purse.bytes) == (1, [5])
    async with store.get(BUCKET, "a") as body:
        assert await body.read() == b"12345"
    await store.head(BUCKET, "a")
    await store.tags(BUCKET, "a")
    await store.delete(BUCKET, "a")
    assert (purse.requests, purse.bytes) == (5, [5])
    items = [Item(f"b{n}", b"xyz", Attributes(), Origin(str(new_id()), 1)) for n in range(3)]
    assert await store.batch(BUCKET, items) == []
    assert (purse.requests, purse.bytes) == (6, [5, 9])
    await store.close()


async def test_a_streamed_body_is_paid_piece_by_piece_and_comes_out_whole() -> None:
    store, memory, purse = await made()
    size = 3 * PIECE_BYTES + 10
    await store.put(BUCKET, "a", pieces(5, size), size_bytes=size + 5)
    assert sum(purse.bytes) == size + 5
    assert max(purse.bytes) <= PIECE_BYTES
    assert (await memory.head(BUCKET, "a")).size_bytes == size + 5
    upload = await store.start(BUCKET, "parts")
    part = await store.part(BUCKET, "parts", upload, 1, pieces(7), size_bytes=7)
    await store.complete(BUCKET, "parts", upload, (part,))
    assert sum(purse.bytes) == size + 12
    await store.close()


async def test_where_bytes_are_not_limited_pieces_are_sent_as_they_come() -> None:
    store, memory, purse = await made()
    purse.limited = False
    size = 3 * PIECE_BYTES
    await store.put(BUCKET, "a", pieces(size), size_bytes=size)
    assert (purse.requests, purse.bytes) == (1, [])
    assert (await memory.head(BUCKET, "a")).size_bytes == size
    await store.close()


async def test_each_page_of_a_listing_is_a_request() -> None:
    store, _, purse = await made()
    for number in range(5):
        await store.put(BUCKET, f"k{number}", b"1")
    before = purse.requests
    keys = [v.key async for page in store.list(BUCKET, page_size=2) for v in page.versions]
    versions = [v.key async for page in store.versions(BUCKET, page_size=5) for v in page.versions]
    assert keys == versions == [f"k{number}" for number in range(5)]
    assert purse.requests - before >= 3 + 1
    await store.close()


async def test_each_try_is_paid_for_by_itself() -> None:
    _, memory, purse = await made()
    busy = FaultyStore(memory, {"put": [Refuse(Throttled("slow down")), OK]})
    store = RetryStore(ThrottledStore(busy, purse), RetryPolicy(initial_backoff_ms=1))
    body = Replay(lambda: pieces(3, 4))
    await store.put(BUCKET, "a", body, size_bytes=7)
    assert purse.requests == 2
    assert sum(purse.bytes) >= 7
    assert (await memory.head(BUCKET, "a")).size_bytes == 7


async def test_nothing_is_sent_that_is_not_paid_for() -> None:
    store, memory, purse = await made()
    await memory.put(BUCKET, "old", b"1")
    purse.most = 0
    for call in (
        lambda: store.put(BUCKET, "new", b"1"),
        lambda: store.put(BUCKET, "new", pieces(1), size_bytes=1),
        lambda: store.delete(BUCKET, "old"),
        lambda: anext(aiter(store.list(BUCKET))),
        lambda: store.head(BUCKET, "old"),
    ):
        with pytest.raises(Paused):
            await call()
    with pytest.raises(Paused):
        async with store.get(BUCKET, "old"):
            pass
    assert [v.key async for page in memory.versions(BUCKET) for v in page.versions] == ["old"]
    await store.close()


async def test_a_store_with_tries_is_wrapped_below_them() -> None:
    _, memory, purse = await made()
    faulty = FaultyStore(memory, {"put": [Refuse(Throttled("slow down")), OK]})
    policy = RetryPolicy(initial_backoff_ms=1)
    store = RetryStore(faulty, policy).over(lambda below: ThrottledStore(below, purse))
    await store.put(BUCKET, "a", b"12345")
    assert (purse.requests, purse.bytes) == (2, [5, 5])
