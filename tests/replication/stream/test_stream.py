"""A rule's stream between real sites: what is written at one is soon at the others, and once."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from entrepot.catalog import jobs
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import Lag, lag_of
from entrepot.catalog.objects import outbox
from entrepot.catalog.streams import windows
from entrepot.embedded.minio import MinioServer
from entrepot.errors import Fenced
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping
from entrepot.objects.writes import Wish
from entrepot.replication.stream.channel import Channel
from entrepot.replication.stream.engine import KIND, Ended, Route, forget_others, subscribe_site
from entrepot.store.protocol import Attributes
from entrepot.store.s3 import S3Store
from entrepot.testing.proxy import BreakableProxy
from tests.objects.conftest import KINDS
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import (
    QUICK,
    Place,
    World,
    assert_equal,
    drained,
    history,
    route_over,
    running,
    site_of,
    until,
)

SITES = ("site-a", "site-b", "site-c")


@pytest.mark.parametrize("kind", list(KINDS))
async def test_what_is_written_anywhere_comes_everywhere(world: World, kind: str) -> None:
    bucket = await world.bucket(new_bucket_name(), **KINDS[kind])
    big = b"something that compresses " * 90_000
    async with running(world.stream(route_over(bucket, SITES))):
        wish = Wish(attributes=Attributes("text/plain", {"author": "ada"}, tags={"a": "1"}))
        await world["site-a"].put(bucket, "k", b"one", wish=wish)
        await world["site-b"].put(bucket, "b/empty", b"")
        await world["site-c"].put(bucket, "b/big", big)
        await drained(world)
        await world["site-b"].put(bucket, "k", b"two")
        await world["site-c"].delete(bucket, "b/empty")
        await drained(world)
    await assert_equal(world, bucket, count=5)
    newest = await world["site-a"].head(bucket, "k")
    assert newest.parent and newest.parent.site == "site-a"
    # Each write went to each other site once, from where it was made, and nothing came back.
    wrote = {"site-a": 1, "site-b": 2, "site-c": 2}
    for each in SITES:
        for lag in await lag_of({each: world[each].ground.catalog}, rule=bucket):
            assert (lag.shipped, lag.depth, lag.lag_s) == (wrote[each], 0, 0.0)


async def test_only_keys_under_the_prefix(world: World) -> None:
    bucket = await world.bucket(new_bucket_name())
    async with running(world.stream(route_over(bucket, SITES[:2], prefix="in/"))):
        await world["site-a"].put(bucket, "out/k", b"x")
        row = await world["site-a"].put(bucket, "in/k", b"x")
        await drained(world)
    assert [each.version_id for each in await world["site-b"].versions(bucket)] == [row.version_id]


async def test_tags_locks_and_removals(world: World) -> None:
    bucket = await world.bucket(new_bucket_name(), locked=True)
    async with running(world.stream(route_over(bucket, SITES))):
        rows = [await world["site-a"].put(bucket, key, b"x") for key in "abc"]
        await world["site-a"].tag(bucket, "a", {"now": "tagged"})
        await world["site-a"].hold(bucket, "b", on=True)
        await drained(world)
        await world["site-b"].delete(bucket, "c", version_id=rows[2].version_id)
        await world["site-c"].hold(bucket, "b", on=False)
        await world["site-c"].tag(bucket, "a", {"then": "again"})
        await drained(world)
    await assert_equal(world, bucket, count=2)
    assert (await world["site-a"].head(bucket, "a")).attributes["tags"] == {"then": "again"}


async def test_a_site_that_is_down_holds_up_nobody_else(
    world: World, minio_b: MinioServer, dsns: dict[str, str], keys_dir: Path
) -> None:
    """It makes no dead letters, however long; and when it is back it gets all that it missed."""
    bucket = await world.bucket(new_bucket_name())
    async with BreakableProxy("127.0.0.1", minio_b.port) as proxy:
        store = S3Store(
            endpoint=proxy.endpoint, access_key=minio_b.access_key, secret_key=minio_b.secret_key
        )
        place = Place("site-b", dsns["site-b"], store)
        async with site_of(place, keys_dir) as behind:

            async def open_site(name: str) -> Objects:
                return behind if name == "site-b" else world[name]

            stream = world.stream(route_over(bucket, SITES), open_site=open_site)
            async with running(stream):
                await world["site-a"].put(bucket, "before", b"x")
                await drained(world)
                await proxy.refuse()
                rows = [await world["site-a"].put(bucket, f"k{n}", b"x") for n in range(20)]
                await until(lambda: _has(world["site-c"], bucket, len(rows) + 1))
                await asyncio.sleep(0.5)  # several rounds of tries
                assert len(await history(world["site-b"], bucket)) == 1
                [lag] = await _lag(world, bucket, "site-b")
                assert lag.depth == 20 and lag.lag_s > 0.4 and not lag.dead
                [served] = await _lag(world, bucket, "site-c")
                assert (served.depth, served.lag_s) == (0, 0.0)
                assert any(channel.down for channel in stream.channels.values())
                await proxy.heal()
                await drained(world)
        await store.close()
    await assert_equal(world, bucket, count=21)
    [lag] = await _lag(world, bucket, "site-b")
    assert lag.errors > 0 and lag.shipped == 21


async def _lag(world: World, bucket: str, target: str) -> list[Lag]:
    found = await lag_of({"site-a": world["site-a"].ground.catalog}, rule=bucket)
    return [lag for lag in found if lag.target == target]


async def _has(objects: Objects, bucket: str, count: int) -> bool:
    return len(await objects.versions(bucket)) == count


async def test_answers_that_are_lost(
    world: World, minio_b: MinioServer, dsns: dict[str, str], keys_dir: Path
) -> None:
    bucket = await world.bucket(new_bucket_name())
    async with BreakableProxy("127.0.0.1", minio_b.port) as proxy:
        store = S3Store(
            endpoint=proxy.endpoint, access_key=minio_b.access_key, secret_key=minio_b.secret_key
        )
        async with site_of(Place("site-b", dsns["site-b"], store), keys_dir) as behind:

            async def open_site(name: str) -> Objects:
                return behind if name == "site-b" else world[name]

            async with running(world.stream(route_over(bucket, SITES), open_site=open_site)):
                for number in range(30):
                    proxy.reset_after(number * 37)
                    await world["site-a"].put(bucket, f"k{number % 7}", b"x" * number)
                    if number % 5 == 0:
                        await world["site-a"].delete(bucket, f"k{number % 7}")
                await proxy.heal()
                await drained(world)
        await store.close()
    await assert_equal(world, bucket, count=36)


async def test_dead_letters_and_their_way_back(world: World) -> None:
    """What a site refuses for good waits for a person, counts as lag, and goes when he says so."""
    bucket = new_bucket_name()
    for site in ("site-a", "site-c"):
        await world[site].create_bucket(bucket, tenant_id="acme")
    a = world["site-a"].ground.catalog
    async with running(world.stream(route_over(bucket, SITES))):
        row = await world["site-a"].put(bucket, "k", b"x")
        await drained(world)
        [letter] = [each for each in await outbox.dead_letters(a) if each.bucket == bucket]
        assert (letter.key, letter.version_id, letter.kind) == ("k", row.version_id, "put")
        assert "entrepot bucket create" in letter.reason and letter.tries == 1
        [lag] = await _lag(world, bucket, "site-b")
        assert (lag.depth, lag.dead) == (0, 1) and lag.lag_s > 0
        assert len(await history(world["site-c"], bucket)) == 1
        await world["site-b"].create_bucket(bucket, tenant_id="acme")
        assert await outbox.try_again(a, [letter.id]) == 1
        await drained(world)
    await assert_equal(world, bucket, count=1)
    [lag] = await _lag(world, bucket, "site-b")
    assert (lag.dead, lag.errors, lag.lag_s) == (0, 1, 0.0)


async def test_a_run_gives_way_to_the_next(world: World) -> None:
    bucket = await world.bucket(new_bucket_name())
    route = route_over(bucket, SITES)
    async with running(world.stream(route)):
        pass
    first = asyncio.create_task(world.stream(route).run(holder="one", flow_run_id="1"))
    row = await world["site-a"].put(bucket, "k", b"x")
    await drained(world)
    second = asyncio.create_task(world.stream(route).run(holder="two", flow_run_id="2"))
    counts, why = await asyncio.wait_for(first, 10)
    assert (counts.shipped, counts.dead, why) == (2, 0, Ended.HEIR)
    assert not second.done()
    await world["site-b"].put(bucket, "k", b"y")
    await drained(world)
    await until(lambda: _is_recorded(world, bucket, shipped=4))
    second.cancel()
    await asyncio.wait([second])
    await assert_equal(world, bucket, count=2)
    assert (await world["site-c"].head(bucket, "k")).parent == row.stamp


async def _is_held_by(world: World, rule: str, holder: str) -> bool:
    return await jobs.holder_of(world.control, kind=KIND, subject=rule) == holder


async def _is_recorded(world: World, rule: str, *, shipped: int) -> bool:
    return sum(each.shipped for each in await windows(world.control, rule)) == shipped


async def test_a_channel_that_is_woken_as_it_ends_does_end(world: World) -> None:
    for turns in range(3):
        carrier = Shipping(world.open_site, source="site-a", target="site-b", rule="nobody")
        channel = Channel("nobody>site-b", carrier, options=QUICK, guard=lambda: None)
        task = asyncio.create_task(channel.run())
        await asyncio.sleep(0.2)  # it has looked, and waits
        channel.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        task.cancel()
        assert done


async def test_a_rule_that_changed_ends_its_stream(world: World) -> None:
    bucket = await world.bucket(new_bucket_name())
    route = route_over(bucket, SITES)

    async def gone() -> Route | None:
        return None

    counts, why = await asyncio.wait_for(world.stream(route, route_now=gone).run(holder="test"), 10)
    assert (counts.shipped, why) == (0, Ended.CHANGED)
    counts, why = await world.stream(route).run(holder="test", for_s=0.3)
    assert why is Ended.TIME


async def test_a_run_that_was_taken_over_stops(world: World) -> None:
    bucket = await world.bucket(new_bucket_name())
    stream = world.stream(route_over(bucket, SITES), lease_s=1.0)
    task = asyncio.create_task(stream.run(holder="one", flow_run_id="1"))
    await until(lambda: _is_held_by(world, bucket, "one"))
    how = {"kind": KIND, "subject": bucket, "lease_s": 60.0, "resume_within_s": 3600.0}
    await jobs.claim(world.control, holder="two", flow_run_id="1", **how)  # a retry of that run
    with pytest.raises(Fenced):
        await asyncio.wait_for(task, 10)


async def test_a_control_catalog_that_is_away_stops_nothing(world: World) -> None:
    bucket = await world.bucket(new_bucket_name())
    port = make_url(world.dsn).port
    assert port
    async with (
        BreakableProxy("127.0.0.1", port) as proxy,
        Catalog.open(make_url(world.dsn).set(port=proxy.port).render_as_string(False)) as control,
    ):
        stream = world.stream(route_over(bucket, SITES), lease_s=0.5)
        stream.control = control
        async with running(stream):
            await world["site-a"].put(bucket, "k", b"x")
            await drained(world)
            await proxy.refuse()
            await asyncio.sleep(1.0)  # the lease has run out
            await world["site-a"].put(bucket, "k", b"y")
            await drained(world)
    await assert_equal(world, bucket, count=2)


async def test_what_no_rule_wants_is_forgotten(world: World) -> None:
    bucket = await world.bucket(new_bucket_name())
    catalog = world["site-a"].ground.catalog
    route = route_over(bucket, SITES)
    await subscribe_site(catalog, route, "site-a")
    await world["site-a"].put(bucket, "k", b"x")
    assert len(await _lag(world, bucket, "site-b")) == 1
    await forget_others(catalog, [route])
    assert [lag.depth for lag in await _lag(world, bucket, "site-b")] == [1]
    await forget_others(catalog, [])
    assert await lag_of({"site-a": catalog}) == ()
    assert await world.backlog() == 0
