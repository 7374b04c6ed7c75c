"""What is tried again, what is not, and what a second try may not do."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    InvalidInput,
    NotFound,
    PermanentError,
    RetryableError,
    Throttled,
    Unavailable,
)
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Attributes, Lock, LockMode, Part
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.wrapper import Replay
from entrepot.testing.contract_tools import current, history, origin, pieces, read
from entrepot.testing.faulty import BreakListing, Fault, FaultyStore, LoseAnswer, Refuse, Truncate
from entrepot.testing.store_contract import StoreContract

STEADY = RetryPolicy(jitter=0)
BUSY = Refuse(Throttled("slow down"))


class TestRetryStore(StoreContract):
    """Wrappers keep the whole contract while nothing fails."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[RetryStore]:
        store = RetryStore(FaultyStore(MemoryStore(), {}))
        yield store
        await store.close()


class Bench:
    """A retrying store over a faulty one over memory, with ``bucket``; waits are written down."""

    def __init__(self, script: Mapping[str, Sequence[Fault]], policy: RetryPolicy) -> None:
        self.waits: list[float] = []
        self.memory = MemoryStore()
        self.faulty = FaultyStore(self.memory, script)
        self.store = RetryStore(self.faulty, policy, sleep=self._sleep, random=lambda: 0.5)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
async def bench() -> AsyncIterator[Callable[..., Coroutine[Any, Any, Bench]]]:
    """Makes benches and closes them."""
    made: list[Bench] = []

    async def make(script: Mapping[str, Sequence[Fault]], policy: RetryPolicy = STEADY) -> Bench:
        made.append(Bench(script, policy))
        await made[-1].memory.create("bucket")
        return made[-1]

    yield make
    for one in made:
        await one.store.close()


Make = Callable[..., Coroutine[Any, Any, Bench]]


async def test_waits_double_up_to_the_longest(bench: Make) -> None:
    policy = RetryPolicy(max_retries=4, initial_backoff_ms=100, max_backoff_ms=300, jitter=0)
    one = await bench({"head": [Refuse()] * 4}, policy)
    await one.memory.put("bucket", "k", b"x")
    assert (await one.store.head("bucket", "k")).size_bytes == 1
    assert one.waits == [0.1, 0.2, 0.3, 0.3]
    assert one.faulty.left == {}


async def test_chance_shortens_waits(bench: Make) -> None:
    one = await bench({"buckets": [Refuse()]}, RetryPolicy(jitter=0.5))
    await one.store.buckets()
    assert one.waits == [0.1 * (1 - 0.5 * 0.5)]


async def test_the_last_error_is_raised_after_max_retries(bench: Make) -> None:
    one = await bench({"head": [Refuse(), BUSY, Refuse(), BUSY, Refuse()]})
    with pytest.raises(Throttled) as raised:
        await one.store.head("bucket", "k")
    assert raised.value.__notes__ == ["head was tried 4 times"]
    assert len(one.waits) == 3
    assert len(one.faulty.left["head"]) == 1


async def test_permanent_errors_are_not_retried(bench: Make) -> None:
    one = await bench({"head": [Refuse(AccessDenied("no"))], "get": [Refuse(NotFound("no"))]})
    with pytest.raises(AccessDenied):
        await one.store.head("bucket", "k")
    with pytest.raises(NotFound):
        await read(one.store, "bucket", "k")
    assert one.waits == []


async def test_bytes_are_sent_again(bench: Make) -> None:
    one = await bench({"put": [Refuse(), Refuse()], "part": [Refuse()]})
    await one.store.put("bucket", "k", b"body")
    assert await read(one.memory, "bucket", "k") == b"body"
    upload_id = await one.store.start("bucket", "k")
    await one.store.part("bucket", "k", upload_id, 1, b"part")
    assert len(one.waits) == 3


@pytest.mark.parametrize("error", [Unavailable("lost"), Throttled("slow down")])
async def test_an_iterator_is_sent_once(bench: Make, error: EntrepotError) -> None:
    one = await bench({"put": [LoseAnswer(error)], "part": [LoseAnswer(error)]})
    with pytest.raises(RetryableError):
        await one.store.put("bucket", "k", pieces(b"bo", b"dy"), size_bytes=4)
    upload_id = await one.store.start("bucket", "k")
    with pytest.raises(RetryableError):
        await one.store.part("bucket", "k", upload_id, 1, pieces(b"x"), size_bytes=1)
    assert one.waits == []


async def test_a_replay_is_opened_for_each_try(bench: Make) -> None:
    opened: list[int] = []

    def body() -> AsyncIterator[bytes]:
        opened.append(1)
        return pieces(b"bo", b"dy")

    one = await bench({"put": [Refuse(), LoseAnswer()], "part": [Refuse()]})
    await one.store.put("bucket", "k", Replay(body), size_bytes=4, origin=origin())
    assert await read(one.memory, "bucket", "k") == b"body"
    assert len(await history(one.memory, "bucket")) == 1
    upload_id = await one.store.start("bucket", "k")
    await one.store.part("bucket", "k", upload_id, 1, Replay(body), size_bytes=4)
    assert len(opened) == 5


async def test_an_origin_prevents_a_twin(bench: Make) -> None:
    one = await bench({"put": [LoseAnswer(), LoseAnswer()], "delete": [LoseAnswer()]})
    chosen = origin()
    put = await one.store.put("bucket", "with", b"x", origin=chosen)
    assert put.version_id == chosen.version_id
    await one.store.delete("bucket", "with", origin=origin())
    assert len(await history(one.memory, "bucket", prefix="with")) == 2
    twin = await bench({"put": [LoseAnswer()]})
    await twin.store.put("bucket", "without", b"x")
    assert len(await history(twin.memory, "bucket")) == 2


@pytest.mark.parametrize(("fault", "is_retried"), [(BUSY, True), (LoseAnswer(), False)])
async def test_what_changes_its_own_condition_is_retried_only_if_nothing_was_done(
    bench: Make, fault: Fault, is_retried: bool
) -> None:
    one = await bench({verb: [fault] for verb in ("put", "create", "drop", "complete")})
    upload_id = await one.store.start("bucket", "big")
    part = await one.store.part("bucket", "big", upload_id, 1, b"x")
    calls: tuple[Callable[[], Coroutine[Any, Any, Any]], ...] = (
        lambda: one.store.put("bucket", "k", b"x", if_none_match=True),
        lambda: one.store.create("other"),
        lambda: one.store.drop("other"),
        lambda: one.store.complete("bucket", "big", upload_id, (part,)),
    )
    for call in calls:
        if is_retried:
            await call()
        else:
            with pytest.raises(Unavailable):
                await call()
    assert len(one.waits) == (4 if is_retried else 0)
    assert one.faulty.left == {}
    assert {entry.key for entry in await current(one.memory, "bucket")} == {"k", "big"}


async def test_what_ends_as_once_is_tried_again(bench: Make) -> None:
    faults = [Refuse(), LoseAnswer()]
    verbs = ("tag", "tags", "retain", "hold", "lock", "parts", "uploads", "copy", "delete")
    one = await bench(dict.fromkeys(verbs, faults))
    await one.memory.create("locked", locked=True)
    put = await one.memory.put("locked", "k", b"x")
    upload_id = await one.memory.start("locked", "k")
    until = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(hours=1)
    await one.store.tag("locked", "k", {"a": "b"})
    assert await one.store.tags("locked", "k") == {"a": "b"}
    await one.store.retain("locked", "k", mode=LockMode.GOVERNANCE, until=until)
    await one.store.hold("locked", "k", True)
    assert await one.store.lock("locked", "k") == Lock(LockMode.GOVERNANCE, until, hold=True)
    assert await one.store.parts("locked", "k", upload_id) == ()
    assert [each.upload_id for each in await one.store.uploads("locked")] == [upload_id]
    await one.store.copy(
        "bucket", "to", source=("locked", "k", None), attributes=Attributes(), origin=origin()
    )
    assert len(await history(one.memory, "bucket")) == 1
    await one.memory.hold("locked", "k", False)
    await one.store.delete("locked", "k", version_id=put.version_id, bypass=True)
    assert await history(one.memory, "locked") == []
    assert one.faulty.left == {}
    assert len(one.waits) == 2 * len(verbs)


async def test_a_refusal_by_a_lock_is_not_tried_again(bench: Make) -> None:
    one = await bench({})
    await one.memory.create("locked", locked=True)
    put = await one.memory.put("locked", "k", b"x")
    await one.store.hold("locked", "k", True)
    with pytest.raises(AccessDenied):
        await one.store.delete("locked", "k", version_id=put.version_id, bypass=True)
    assert one.faulty.calls == ["hold", "delete"]


async def test_a_listing_goes_on_where_it_broke(bench: Make) -> None:
    breaks = [Refuse(), BreakListing(0), BreakListing(2), BreakListing(1)]
    one = await bench({"list": [*breaks, *breaks]})
    keys = [f"{folder}/{number}" for folder in "abc" for number in range(4)]
    for key in keys:
        await one.memory.put("bucket", key, b"x")
    found = await current(one.store, "bucket", page_size=2)
    assert [entry.key for entry in found] == keys
    found = await current(one.store, "bucket", page_size=1, delimiter="/")
    assert [entry.key for entry in found] == ["a/", "b/", "c/"]
    assert one.faulty.left == {}


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 50])
async def test_a_listing_of_versions_goes_on_within_a_key(bench: Make, page_size: int) -> None:
    one = await bench({"versions": [BreakListing(count) for count in (0, 1, 2, 1, 1, 3, 0, 0)]})
    for key in ("a", "b", "c"):
        for step in (0, 0, 0, 1, 2, 2, 3):  # ties too
            await one.memory.put("bucket", key, b"x", origin=origin(mtime_ms=step))
    wanted = await history(one.memory, "bucket")
    assert await history(one.store, "bucket", page_size=page_size) == wanted
    last = await history(one.store, "bucket", page_size=page_size, after="b")
    assert last == wanted[14:]


async def test_versions_that_arrive_behind_a_listing_are_not_handed_out(bench: Make) -> None:
    one = await bench({"versions": [BreakListing(2)]})
    for key in ("a", "c", "d"):
        for step in (1, 2, 3):
            await one.memory.put("bucket", key, b"x", origin=origin(mtime_ms=step))
    wanted = await history(one.memory, "bucket")
    found = []
    async for page in one.store.versions("bucket", page_size=2):
        found += page.versions
        if len(found) == 4:
            for key in ("a", "b", "c"):
                await one.memory.put("bucket", key, b"new")
    assert [entry.version_id for entry in found] == [entry.version_id for entry in wanted]


async def test_a_listing_gives_up_when_it_does_not_move(bench: Make) -> None:
    for verb in ("list", "versions"):
        one = await bench({verb: [BreakListing(1), *[Refuse()] * 3]})
        for key in "abc":
            await one.memory.put("bucket", key, b"x")
        with pytest.raises(Unavailable):
            _ = [page async for page in getattr(one.store, verb)("bucket", page_size=1)]
        assert len(one.waits) == 3


async def test_opening_a_body_is_retried_and_reading_it_is_not(bench: Make) -> None:
    one = await bench({"get": [Refuse(), Truncate(after_bytes=3)]})
    await one.memory.put("bucket", "k", b"0123456789")
    received = b""
    with pytest.raises(Unavailable):
        async with one.store.get("bucket", "k") as body:
            async for piece in body:
                received += piece
    assert received == b"012"
    assert one.faulty.calls == ["get", "get"]
    assert len(one.waits) == 1


async def test_an_error_of_the_reader_is_not_retried(bench: Make) -> None:
    one = await bench({})
    await one.memory.put("bucket", "k", b"x")
    with pytest.raises(Unavailable, match="reader"):
        async with one.store.get("bucket", "k"):
            raise Unavailable("reader")
    assert one.faulty.calls == ["get"]


@pytest.mark.parametrize(
    "wrong",
    [{"max_retries": -1}, {"jitter": 1.5}, {"initial_backoff_ms": 9, "max_backoff_ms": 1}],
)
def test_a_policy_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        RetryPolicy(**wrong)


async def test_permanent_errors_of_complete_pass(bench: Make) -> None:
    one = await bench({})
    with pytest.raises(PermanentError):
        await one.store.complete("bucket", "k", "none", (Part(1, ""),))
