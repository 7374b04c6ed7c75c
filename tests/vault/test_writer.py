"""Writing with faults: whatever breaks, and whenever, running again ends as if nothing had."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from entrepot.errors import AlreadyExists, IntegrityError, InvalidInput, NotFound, Unavailable
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.wrapper import StoreWrapper
from entrepot.testing.faulty import (
    OK,
    Corrupt,
    Delay,
    Fault,
    FaultyStore,
    LoseAnswer,
    Refuse,
    Stale,
    Truncate,
)
from entrepot.vault.chunks import Chunk
from entrepot.vault.index import Index
from entrepot.vault.keys import OWN, Cutting, Domain
from entrepot.vault.place import VaultPlace
from entrepot.vault.reader import read_chunks
from entrepot.vault.records import Kind
from entrepot.vault.repository import RING_NAME, Vault
from entrepot.vault.verify import verify
from entrepot.vault.writer import OPEN_PACKS, UPLOADS, _to_its_end, writing
from tests.codec.making import noise
from tests.vault.making import (
    ACME,
    BUCKET,
    CONTENT,
    PREFIX,
    SMALL,
    HeldRing,
    back_up,
    store_bytes,
)
from tests.vault.test_golden import contents

CONDITIONAL = frozenset({Capability.CONDITIONAL_WRITE})
PUTS = 7  # of a backup of CONTENT at most: slot, vault file, packs, index, snapshot

pytestmark = pytest.mark.parametrize("capabilities", [frozenset(), CONDITIONAL], ids=["", "if"])


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    memory = MemoryStore()
    await memory.create(BUCKET)
    yield memory
    await memory.close()


async def no_sleep(_seconds: float) -> None: ...


def faulty(
    memory: MemoryStore,
    script: Mapping[str, Sequence[Fault]],
    capabilities: frozenset[Capability],
    *,
    retries: int = 3,
) -> tuple[VaultPlace, FaultyStore]:
    broken = FaultyStore(memory, script)
    store = RetryStore(broken, RetryPolicy(max_retries=retries), sleep=no_sleep)
    return VaultPlace(store, BUCKET, PREFIX, capabilities), broken


async def opened(place: VaultPlace) -> Vault:
    """The vault there, made if there is none."""
    try:
        return await Vault.create(place, HeldRing(), cutting=SMALL)
    except AlreadyExists:
        return await Vault.open(place, HeldRing())


async def test_a_lost_answer_is_no_failure(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """Of any write: slot, vault file, pack, index, snapshot."""
    for at in range(PUTS):
        store = MemoryStore()
        await store.create(BUCKET)
        place, broken = faulty(store, {"put": [*[OK] * at, LoseAnswer()]}, capabilities)
        vault = await Vault.create(place, HeldRing(), cutting=SMALL)
        await back_up(vault)
        assert await contents(vault) == [CONTENT, CONTENT]
        report = await verify(vault)
        assert report.is_sound
        assert not report.unreferenced
        assert (report.snapshots, report.proven_share) == (1, 1)
        assert not broken.left or at >= PUTS - 2
        await store.close()


async def test_a_put_that_was_refused_is_made_again(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    place, broken = faulty(memory, {"put": [Refuse(), LoseAnswer(), OK, Refuse()]}, capabilities)
    await back_up(await Vault.create(place, HeldRing(), cutting=SMALL))
    assert not broken.left


async def test_a_lost_answer_is_looked_for_before_another_try(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    place, broken = faulty(memory, {"put": [LoseAnswer()]}, capabilities)
    await place.put("slots/a", b"one")
    assert broken.calls.count("put") == 1


class Late(StoreWrapper):
    """Its first put is told to have failed, and comes to pass just before the second."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self._late: list[Callable[[], Awaitable[Any]]] = []

    async def put(self, *args: Any, **more: Any) -> Any:
        if not self._late:
            self._late.append(lambda: super(Late, self).put(*args, **more))
            raise Unavailable("the answer is lost, and the request under way")
        await self._late[0]()
        return await super().put(*args, **more)


async def test_a_write_that_comes_late_is_no_other_writer(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    place = VaultPlace(Late(memory), BUCKET, PREFIX, capabilities)
    await place.put("slots/a", b"one")
    assert await place.read("slots/a") == b"one"


async def test_an_endpoint_that_stays_away_is_said(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    vault = await opened(faulty(memory, {}, capabilities)[0])
    script = {"put": [Refuse()] * 9, "get": [Refuse()] * 9, "head": [Refuse()] * 9}
    place, _ = faulty(memory, script, capabilities, retries=1)
    vault = Vault(place, vault.file, vault.key)
    with pytest.raises(Unavailable):
        await vault.write(Kind.SNAPSHOT, b"{}")


async def test_a_name_that_is_taken_is_said(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    place, _ = faulty(memory, {}, capabilities)
    await place.put("slots/a", b"one")
    with pytest.raises(AlreadyExists):
        await place.put("slots/a", b"one")
    with pytest.raises(AlreadyExists):
        await place.put("slots/a", b"two")
    lost, _ = faulty(memory, {"put": [LoseAnswer()]}, CONDITIONAL)
    with pytest.raises(AlreadyExists):
        await lost.put("slots/a", b"two")
    assert await place.read("slots/a") == b"one"
    await place.put_same("packs/x", b"one")
    await place.put_same("packs/x", b"one")
    if capabilities:
        with pytest.raises(IntegrityError):
            await place.put_same("packs/x", b"three")


async def test_a_vault_is_made_once(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    place, _ = faulty(memory, {}, CONDITIONAL | capabilities)
    made = await asyncio.gather(
        *(Vault.create(place, HeldRing()) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in made) == ["AlreadyExists"] * 3 + ["Vault"]
    assert (await Vault.open(place, HeldRing())).file in [
        each.file for each in made if isinstance(each, Vault)
    ]


async def test_a_failed_upload_reaches_the_caller(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """However many chunks come, and wherever it fails: no hang, and nothing is called stored."""
    for at in range(5):
        vault = await opened(faulty(memory, {}, capabilities)[0])
        script = {"put": [*[OK] * at, *[Refuse()] * 100], "get": [OK] * 9, "head": [OK] * 9}
        place, _ = faulty(memory, script, capabilities, retries=0)
        vault = Vault(place, vault.file, vault.key)
        with pytest.raises(Unavailable):
            async with asyncio.timeout(60), writing(vault) as writer:
                for number in range(20):
                    await store_bytes(writer, vault, noise(4000, seed=(at, number)))
        with pytest.raises(Unavailable):
            await writer.finish()


async def test_killed_at_any_step_and_run_again(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """A put before which, or after which, the writer ends: the next one has the same end."""
    for at in range(PUTS):
        for fault in (Refuse(KeyError()), LoseAnswer(KeyError())):  # type: ignore[arg-type]
            store = MemoryStore()
            await store.create(BUCKET)
            place, _ = faulty(store, {"put": [*[OK] * at, fault]}, capabilities)
            try:
                await back_up(await opened(place))
            except KeyError:
                found = await opened(faulty(store, {}, capabilities)[0])
                assert (await verify(found)).is_sound
                await back_up(found)
            found = await Vault.open(faulty(store, {}, capabilities)[0], HeldRing())
            assert (await contents(found))[-2:] == [CONTENT, CONTENT]
            assert (await verify(found)).is_sound
            await store.close()


async def test_a_writer_that_is_cancelled_leaves_no_task_and_a_sound_vault(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    started = asyncio.Event()

    async def stop(_seconds: float) -> None:
        started.set()
        await asyncio.Event().wait()

    vault = await opened(faulty(memory, {}, capabilities)[0])
    broken = FaultyStore(memory, {"put": [OK, Delay(1)]}, sleep=stop)
    slow = Vault(VaultPlace(broken, BUCKET, PREFIX, capabilities), vault.file, vault.key)

    async def work() -> None:
        async with writing(slow) as writer:
            for number in range(50):
                await store_bytes(writer, slow, noise(4000, seed=number))

    before = asyncio.all_tasks()
    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    report = await verify(vault)
    assert report.is_sound
    await back_up(await Vault.open(vault.place, HeldRing()))
    assert (await verify(await Vault.open(vault.place, HeldRing()))).is_sound


async def test_a_caller_that_is_cancelled_harms_no_other(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """Its chunks may come or not; a thread that seals for it is waited for."""
    place, _ = faulty(memory, {}, capabilities)
    vault = await Vault.create(place, HeldRing(), cutting=Cutting(pack_bytes=1 << 20))
    keys = await vault.keys_of(OWN)
    data = [noise(100_000, seed=number) for number in range(40)]
    some = [Chunk(keys.chunk_id(each), each) for each in data]
    async with writing(vault) as writer:
        for at in range(0, 40, 8):
            doomed = [asyncio.create_task(writer.store(some, keys)) for _ in range(3)]
            await asyncio.sleep(0)
            others = asyncio.create_task(writer.store(some[at : at + 8], keys))
            await asyncio.sleep(0)
            for task in doomed:
                task.cancel()
            await asyncio.gather(*doomed, return_exceptions=True)
            await others
    found = [each async for each in read_chunks(vault, await vault.index(), [c.id for c in some])]
    assert found == data
    assert (await verify(vault)).is_sound


async def test_who_waits_for_a_thread_leaves_after_it(capabilities: frozenset[Capability]) -> None:
    """However often it is cancelled: until then nobody else may seal into that pack."""
    started, go_on = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        go_on.wait(60)

    task = asyncio.create_task(_to_its_end(call))
    await asyncio.to_thread(started.wait, 60)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_two_writers_at_once(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    place, _ = faulty(memory, {}, capabilities)
    await opened(place)
    vaults = [await Vault.open(place, HeldRing()) for _ in range(3)]
    await asyncio.gather(*(back_up(each) for each in vaults))
    assert await contents(vaults[0]) == [CONTENT] * 6
    report = await verify(vaults[0])
    assert report.is_sound
    assert not report.unreferenced
    again = await Vault.open(place, HeldRing())
    async with writing(again) as writer:
        await store_bytes(writer, again, CONTENT["twice"])
    assert writer.new_chunks == writer.stored_bytes == 0


async def test_an_index_that_is_empty_is_taken(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    vault = await opened(faulty(memory, {}, capabilities)[0])
    for _ in range(2):
        async with writing(vault, Index()) as writer:
            await store_bytes(writer, vault, b"the same")
        assert writer.new_chunks == 1


async def test_a_writer_holds_few_packs(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """However many domains there are, and however slow the store is."""
    under_way = most = 0

    async def slow(_seconds: float) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(20):
            await asyncio.sleep(0)
        under_way -= 1

    held = {(name, 3): bytes(32) for name in (RING_NAME, *map(str, range(40)))}
    vault = await Vault.create(faulty(memory, {}, capabilities)[0], HeldRing(held), cutting=SMALL)
    broken = FaultyStore(memory, {"put": [Delay(1)] * 1000}, sleep=slow)
    place = VaultPlace(broken, BUCKET, PREFIX, capabilities)
    vault = Vault(place, vault.file, vault.key, vault.ring)
    async with writing(vault) as writer:
        for number in range(400):
            domain = Domain(str(number % 40), 3)
            await store_bytes(writer, vault, noise(800, seed=number), domain)
            held_bytes = sum(each.size_bytes for each in writer._open.values())
            assert held_bytes <= (OPEN_PACKS + 1) * SMALL.pack_bytes + 4 * SMALL.max_bytes
    assert 1 < most <= UPLOADS + 1  # packs, and an index
    assert (await verify(vault)).is_sound


async def test_what_cannot_be_stored_is_refused(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    vault = await opened(faulty(memory, {}, capabilities)[0])
    keys = await vault.keys_of(ACME)
    with pytest.raises(InvalidInput):
        async with writing(vault) as writer:
            await writer.store([Chunk(bytes(32), b"")], keys)
    assert (await verify(vault)).packs == 0


async def test_a_write_that_the_store_garbles_is_noticed(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    vault = await opened(faulty(memory, {}, capabilities)[0])
    vault = Vault(faulty(memory, {"get": [Corrupt(30)]}, capabilities)[0], vault.file, vault.key)
    with pytest.raises(IntegrityError):
        await vault.write(Kind.SNAPSHOT, b"{}")


@pytest.mark.parametrize("fault", [Corrupt(5), Truncate(5, None), Truncate(5), Refuse()])
async def test_reads_that_break_are_errors_and_leave_no_task(
    memory: MemoryStore, capabilities: frozenset[Capability], fault: Fault
) -> None:
    vault = await opened(faulty(memory, {}, capabilities)[0])
    async with writing(vault) as writer:
        ids = await store_bytes(writer, vault, noise(30_000))
    index = await vault.index()
    before = asyncio.all_tasks()
    for at in range(3):
        place, broken = faulty(memory, {"get": [*[OK] * at, fault]}, capabilities, retries=0)
        with pytest.raises((IntegrityError, Unavailable)):
            async for _ in read_chunks(Vault(place, vault.file, vault.key), index, ids):
                pass
        assert not broken.left
        assert asyncio.all_tasks() == before


async def test_a_reader_that_stops_early_leaves_no_task(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """Also where what it has asked for ahead never comes."""
    vault = await opened(faulty(memory, {}, capabilities)[0])
    async with writing(vault) as writer:
        ids = await store_bytes(writer, vault, noise(30_000))
    index = await vault.index()

    async def never(_seconds: float) -> None:
        await asyncio.Event().wait()

    broken = FaultyStore(memory, {"get": [OK, Delay(1)]}, sleep=never)
    before = asyncio.all_tasks()
    slow = Vault(VaultPlace(broken, BUCKET, PREFIX), vault.file, vault.key)
    reading = read_chunks(slow, index, ids)
    assert await anext(reading)
    assert asyncio.all_tasks() != before
    async with asyncio.timeout(60):
        await reading.aclose()
    assert asyncio.all_tasks() == before
    with pytest.raises(NotFound):
        async for _ in read_chunks(vault, Index(), ids):
            pass


async def test_indexes_that_a_prune_replaces_meanwhile(
    memory: MemoryStore, capabilities: frozenset[Capability]
) -> None:
    """Between listing and reading, two indexes become one."""
    vault = await opened(faulty(memory, {}, capabilities)[0])
    for seed in range(2):
        async with writing(vault) as writer:
            await store_bytes(writer, vault, noise(500, seed=seed))
    old = await vault.names(Kind.INDEX)
    listed = [page async for page in memory.list(BUCKET, prefix=f"{PREFIX}indexes/")]
    await vault.write_index(await vault.packs())
    for name in old:
        await vault.place.remove(f"indexes/{name}")
    place, broken = faulty(memory, {"list": [Stale(listed)]}, capabilities)
    found = await Vault(place, vault.file, vault.key).packs()
    assert len(found) == 2
    assert not broken.left
