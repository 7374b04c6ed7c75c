"""What a client sees, and what is left, when the store fails.

The numbers are those of the list of faults in issue 4.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import (
    EntrepotError,
    IntegrityError,
    PermanentError,
    Throttled,
    Unavailable,
)
from entrepot.objects.recover import recover
from entrepot.objects.removal import set_tags
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Source, Store, Version
from entrepot.store.s3.http import error_for
from entrepot.store.wrapper import Replay, StoreWrapper
from entrepot.testing.faulty import Corrupt, Fault, FaultyStore, LoseAnswer, Refuse, Truncate
from entrepot.testing.proxy import BreakableProxy
from tests.objects.conftest import KINDS
from tests.objects.outages import World, new_world, pid_of
from tests.objects.test_kill import assert_whole, expire
from tests.objects.test_service import BIG, read
from tests.objects.worlds import pieces

MIB = 1 << 20
BODY = BIG[: 3 * MIB]


@pytest_asyncio.fixture
async def world(postgres: PostgresServer, minio_a: MinioServer, tmp_path: Path) -> World:
    return await new_world(postgres, minio_a, tmp_path)


@pytest.fixture(scope="module")
def own_minio(servers_dir: Path) -> Iterator[MinioServer]:
    """A MinIO that tests stop, kill and start again."""
    credentials = MinioCredentials(new_token(8), SecretStr(new_token(24)))
    server = MinioServer(servers_dir / "faults-minio", credentials)
    try:
        yield server.start()
    finally:
        server.stop()


async def test_1_refused(world: World) -> None:
    bucket = await world.bucket()
    async with (
        BreakableProxy("127.0.0.1", world.minio.port) as proxy,
        world.opened(endpoint=proxy.endpoint) as objects,
    ):
        await objects.put(bucket, "k", b"before")
        await proxy.refuse()
        calls = (
            objects.put(bucket, "k", b"lost"),
            objects.put(bucket, "k", pieces(BIG)),
            objects.delete(bucket, "k"),
            read(objects, bucket, "k"),
        )
        for call in calls:
            with pytest.raises(Unavailable):
                await call
        assert [entry.key for entry in await objects.list(bucket)] == ["k"]
        await proxy.heal()
        assert await read(objects, bucket, "k") == b"before"
    await world.after(bucket, {"k": b"before"})


async def test_2_a_store_that_hangs(world: World) -> None:
    bucket = await world.bucket()
    async with (
        BreakableProxy("127.0.0.1", world.minio.port) as proxy,
        world.opened(endpoint=proxy.endpoint, read_timeout_s=0.5) as objects,
    ):
        await objects.put(bucket, "k", b"before")
        proxy.hang()
        async with asyncio.timeout(20):
            for call in (objects.put(bucket, "k", b"late"), read(objects, bucket, "k")):
                with pytest.raises(Unavailable):
                    await call
        await proxy.cut()
        await proxy.heal()
        assert await read(objects, bucket, "k") in (b"before", b"late")
    async with world.opened() as objects:
        await expire(objects.ground.catalog)
        await recover(objects.ground, older_s=0)
        await assert_whole(objects, bucket)


async def test_2_a_server_that_is_stopped(
    postgres: PostgresServer, own_minio: MinioServer, tmp_path: Path
) -> None:
    """Its connections stay, and nothing answers; later it goes on, and so do we."""
    world = await new_world(postgres, own_minio, tmp_path)
    bucket = await world.bucket()
    async with world.opened(read_timeout_s=0.5) as objects:
        await objects.put(bucket, "k", b"before")
        os.kill(pid_of(own_minio), signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                for call in (objects.put(bucket, "other", b"late"), read(objects, bucket, "k")):
                    with pytest.raises(Unavailable):
                        await call
        finally:
            os.kill(pid_of(own_minio), signal.SIGCONT)
        assert await read(objects, bucket, "k") == b"before"
    await asyncio.sleep(0.5)  # the server ends what it had taken before it was stopped
    async with world.opened() as objects:
        await expire(objects.ground.catalog)
        await recover(objects.ground, older_s=0)
        await assert_whole(objects, bucket)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [len(BODY), None])
async def test_3_reset_in_the_middle_of_a_put(world: World, kind: str, size: int | None) -> None:
    bucket = await world.bucket(kind)
    async with (
        BreakableProxy("127.0.0.1", world.minio.port) as proxy,
        world.opened(endpoint=proxy.endpoint) as objects,
    ):

        async def cut_in_the_middle(body: bytes) -> AsyncIterator[bytes]:
            yield body[: len(body) * 2 // 3]
            await proxy.refuse()
            yield body[len(body) * 2 // 3 :]

        body = BODY if size else os.urandom(10 * MIB)
        with pytest.raises(Unavailable):
            await objects.put(bucket, "k", cut_in_the_middle(body), size_bytes=size)
    await world.after(bucket, {})


@pytest.mark.parametrize("kind", list(KINDS))
async def test_4_reset_in_the_middle_of_a_get(world: World, kind: str) -> None:
    """The reader gets an error and never a short body that looks whole."""
    bucket, body = await world.bucket(kind), os.urandom(2 * MIB)
    async with (
        BreakableProxy("127.0.0.1", world.minio.port) as proxy,
        world.opened(endpoint=proxy.endpoint) as objects,
    ):
        await objects.put(bucket, "k", body)
        for after_bytes in (100, 2_000, MIB, 2 * MIB - 100):
            proxy.reset_after(after_bytes)
            with pytest.raises(Unavailable):
                await read(objects, bucket, "k")
            await proxy.heal()
        assert await read(objects, bucket, "k") == body


BURST = [
    Refuse(Throttled("SlowDown: slow down (scripted)")),
    Refuse(error_for(502, "", "bad gateway", {})),
    Refuse(error_for(500, "InternalError", "scripted", {})),
]


async def test_5_bursts_of_errors_pass_with_retries(world: World) -> None:
    bucket = await world.bucket()
    async with world.scripted({"put": BURST, "delete": BURST, "get": BURST}, retries=True) as it:
        await it.put(bucket, "k", b"body")
        await it.put(bucket, "gone", b"body")
        await it.delete(bucket, "gone")
        assert await read(it, bucket, "k") == b"body"
        assert len(await it.versions(bucket)) == 3
    await world.after(bucket, {"k": b"body", "gone": None})


@pytest.mark.parametrize("error", [fault.error for fault in BURST])
async def test_5_without_retries_the_client_hears_of_it(world: World, error: EntrepotError) -> None:
    bucket = await world.bucket()
    script = {"put": [Refuse(error)], "delete": [Refuse(error)], "get": [Refuse(error)]}
    async with world.scripted(script) as objects:
        with pytest.raises(type(error)):
            await objects.put(bucket, "k", b"body")
        with pytest.raises(type(error)):
            await objects.delete(bucket, "k")
        row = await objects.put(bucket, "k", b"body")
        with pytest.raises(type(error)):
            await read(objects, bucket, "k")
        assert (await objects.head(bucket, "k")) == row
    await world.after(bucket, {"k": b"body"})


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("after_bytes", [0, 1, 70_000])
async def test_6_a_short_answer_that_looks_whole(world: World, kind: str, after_bytes: int) -> None:
    bucket, body = await world.bucket(kind), os.urandom(200_000)
    async with world.opened() as objects:
        await objects.put(bucket, "k", body)
    failed = 0
    for which in range(3):  # an encoded body is read by several requests
        script: list[Fault] = [Truncate(10**9)] * which
        script.append(Truncate(after_bytes, error=None))

        def wrap(store: Store, script: list[Fault] = script) -> Store:
            return FaultyStore(store, {"get": script})

        async with world.opened(wrap=wrap) as objects:
            try:
                assert await read(objects, bucket, "k") == body  # no such request, or a shorter one
            except (IntegrityError, Unavailable):
                failed += 1
    assert failed


@pytest.mark.parametrize("kind", ["encrypted", "compressed", "both"])
async def test_7_a_changed_byte_is_never_read(world: World, kind: str) -> None:
    bucket = await world.bucket(kind)
    async with world.opened() as objects:
        row = await objects.put(bucket, "k", BIG[:150_000])
    for at_byte in range(0, row.stored_bytes, max(row.stored_bytes // 12, 1)):
        met = False
        async with world.opened(
            wrap=lambda store, at=at_byte: FaultyStore(store, {"get": [Corrupt(at)] * 9})  # type: ignore[misc]
        ) as objects:
            with contextlib.suppress(IntegrityError, PermanentError):
                assert await read(objects, bucket, "k") == BIG[:150_000]
                met = True  # each request was shorter than that
        assert not met or at_byte > 0


class Damaging(StoreWrapper):
    """Stores one other byte of each body that is a stream, as a broken network card would."""

    async def put(self, bucket: str, key: str, source: Source | Replay, **how: Any) -> Version:
        assert not isinstance(source, Replay)
        return await super().put(
            bucket, key, source if isinstance(source, bytes) else _damaged(source), **how
        )


async def _damaged(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in source:
        yield bytes([piece[0] ^ 1]) + piece[1:]


async def test_7_a_body_damaged_on_its_way_in(world: World) -> None:
    bucket = await world.bucket()
    async with world.opened(wrap=Damaging) as objects:
        with pytest.raises(IntegrityError):
            await objects.put(bucket, "k", pieces(BODY), size_bytes=len(BODY))
    await world.after(bucket, {})


async def test_7_a_damaged_body_is_not_recovered_against_its_checksum(world: World) -> None:
    """The endpoint takes no CRC, and the writer dies before it could compare; what the client
    promised is in the intent.
    """
    bucket = await world.bucket()
    sums = {"sha256": hashlib.sha256(BODY).hexdigest()}

    class Dying(Damaging):
        async def put(self, bucket: str, key: str, source: Source | Replay, **how: Any) -> Version:
            await super().put(bucket, key, source, **how | {"crc32c": None})
            raise Unavailable("the writer died (scripted)")

    async with world.opened(wrap=Dying) as objects:
        with pytest.raises(Unavailable):
            how = {"size_bytes": len(BODY), "wish": Wish(checksums=sums)}
            await objects.put(bucket, "k", pieces(BODY), **how)  # type: ignore[arg-type]
    await world.after(bucket, {})


@pytest.mark.parametrize("kind", ["plain", "both"])
async def test_8_a_lost_answer_and_a_duplicate_retry(world: World, kind: str) -> None:
    bucket = await world.bucket(kind)
    async with world.scripted({"put": [LoseAnswer()], "delete": [LoseAnswer()]}) as objects:
        with pytest.raises(Unavailable):
            await objects.put(bucket, "k", b"sent once")
        with pytest.raises(Unavailable):
            await objects.delete(bucket, "k")
        await objects.put(bucket, "k", b"sent again")
        assert await read(objects, bucket, "k") == b"sent again"
    await world.after(bucket, {"k": b"sent again"})
    async with world.opened() as objects:
        rows = await objects.versions(bucket)
        assert [row.is_delete_marker for row in rows] == [False, True, False]


async def test_8_a_lost_answer_that_is_retried_below(world: World) -> None:
    bucket = await world.bucket()
    script = {"put": [LoseAnswer()], "delete": [LoseAnswer(), LoseAnswer()], "tag": [LoseAnswer()]}
    async with world.scripted(script, retries=True) as objects:
        row = await objects.put(bucket, "k", b"body")
        found = await objects.ground.bucket(bucket)
        await set_tags(objects.ground, found, "k", row.version_id, {"a": "b"}, actor="")
        await objects.put(bucket, "gone", b"body")
        await objects.delete(bucket, "gone")
        assert len(await objects.versions(bucket)) == 3
    await world.after(bucket, {"k": b"body", "gone": None})


async def test_8_a_removal_whose_answer_was_lost(world: World) -> None:
    bucket = await world.bucket()
    async with world.scripted({"delete": [Refuse(), LoseAnswer()]}) as objects:
        rows = [await objects.put(bucket, "k", b"%d" % number) for number in range(3)]
        for row in rows[1:]:
            with pytest.raises(Unavailable):
                await objects.delete(bucket, "k", version_id=row.version_id)
        assert await read(objects, bucket, "k") == b"0"  # gone at once for readers
    await world.after(bucket, {"k": b"0"})


async def test_11_a_full_disk(world: World) -> None:
    bucket = await world.bucket()
    full = error_for(507, "XMinioStorageFull", "Storage backend has reached its minimum free", {})
    async with world.scripted({"put": [Refuse(full)]}) as objects:
        with pytest.raises(Unavailable, match="XMinioStorageFull"):
            await objects.put(bucket, "k", b"body")
        await objects.put(bucket, "k", b"later")
    await world.after(bucket, {"k": b"later"})


@pytest.mark.parametrize("size", [len(BODY), None])
async def test_12_minio_killed_in_the_middle_of_a_put(
    postgres: PostgresServer, own_minio: MinioServer, tmp_path: Path, size: int | None
) -> None:
    world = await new_world(postgres, own_minio, tmp_path)
    bucket = await world.bucket("encrypted")

    async def kill_in_the_middle(body: bytes) -> AsyncIterator[bytes]:
        yield body[: len(body) * 2 // 3]
        os.kill(pid_of(own_minio), signal.SIGKILL)
        yield body[len(body) * 2 // 3 :]

    try:
        async with world.opened() as objects:
            await objects.put(bucket, "kept", b"kept")
            body = BODY if size else os.urandom(20 * MIB)
            with pytest.raises(Unavailable):
                await objects.put(bucket, "k", kill_in_the_middle(body), size_bytes=size)
    finally:
        own_minio.stop()
        await asyncio.to_thread(own_minio.start)
    await world.after(bucket, {"kept": b"kept"})
