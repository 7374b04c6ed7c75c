"""Servers and stores that break in the middle: what is done is right, and the rest comes later."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from entrepot.clock import new_bytes
from entrepot.embedded.minio import MinioServer
from entrepot.errors import (
    AccessDenied,
    BucketNotFound,
    IntegrityError,
    NotFound,
    RetryableError,
    Throttled,
    Unavailable,
    Unsupported,
)
from entrepot.replication.probe import probe
from entrepot.replication.run import Address, open_sites
from entrepot.replication.sites import Site, check_bucket
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Capability, Item, Page, Version
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.wrapper import StoreWrapper
from entrepot.testing.faulty import (
    OK,
    BreakListing,
    Corrupt,
    Fault,
    FaultyStore,
    LoseAnswer,
    Refuse,
    Stale,
    Truncate,
)
from entrepot.testing.proxy import BreakableProxy
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import ALL, World, Wrap, same

MIB = 1024 * 1024
DENIED = Refuse(AccessDenied("not this one"))
PATIENT = RetryPolicy(initial_backoff_ms=10, max_backoff_ms=50)


def faulty(**script: Sequence[Fault]) -> Wrap:
    return lambda store: FaultyStore(store, script)


def retrying(**script: Sequence[Fault]) -> Wrap:
    return lambda store: RetryStore(FaultyStore(store, script), PATIENT)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 # the proxy tells nobody
        await asyncio.sleep(0.001)


async def ends_equal(world: World, *, was_reachable: bool = True) -> None:
    """One more sweep, without faults, ends it; and nothing is there twice.

    An upload can only be aborted at a site that was there to hear it.
    """
    for site in world.sites:
        if isinstance(site.store, FaultyStore):
            assert site.store.left == {}, "the script was not played to its end"
    assert (await world.sweep()).failed == 0
    assert same(world.views())
    settled = world.histories()
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled
    for site in range(len(world.s3)):
        keys = [(entry.key, entry.version_id) for entry in world.history(site)]
        assert len(keys) == len(set(keys))
        assert not was_reachable or world.uploads(site) == []


async def test_one_object_fails_and_the_rest_is_done(worlds: MakeWorld) -> None:
    """A refused batch is sent object by object, and then one of them is refused."""
    world = worlds(wraps={1: faulty(batch=[DENIED], put=[OK, DENIED])})
    for number in range(6):
        world.put(0, f"k{number}")
    totals, findings = await world.sweep_with_findings(workers=1)
    assert (totals.failed, totals.copied, totals.verified) == (1, 5, 5)
    assert [(row["key"], row["what"]) for row in findings.rows] == [("k1", "failed")]
    await ends_equal(world)


async def test_damaged_in_a_batch_is_not_written(worlds: MakeWorld) -> None:
    """The endpoint knows no digest of what it unpacks, and would keep other bytes for good."""
    world = worlds(wraps={0: faulty(get=[OK, Corrupt(at_byte=1)])})
    for number in range(6):
        world.put(0, f"k{number}", b"content")
    totals, findings = await world.sweep_with_findings(workers=1)
    assert (totals.failed, totals.copied, totals.verified) == (1, 5, 5)
    assert [(row["key"], row["what"]) for row in findings.rows] == [("k1", "failed")]
    assert "k1" not in world.view(1)
    await ends_equal(world)


class HalfBatch(StoreWrapper):
    """An endpoint that unpacks half of a batch, once, and says that all is well."""

    halved = False

    async def batch(self, bucket: str, items: Sequence[Item]) -> Sequence[Item]:
        kept = items if self.halved else items[: len(items) // 2]
        self.halved = True
        return await super().batch(bucket, kept)


async def test_half_a_batch_is_found_out(worlds: MakeWorld) -> None:
    world = worlds(wraps={1: HalfBatch})
    for number in range(6):
        world.put(0, f"k{number}")
    totals = await world.sweep(workers=1)
    assert (totals.failed, totals.verified) == (3, 3)
    await ends_equal(world)


async def test_a_batch_whose_answer_is_lost_is_sent_again(worlds: MakeWorld) -> None:
    world = worlds(wraps={1: retrying(batch=[LoseAnswer()])})
    for number in range(6):
        world.put(0, f"k{number}")
    totals = await world.sweep(workers=1)
    assert (totals.failed, totals.copied, totals.verified) == (0, 6, 6)
    await ends_equal(world)


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_one_target_fails_and_the_other_has_it(worlds: MakeWorld, size: int) -> None:
    """Small and streamed alike: a site that refuses must not starve the one after it."""
    world = worlds(sites=3, wraps={1: faulty(put=[DENIED])})
    world.put(0, "k", new_bytes(size))
    totals = await world.sweep()
    assert (totals.failed, totals.copied, totals.verified) == (1, 1, 1)
    assert world.body(2, "k") == world.body(0, "k")
    await ends_equal(world)


async def test_one_target_refuses_a_marker_and_the_other_has_it(worlds: MakeWorld) -> None:
    world = worlds(sites=3, wraps={1: faulty(delete=[DENIED])})
    world.put(0, "k")
    await world.sweep()
    world.delete(0, "k")
    totals = await world.sweep()
    assert (totals.failed, totals.marked) == (1, 1)
    assert world.view(2) == {}
    await ends_equal(world)


async def test_an_object_that_went_meanwhile_has_moved(worlds: MakeWorld) -> None:
    world = worlds(wraps={0: faulty(get=[Refuse(NotFound("gone"))])})
    world.put(0, "a")
    world.put(0, "b")
    totals = await world.sweep(workers=1)
    assert (totals.moved, totals.failed, totals.copied) == (1, 0, 1)
    await ends_equal(world)


async def test_a_source_deleted_between_listing_and_copy_has_moved(worlds: MakeWorld) -> None:
    world = worlds()
    world.put(0, "k")
    (entry,) = world.history(0)
    (page,) = [page async for page in world.stores[0].versions(world.bucket)]
    world.s3[0].delete_object(Bucket=world.bucket, Key="k", VersionId=entry.version_id)
    late = FaultyStore(world.stores[0], {"versions": [Stale([page])]})
    world.sites[0] = Site(name="late", rank=0, store=late, capabilities=ALL)
    totals = await world.sweep()
    assert (totals.moved, totals.failed) == (1, 0)
    assert world.views() == [{}, {}]


async def test_a_bucket_that_went_meanwhile_ends_the_sweep(worlds: MakeWorld) -> None:
    """Every object would be said to have moved, and the run to have succeeded."""
    gone = Refuse(BucketNotFound("gone"))
    world = worlds(wraps={1: faulty(put=[gone])})
    world.put(0, "k")
    with pytest.raises(BucketNotFound):
        await world.sweep()
    await ends_equal(world)


@pytest.mark.parametrize("size", [3, MIB, MIB + 1, 3 * MIB])
async def test_wrong_bytes_are_never_visible(worlds: MakeWorld, size: int) -> None:
    world = worlds(wraps={0: faulty(get=[Corrupt(at_byte=size // 2)])})
    world.put(0, "k", new_bytes(size))
    totals = await world.sweep()
    assert (totals.failed, totals.copied) == (1, 0)
    assert world.history(1) == []
    await ends_equal(world)


async def test_wrong_bytes_in_a_part_are_never_visible(worlds: MakeWorld) -> None:
    """What the target says of its parts is checked before they become an object."""
    world = worlds(wraps={0: faulty(get=[OK, Corrupt(at_byte=1)])})
    world.put_parts(0, "big", new_bytes(5 * MIB), b"tail")
    totals = await world.sweep()
    assert (totals.failed, totals.copied) == (1, 0)
    assert world.history(1) == []
    assert world.uploads(1) == []
    await ends_equal(world)


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_body_that_is_cut_is_never_visible(worlds: MakeWorld, size: int) -> None:
    world = worlds(wraps={0: faulty(get=[Truncate(after_bytes=5)])})
    world.put(0, "k", new_bytes(size))
    with pytest.raises(RetryableError):
        await world.sweep()
    assert world.history(1) == []
    await ends_equal(world)


@pytest.mark.parametrize("error", [IntegrityError("damaged"), None])
@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_an_object_damaged_at_its_source_fails_alone(
    worlds: MakeWorld, size: int, error: IntegrityError | None
) -> None:
    """Also where that shows while it is sent: no word that the target could not be reached."""
    cut = Truncate(after_bytes=size // 2, error=error)
    world = worlds(wraps={0: faulty(get=[cut])})
    world.put(0, "a", new_bytes(size))
    world.put(0, "b")
    totals, findings = await world.sweep_with_findings(workers=1)
    assert (totals.failed, totals.copied) == (1, 1)
    assert "did not answer" not in findings.rows[0]["why"]
    assert [entry.key for entry in world.history(1)] == ["b"]
    await ends_equal(world)


@pytest.mark.parametrize("verb", ["put", "head"])
async def test_the_error_is_itself_and_not_a_group(worlds: MakeWorld, verb: str) -> None:
    """Prefect asks ``is_retryable`` of what comes out, however many workers met it."""
    world = worlds()
    for number in range(30):
        world.put(0, f"k{number}")
    await world.sweep()
    world.put(0, "k7", b"one of many: verified by HEAD")
    store = FaultyStore(world.stores[1], {verb: [Refuse(Throttled("slow down"))]})
    world.sites[1] = replace(world.sites[1], store=store)
    with pytest.raises(Throttled):
        await world.sweep(workers=4)
    await ends_equal(world)


async def test_a_lost_answer_of_a_copy_makes_no_twin(worlds: MakeWorld) -> None:
    world = worlds(wraps={1: retrying(put=[LoseAnswer(), OK, LoseAnswer(), LoseAnswer()])})
    for number in range(3):
        world.put(0, f"k{number}")
    assert (await world.sweep(workers=1)).copied == 3
    assert len(world.history(1)) == 3
    await ends_equal(world)


async def test_a_lost_answer_of_a_marker_does_not_undo_it(worlds: MakeWorld) -> None:
    """MinIO takes the same marker, sent again, for its removal."""
    world = worlds(wraps={1: retrying(delete=[LoseAnswer(), LoseAnswer()])})
    world.put(0, "k")
    await world.sweep()
    world.delete(0, "k")
    assert (await world.sweep()).marked == 1
    assert [entry.is_marker for entry in world.history(1)] == [False, True]
    await ends_equal(world)


async def test_a_lost_answer_of_complete_is_found_done(worlds: MakeWorld) -> None:
    world = worlds(wraps={1: retrying(complete=[LoseAnswer()])})
    world.put_parts(0, "big", new_bytes(5 * MIB), b"tail")
    with pytest.raises(Unavailable):
        await world.sweep()
    settled = world.history(1)
    assert [entry.is_current for entry in settled] == [True]
    await ends_equal(world)
    assert world.history(1) == settled


@pytest.mark.parametrize("site", [0, 1])
async def test_a_listing_that_breaks_does_nothing(worlds: MakeWorld, site: int) -> None:
    world = worlds(wraps={site: faulty(versions=[BreakListing(after_pages=0)])})
    world.put(0, "k")
    with pytest.raises(Unavailable):
        await world.sweep()
    assert world.history(1) == []
    await ends_equal(world)


async def test_a_listing_out_of_order_does_nothing(worlds: MakeWorld) -> None:
    def decode(token: bytes) -> Version:
        return Version(key=token.decode(), version_id="v", mtime_ms=1)

    mixed = Stale([Page(tokens=[b"b"], decode=decode), Page(tokens=[b"a"], decode=decode)])
    world = worlds(wraps={1: faulty(versions=[mixed])})
    world.put(0, "c")
    with pytest.raises(IntegrityError):
        await world.sweep()
    assert world.history(1) == []
    await ends_equal(world)


@pytest.mark.parametrize("broken", [0, 1])
async def test_a_site_goes_away_in_the_middle(
    worlds: MakeWorld, minio_a: MinioServer, minio_b: MinioServer, broken: int
) -> None:
    server = (minio_a, minio_b)[broken]
    async with BreakableProxy("127.0.0.1", server.port) as proxy:
        world = worlds(endpoints={broken: proxy.endpoint})
        for number in range(40):
            world.put(number % 2, f"k{number:02}", new_bytes(number * 1000))
        world.put(0, "streamed", new_bytes(4 * MIB))
        world.put_parts(1, "parts", new_bytes(5 * MIB), b"tail")
        for budget in (700, 30_000, 300_000, 1_000_000):
            proxy.reset_after(budget)
            sweeping = asyncio.ensure_future(world.sweep(batch_size=5))
            await until(lambda run=sweeping: run.done() or proxy._budget_bytes is None)  # type: ignore[misc]
            await proxy.refuse()
            with pytest.raises(RetryableError):
                await sweeping
            await proxy.heal()
        await ends_equal(world, was_reachable=False)
        for site in range(2):
            assert len(world.history(site)) == 42


async def test_ranges_that_share_connections_do_not_wait_for_each_other_for_ever(
    worlds: MakeWorld, minio_a: MinioServer, minio_b: MinioServer
) -> None:
    """Each streamed copy holds a connection of one site while it waits for one of the other."""
    world = worlds()
    for number in range(12):
        body = new_bytes(2 * MIB)
        world.put(number % 2, f"k{number:02}", body, Tagging="a=b")
    addresses = [
        Address(
            name=f"site-{rank}",
            rank=rank,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key=server.access_key,
            secret_key=server.secret_key,
            capabilities=ALL,
        )
        for rank, server in enumerate((minio_a, minio_b))
    ]
    async with open_sites(addresses, workers=1) as sites:
        world.sites[:] = sites
        totals = await asyncio.wait_for(world.sweep(workers=12), timeout=60)
    assert (totals.failed, totals.copied) == (0, 12)
    assert same(world.views())


async def test_a_probe_finds_what_minio_can(worlds: MakeWorld) -> None:
    world = worlds()
    before = {bucket["Name"] for bucket in world.s3[0].list_buckets()["Buckets"]}
    assert (await probe(world.stores[0])).capabilities == ALL
    assert {bucket["Name"] for bucket in world.s3[0].list_buckets()["Buckets"]} == before


class Forgetful(StoreWrapper):
    """An endpoint that accepts a hold and forgets it."""

    async def hold(self, bucket: str, key: str, on: bool, *, version_id: str | None = None) -> None:
        del bucket, key, on, version_id


@pytest.mark.parametrize("refused", [{"create": [OK, DENIED]}, {"hold": [DENIED]}, None])
async def test_a_probe_believes_only_a_lock_that_holds(
    refused: dict[str, list[Fault]] | None,
) -> None:
    memory = MemoryStore()
    store = Forgetful(memory) if refused is None else FaultyStore(memory, refused)
    assert (await probe(store)).capabilities == ALL - {Capability.LOCK}
    assert await memory.buckets() == ()
    await store.close()


class Flat(StoreWrapper):
    """An endpoint that has no versions, and no listing of any."""

    async def create(self, bucket: str, *, versioned: bool = True, locked: bool = False) -> None:
        if versioned or locked:
            raise Unsupported("no versions here (scripted)")
        await super().create(bucket, versioned=False)

    def versions(self, *_where: Any, **_how: Any) -> AsyncGenerator[Page, None]:
        raise Unsupported("no listing of versions here (scripted)")


async def test_a_probe_leaves_nothing_where_no_versions_are_listed() -> None:
    memory = MemoryStore()
    found = await probe(Flat(memory))
    assert Capability.VERSIONING not in found.capabilities
    assert found.findings["remove"].can
    assert await memory.buckets() == ()
    await memory.close()


async def test_a_probe_does_not_take_a_busy_endpoint_for_a_refusal(worlds: MakeWorld) -> None:
    """It would be recorded as able to write conditionally, and unable to keep origins."""
    busy = Refuse(Throttled("slow down"))
    for script in ([OK, busy], [OK, OK, busy], [OK, OK, OK, busy]):
        world = worlds(wraps={0: faulty(put=script)})
        with pytest.raises(Throttled):
            await probe(world.sites[0].store)


async def test_a_bucket_is_checked_before_it_is_swept(worlds: MakeWorld) -> None:
    world = worlds(versioned=False)
    with pytest.raises(Exception, match="keeps no versions"):
        await check_bucket(world.sites[0], world.bucket)
    with pytest.raises(BucketNotFound) as missing:
        await check_bucket(world.sites[0], world.bucket + "x")
    assert missing.value.hint.startswith("create it there")
