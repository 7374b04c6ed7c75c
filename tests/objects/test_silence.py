"""A catalog that hangs: reads go on without it, writes say so, and nothing is lost.

Fault 2 of the list in issue 4, for Postgres.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from entrepot.catalog.silence import HASTY_S, WITHIN_S
from entrepot.clock import new_token
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import Unavailable
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from tests.objects.outages import new_world, pid_of
from tests.objects.test_kill import assert_whole, expire
from tests.objects.test_service import read


@pytest.fixture
def own_postgres(servers_dir: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(servers_dir / "silent-postgres", password=SecretStr(new_token()))
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """SIGSTOP for every process of the server: the kernel still takes what is sent to it."""
    postmaster = psutil.Process(pid_of(server))
    everyone = [postmaster, *postmaster.children(recursive=True)]
    for process in everyone:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in everyone:
            os.kill(process.pid, signal.SIGCONT)


async def uncertain(objects: Objects, bucket: str) -> float:
    """Read a key, which is answered without the catalog; how long that took, in seconds."""
    began = time.monotonic()
    async with objects.get(bucket, "k") as body:
        assert not body.is_certain
        assert await body.read() == b"body"
    return time.monotonic() - began


async def test_postgres_is_stopped(
    own_postgres: PostgresServer, minio_a: MinioServer, tmp_path: Path
) -> None:
    world = await new_world(own_postgres, minio_a, tmp_path)
    bucket = await world.bucket()
    acknowledged: dict[str, bytes] = {}
    tried: dict[str, bytes] = {}
    all_wrote = asyncio.Event()

    async def write(objects: Objects, number: int) -> None:
        for turn in range(10_000):
            key, body = f"w{number}", b"%d-%d" % (number, turn)
            tried[key] = body
            await objects.put(bucket, key, body)
            acknowledged[key] = body
            if len(acknowledged) == 8:
                all_wrote.set()

    async with world.opened() as objects:
        await objects.put(bucket, "k", b"body")
        writers = [asyncio.create_task(write(objects, number)) for number in range(8)]
        await all_wrote.wait()
        with stopped(own_postgres):
            began = time.monotonic()
            assert await uncertain(objects, bucket) < HASTY_S + 3
            assert max([await uncertain(objects, bucket) for _ in range(50)]) < 1
            ends = await asyncio.gather(*writers, return_exceptions=True)
            assert time.monotonic() - began < WITHIN_S + 12
            assert {type(end) for end in ends} == {Unavailable}
            began = time.monotonic()
            for call in (objects.put(bucket, "k", b"lost"), objects.list(bucket)):
                with pytest.raises(Unavailable):
                    await call
            assert await uncertain(objects, bucket) < 1
            assert time.monotonic() - began < 2
        async with asyncio.timeout(15):
            await put_in_the_end(objects, bucket)
        async with objects.get(bucket, "k") as body:
            assert body.is_certain
            assert await body.read() == b"after"
        await expire(objects.ground.catalog)
        await recover(objects.ground, older_s=0)
        assert len(acknowledged) == 8
        for key, one in acknowledged.items():
            # The write after it may have been whole when its answer could not be had.
            assert await read(objects, bucket, key) in (one, tried[key])
        await assert_whole(objects, bucket)


async def put_in_the_end(objects: Objects, bucket: str) -> None:
    while True:
        try:
            await objects.put(bucket, "k", b"after")
        except Unavailable:
            await asyncio.sleep(0.2)
        else:
            return
