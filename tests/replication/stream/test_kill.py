"""kill -9 at every point of a channel; the next one goes on, and every site ends equal, once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from entrepot.catalog.objects import outbox
from entrepot.embedded.minio import MinioServer
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from entrepot.replication.stream.engine import Route, subscribe_site
from tests.objects.test_kill import Killer
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import (
    World,
    assert_equal,
    counted,
    drained,
    history,
    route_over,
    running,
)

Settings = dict[str, dict[str, str]]


@pytest.fixture
def killer(
    dsns: dict[str, str], minio_a: MinioServer, minio_b: MinioServer, keys_dir: Path
) -> Iterator[Killer]:
    sites = {
        name: {
            "name": name,
            "dsn": dsns[name],
            "endpoint": server.endpoint,
            "access_key": server.access_key,
            "secret_key": server.secret_key.get_secret_value(),
            "keys": str(keys_dir),
        }
        for name, server in (("site-a", minio_a), ("site-b", minio_b))
    }
    with Killer(sites, module="tests.replication.stream.killable") as killer:
        yield killer


@pytest_asyncio.fixture
async def route(world: World) -> Route:
    """An encrypted bucket that A ships to B; nothing else waits anywhere."""
    bucket = await world.bucket(new_bucket_name(), encrypted=True, compressed=True)
    for each in world.sites.values():
        async with each.ground.catalog.begin() as connection:
            await connection.execute(text("DELETE FROM outbox"))
            await connection.execute(text("DELETE FROM outbox_consumers"))
    route = route_over(bucket, ("site-a", "site-b"))
    await subscribe_site(world["site-a"].ground.catalog, route, "site-a")
    return route


def job_of(route: Route, at: int | None, **more: str) -> dict[str, object]:
    consumer = outbox.consumer_name(route.rule, "site-b")
    return {"rule": route.rule, "consumer": consumer, "at": at, **more}


async def change(objects: Objects, bucket: str, key: str, kind: str) -> None:
    """What is to be shipped: a version, a marker, other tags of one that is there."""
    if kind == "put":
        await objects.put(bucket, key, key.encode() * 2000)
    elif kind == "delete":
        await objects.delete(bucket, key)
    else:
        await objects.tag(bucket, key, {"now": kind})


@pytest.mark.parametrize("kind", ["put", "tag", pytest.param("delete", marks=pytest.mark.nightly)])
async def test_killed_at_every_point(world: World, killer: Killer, route: Route, kind: str) -> None:
    a, bucket = world["site-a"], route.buckets[0]
    if kind == "tag":
        await a.put(bucket, "k", b"x")
        await killer.run(job_of(route, None))
    killed = 0
    while True:
        await change(a, bucket, "k" if kind == "tag" else f"k{killed}", kind)
        answer = await killer.run(job_of(route, killed + 1))
        if "killed" not in answer:
            break
        killed += 1
        assert "points" in await killer.run(job_of(route, None))  # the next one goes on
    assert killed >= 8, answer
    both = World({name: world[name] for name in route.sites}, world.control, world.dsn)
    async with running(both.stream(route)):
        await drained(both)
    await recover(world["site-b"].ground, older_s=0)  # what the store was not told
    await assert_equal(both, bucket, count=1 if kind == "tag" else killed + 1)
    assert await counted(a.ground.catalog, "dead_letters") == 0


@pytest.mark.parametrize("where", ["before put", "after put"])
async def test_a_zombie_does_no_harm(
    world: World, killer: Killer, route: Route, where: str
) -> None:
    """It sleeps in the middle; another run does its work, and more; then it goes on."""
    bucket = route.buckets[0]
    await world["site-a"].put(bucket, "dry", b"x")
    answer = await killer.run(job_of(route, None))
    row = await world["site-a"].put(bucket, "k", b"x" * 5000)
    at = 1 + answer["points"].index(where)
    assert "stopped" in await killer.run(job_of(route, at, signal="SIGSTOP"))
    both = World({name: world[name] for name in route.sites}, world.control, world.dsn)
    async with running(both.stream(route)):
        await drained(both)
        assert len(await history(world["site-b"], bucket)) == 2
        await world["site-b"].delete(bucket, "k", version_id=row.version_id)
        await drained(both)
        await killer.go_on()
        await world["site-a"].put(bucket, "later", b"y")
        await drained(both)
    await recover(world["site-b"].ground, older_s=0)  # what the zombie left for it
    # Removals do travel here; the zombie did not bring it back.
    await assert_equal(both, bucket, count=2)
