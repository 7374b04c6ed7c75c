"""kill -9 at random moments, run to the end: the same set, and nothing twice."""

import asyncio
import json
import random
import subprocess
import sys
import time

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_bytes
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import World, same
from tests.sources import ROOT

OBJECTS = 2_000
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
    job = json.dumps(
        {
            "dsn": dsn,
            "bucket": world.bucket,
            "sites": [
                {
                    "endpoint": server.endpoint,
                    "access_key": server.access_key,
                    "secret_key": server.secret_key.get_secret_value(),
                }
                for server in (minio_a, minio_b)
            ],
        }
    )
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
