"""kill -9 at random moments, run to the end: the same set, and nothing twice."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_bytes
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.store.protocol import Attributes
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import World, same
from tests.sources import ROOT

OBJECTS = 2_000
TAGGED = 600
KILLS = 5
MIB = 1024 * 1024


async def fill(world: World, chance: random.Random) -> None:
    waiting = iter(range(OBJECTS))

    async def work() -> None:
        for number in waiting:
            body = new_bytes(chance.choice([0, 100, 8_000]) or 0)
            key = f"{number % 5}/k{number:04}"
            await world.stores[number % 2].put(world.bucket, key, body)

    await asyncio.gather(*(work() for _ in range(16)))
    for number in range(4):
        world.put(number % 2, f"{number}/streamed", new_bytes(2 * MIB))
        world.put_parts(number % 2, f"{number}/parts", new_bytes(5 * MIB), b"tail")


def run(job: str, *, kill_after_s: float | None) -> bool:
    """Whether the process came to its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.replication.killable"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process:
        try:
            process.stdin.write(job)
            process.stdin.close()
            assert process.stdout.readline() == "sweeping\n"
            if kill_after_s is None:
                assert process.stdout.readline().startswith("done")
                assert process.wait() == 0
                return True
            time.sleep(kill_after_s)
        finally:
            process.kill()
        return process.stdout.readline().startswith("done")


def job_of(dsn: str, world: World, servers: Sequence[MinioServer], **more: object) -> str:
    sites = [
        {
            "endpoint": server.endpoint,
            "access_key": server.access_key,
            "secret_key": server.secret_key.get_secret_value(),
        }
        for server in servers
    ]
    return json.dumps({"dsn": dsn, "bucket": world.bucket, "sites": sites, **more})


async def test_killed_at_random_moments(
    worlds: MakeWorld, minio_a: MinioServer, minio_b: MinioServer, postgres: PostgresServer
) -> None:
    seed = int.from_bytes(new_bytes(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    world = worlds()
    await fill(world, chance)
    dsn = postgres.create_database("replication_kill_test")
    await migrate(dsn, kind=CatalogKind.CONTROL)
    job = job_of(dsn, world, (minio_a, minio_b))
    killed = 0
    for _ in range(KILLS):
        ended = await asyncio.to_thread(run, job, kill_after_s=chance.uniform(0.05, 0.6))
        if ended:
            break
        killed += 1
    assert killed >= 2, "the machine is too fast for this test: give it more objects"
    await asyncio.to_thread(run, job, kill_after_s=None)
    first, second = world.histories()
    assert first == second
    assert len(first) == len({entry.key for entry in first}) == OBJECTS + 8
    for key in chance.sample([entry.key for entry in first], 40):
        assert same([world.body(site, key) for site in range(2)])
    settled = world.histories()
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled


async def test_killed_while_it_compares_tags(
    worlds: MakeWorld, minio_a: MinioServer, minio_b: MinioServer, postgres: PostgresServer
) -> None:
    """What one site changed is at both in the end, also where the other was told already."""
    seed = int.from_bytes(new_bytes(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    world = worlds(locked=True)
    attributes = Attributes(tags={"s": "old", "stays": "x"})
    for store, first in zip(world.stores, (0, 1), strict=True):
        await _each(
            lambda n, store=store: store.put(world.bucket, f"k{n}", b"x", attributes=attributes),
            range(first, TAGGED, 2),
        )
    dsn = postgres.create_database("replication_kill_tags_test")
    await migrate(dsn, kind=CatalogKind.CONTROL)
    job = job_of(dsn, world, (minio_a, minio_b), traits=True)
    await asyncio.to_thread(run, job, kill_after_s=None)
    wanted = [{"s": str(n), "stays": "x"} if n % 3 else {"stays": "x"} for n in range(TAGGED)]
    where = [chance.choice(world.stores) for _ in range(TAGGED)]
    await _each(lambda n: where[n].tag(world.bucket, f"k{n}", wanted[n]), range(TAGGED))
    held = range(0, TAGGED, 7)
    await _each(lambda n: chance.choice(world.stores).hold(world.bucket, f"k{n}", True), held)
    killed = 0
    for _ in range(2):
        if await asyncio.to_thread(run, job, kill_after_s=chance.uniform(0.05, 0.5)):
            break
        killed += 1
    assert killed >= 1, "the machine is too fast for this test: give it more objects"
    await asyncio.to_thread(run, job, kill_after_s=None)
    for store in world.stores:
        found = [
            each
            async for page in store.versions(world.bucket, details=True)
            for each in page.versions
        ]
        tags = {each.key: each.attributes and each.attributes.tags for each in found}
        assert tags == {f"k{n}": each for n, each in enumerate(wanted)}
        assert {each.key for each in found if each.lock and each.lock.hold} == {
            f"k{n}" for n in held
        }


async def _each(do: Callable[[int], Awaitable[object]], numbers: Iterable[int]) -> None:
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await do(number)

    await asyncio.gather(*(work() for _ in range(16)))
