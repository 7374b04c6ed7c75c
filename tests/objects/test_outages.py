"""What a client sees, and what is left, when the catalog, the keys or a process fail.

The numbers are those of the list of faults in issue 4.
"""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from entrepot.catalog import pipeline
from entrepot.catalog.connect import PIPELINES, Transaction
from entrepot.catalog.objects.commit import Seen
from entrepot.catalog.objects.facts import EffectKind
from entrepot.clock import new_token
from entrepot.codec.keys.ring import KeyRing
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    InvalidInput,
    NotFound,
    PermanentError,
    Unavailable,
)
from entrepot.objects.check import check
from entrepot.objects.conditions import Condition
from entrepot.objects.recover import recover
from entrepot.objects.removal import set_tags
from entrepot.objects.service import Objects
from entrepot.objects.settle import settle
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Version
from entrepot.store.wrapper import StoreWrapper
from entrepot.testing.faulty import LoseAnswer, Refuse
from entrepot.testing.proxy import BreakableProxy
from tests.objects.outages import World, new_world, pid_of
from tests.objects.test_kill import assert_whole, counted, expire
from tests.objects.test_service import BIG, read

BODY = BIG[: 3 << 20]


@pytest_asyncio.fixture
async def world(postgres: PostgresServer, minio_a: MinioServer, tmp_path: Path) -> World:
    return await new_world(postgres, minio_a, tmp_path)


@pytest.fixture(scope="module")
def own_postgres(servers_dir: Path) -> Iterator[PostgresServer]:
    """A Postgres that tests kill; what it acknowledged is on disk."""
    password = SecretStr(new_token())
    server = PostgresServer(servers_dir / "faults-postgres", password=password, durable=True)
    try:
        yield server.start()
    finally:
        server.stop()


# --- The catalog --------------------------------------------------------------------------------


async def test_21_postgres_killed_among_writers(
    own_postgres: PostgresServer, minio_a: MinioServer, tmp_path: Path
) -> None:
    """kill -9 of the server while many write: what was acknowledged is there afterwards."""
    world = await new_world(own_postgres, minio_a, tmp_path)
    bucket = await world.bucket()
    acknowledged: dict[str, bytes] = {}
    tried: dict[str, list[bytes]] = {}
    all_wrote = asyncio.Event()

    async def write(objects: Objects, number: int) -> None:
        for turn in range(10_000):
            key, body = f"k{number % 5}-{number}", b"%d-%d" % (number, turn)
            tried.setdefault(key, []).append(body)
            await objects.put(bucket, key, body)
            acknowledged[key] = body
            if len(acknowledged) == 12:
                all_wrote.set()

    async with world.opened() as objects:
        writers = [asyncio.create_task(write(objects, number)) for number in range(12)]
        await all_wrote.wait()
        os.kill(pid_of(own_postgres), signal.SIGKILL)
        ends = await asyncio.gather(*writers, return_exceptions=True)
    assert {type(end) for end in ends} == {Unavailable}
    own_postgres.stop()
    await asyncio.to_thread(own_postgres.start)
    async with world.opened() as objects:
        await expire(objects.ground.catalog)
        await recover(objects.ground, older_s=0)
        for key, body in acknowledged.items():
            # The write after it may have been cut off just before its answer.
            assert await read(objects, bucket, key) in (body, tried[key][-1])
        await assert_whole(objects, bucket)


async def test_22_no_connection_is_free(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "FREE_TIMEOUT_S", 0.3)
    bucket = await world.bucket()
    async with world.opened() as objects:
        await objects.put(bucket, "k", b"body")
        async with AsyncExitStack() as taken:
            for _ in range(PIPELINES):
                await taken.enter_async_context(objects.ground.catalog.transaction())
            with pytest.raises(Unavailable, match="free in time"):
                await objects.put(bucket, "k", b"lost")
            with pytest.raises(Unavailable, match="free in time"):
                await objects.list(bucket)
            async with objects.get(bucket, "k") as body:
                assert not body.is_certain
                assert await body.read() == b"body"
        assert await read(objects, bucket, "k") == b"body"
    await world.after(bucket, {"k": b"body"})


@asynccontextmanager
async def behind_proxy(world: World) -> AsyncIterator[tuple[BreakableProxy, str]]:
    """A proxy before the catalog, and the catalog's DSN through it."""
    head, _, rest = world.dsn.rpartition("@")
    address, _, database = rest.partition("/")
    port = int(address.partition(":")[2])
    async with BreakableProxy("127.0.0.1", port) as proxy:
        yield proxy, f"{head}@127.0.0.1:{proxy.port}/{database}"


@pytest.mark.parametrize("kind", ["plain", "both"])
async def test_26_the_catalog_is_down(world: World, kind: str) -> None:
    """Writes and listings say so; a key is read as the store has it, and that is told."""
    bucket = await world.bucket(kind)
    async with behind_proxy(world) as (proxy, dsn), world.opened(dsn=dsn) as objects:
        await objects.put(bucket, "k", BODY)
        await objects.put(bucket, "gone", b"x")
        await objects.delete(bucket, "gone")
        first = await objects.head(bucket, "k")
        await objects.put(bucket, "k", BODY[:5000])
        await proxy.refuse()
        for call in (
            objects.put(bucket, "k", b"lost"),
            objects.delete(bucket, "k"),
            objects.delete(bucket, "k", version_id=first.version_id),
            objects.list(bucket),
            objects.versions(bucket),
            objects.usage(bucket),
        ):
            with pytest.raises(Unavailable):
                await call
        async with objects.get(bucket, "k", start=10, stop=4000) as body:
            assert not body.is_certain
            assert body.row.size_bytes == 5000
            assert await body.read() == BODY[10:4000]
        assert await read(objects, bucket, "k", version_id=first.version_id) == BODY
        for key in ("gone", "never"):
            with pytest.raises(NotFound):
                await read(objects, bucket, key)
        await proxy.heal()
        async with objects.get(bucket, "k") as body:
            assert body.is_certain
        await objects.put(bucket, "k", b"after")
    await world.after(bucket, {"k": b"after", "gone": None})


async def test_24_an_answer_of_the_catalog_is_lost(world: World) -> None:
    """Cut at many points of a write's answers: it is there or it is not, and success is true."""
    bucket = await world.bucket()
    bodies: dict[str, bytes | None] = {}
    async with behind_proxy(world) as (proxy, dsn), world.opened(dsn=dsn) as objects:
        await objects.put(bucket, "warm", b"up")
        before = proxy.passed_bytes
        await objects.put(bucket, "warm", b"up")
        answers = proxy.passed_bytes - before
        for place in range(24):
            key = f"k{place:02}"
            proxy.reset_after(answers * place // 24)
            try:
                await objects.put(bucket, key, key.encode())
                bodies[key] = key.encode()
            except Unavailable:
                bodies[key] = None
            await proxy.heal()
    assert any(bodies.values())
    async with world.opened() as objects:
        await expire(objects.ground.catalog)
        await recover(objects.ground, older_s=0)
        listed = {entry.key for entry in await objects.list(bucket)}
        assert listed >= {key for key, body in bodies.items() if body}
        for key in listed - {"warm"}:
            assert await read(objects, bucket, key) == key.encode()
        await assert_whole(objects, bucket)


async def test_23_what_a_try_decided_does_not_outlive_it(world: World) -> None:
    """A commit is rolled back; before it is tried again others recover the write: refused."""
    bucket = await world.bucket()
    async with world.opened() as objects, world.opened() as other:
        ground = objects.ground
        await objects.put(bucket, "k", b"first")
        broken = asyncio.Event()

        at_once = Transaction.at_once

        async def breaking(transaction: Transaction, *asked: Any, commit: bool = False) -> Any:
            if commit and not broken.is_set():
                broken.set()
                raise Unavailable("the connection broke before the commit (scripted)")
            return await at_once(transaction, *asked, commit=commit)

        async def recovered_by_the_other() -> None:
            await broken.wait()
            await other.put(bucket, "k", b"second")
            await expire(other.ground.catalog)
            await recover(other.ground, older_s=0)

        wish = Wish(condition=Condition(if_match=("*",)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Transaction, "at_once", breaking)
            patch.setattr("entrepot.objects.ground.asyncio.sleep", _slowly)
            writing = asyncio.create_task(objects.put(bucket, "k", b"conditional", wish=wish))
            await recovered_by_the_other()
            with pytest.raises(EntrepotError):
                await writing
        assert ground.under_way == set()
    await world.after(bucket, {"k": b"second"})


_real_sleep = asyncio.sleep


async def _slowly(seconds: float) -> None:
    await _real_sleep(seconds and 1.0)


# --- Recovery -----------------------------------------------------------------------------------


async def test_a_write_that_cannot_be_recovered_holds_up_no_other(world: World) -> None:
    bucket = await world.bucket("encrypted")
    script = {"put": [LoseAnswer(), LoseAnswer(), LoseAnswer()]}
    async with world.scripted(script) as objects:
        for key in ("a", "b", "c"):
            with pytest.raises(Unavailable):
                await objects.put(bucket, key, key.encode())

    class Broken(StoreWrapper):
        async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> Version:
            if key == "a":
                raise AccessDenied("scripted")
            return await super().head(bucket, key, version_id=version_id)

    async with world.opened(wrap=Broken) as objects:
        await expire(objects.ground.catalog)
        with contextlib.suppress(AccessDenied):
            await recover(objects.ground, older_s=0)
        assert [entry.key for entry in await objects.list(bucket)] == ["b", "c"]


async def test_a_write_that_the_catalog_refuses_holds_up_no_other(world: World) -> None:
    bucket = await world.bucket()
    async with world.scripted({"put": [LoseAnswer(), LoseAnswer(), LoseAnswer()]}) as objects:
        for key in ("a", "b", "c"):
            with pytest.raises(Unavailable):
                await objects.put(bucket, key, key.encode())

    def refusing(seen: Seen, outcomes: Any) -> Any:
        if any(intent.key == "a" for intent in seen.intents.values()):
            raise InvalidInput("scripted")
        return settle(seen, outcomes)

    async with world.opened() as objects:
        await expire(objects.ground.catalog)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("entrepot.objects.ground.settle", refusing)
            await recover(objects.ground, older_s=0)
        assert [entry.key for entry in await objects.list(bucket)] == ["b", "c"]
        found = await check(objects.ground, await objects.ground.bucket(bucket))
        assert [each.key for each in found.orphans] == ["a"]
        assert await counted(objects.ground.catalog, "intents") == 0


def test_who_asks_has_a_name_that_the_audit_trail_can_hold() -> None:
    with pytest.raises(InvalidInput, match="actor"):
        Wish(actor="x" * 1025)


async def test_an_effect_that_cannot_be_carried_out_holds_up_no_other(world: World) -> None:
    bucket = await world.bucket()
    async with world.scripted({"delete": [Refuse()] * 3}) as objects:
        for key in ("a", "b", "c"):
            row = await objects.put(bucket, key, key.encode())
            with pytest.raises(Unavailable):
                await objects.delete(bucket, key, version_id=row.version_id)

    class Locked(StoreWrapper):
        async def delete(self, bucket: str, key: str, **how: Any) -> Version | None:
            if key == "a":
                raise AccessDenied("it is locked (scripted)")
            return await super().delete(bucket, key, **how)

    async with world.opened(wrap=Locked) as objects:
        with contextlib.suppress(AccessDenied):
            await recover(objects.ground, older_s=0)
        pages = [page async for page in objects.ground.store.versions(bucket)]
        assert [version.key for page in pages for version in page.versions] == ["a"]
    await world.after(bucket, {})


async def test_all_effects_are_carried_out(world: World) -> None:
    """More than are taken at a time."""
    bucket = await world.bucket()
    async with world.scripted({"delete": [Refuse()] * 130}) as objects:
        rows = await asyncio.gather(*(objects.put(bucket, f"{n}", b"x") for n in range(130)))
        removals = (objects.delete(bucket, r.key, version_id=r.version_id) for r in rows)
        failed = await asyncio.gather(*removals, return_exceptions=True)
        assert {type(error) for error in failed} == {Unavailable}
    await world.after(bucket, {})


async def test_tags_of_a_delete_marker_are_refused_at_once(world: World) -> None:
    bucket = await world.bucket()
    async with world.opened() as objects:
        await objects.put(bucket, "k", b"x")
        marker = await objects.delete(bucket, "k")
        assert marker
        found = await objects.ground.bucket(bucket)
        with pytest.raises(InvalidInput):
            await set_tags(objects.ground, found, "k", marker.version_id, {"a": "b"}, actor="")
        [row, _] = await objects.versions(bucket)
        assert not row.attributes.get("tags")
        left = await objects.ground.catalog.ask("SELECT kind FROM effects", {})
        assert EffectKind.SETTLE not in [kind for (kind,) in left]


# --- Processes and keys -------------------------------------------------------------------------


async def test_35_no_file_descriptor_is_left(world: World) -> None:
    bucket = await world.bucket()
    async with world.opened() as objects:
        await objects.put(bucket, "k", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with world.opened() as objects:
        used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - only numbers
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.dup(0))
            for call in (objects.put(bucket, "k", b"lost"), read(objects, bucket, "k")):
                with pytest.raises(Unavailable):
                    await call
        finally:
            for each in held:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await objects.put(bucket, "k", b"after")
    await world.after(bucket, {"k": b"after"})


class GoneRoot:
    """A root that can be switched off."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self.is_gone = False

    def __getattr__(self, name: str) -> Any:
        if self.is_gone and name in ("wrap", "unwrap"):
            return self._refuse
        return getattr(self._root, name)

    async def _refuse(self, *_args: object, **_how: object) -> bytes:
        raise Unavailable("the root does not answer (scripted)")


async def test_44_the_root_of_the_keys_is_gone(world: World) -> None:
    """Within the TTL reads and writes go on, after it they say what is missing."""
    bucket = await world.bucket("encrypted")
    async with world.opened() as objects:
        ring = objects.ground.ring
        root = GoneRoot(ring._root)
        objects.ground.ring = KeyRing(world.keys / "ring", root, ttl_s=2.0)
        await objects.put(bucket, "k", b"before")
        root.is_gone = True
        await objects.put(bucket, "k", b"within")
        assert await read(objects, bucket, "k") == b"within"
        await asyncio.sleep(2.5)
        for call in (objects.put(bucket, "k", b"lost"), read(objects, bucket, "k")):
            with pytest.raises(Unavailable, match="root key is out of reach since"):
                await call
        assert [entry.key for entry in await objects.list(bucket)] == ["k"]
        root.is_gone = False
        assert await read(objects, bucket, "k") == b"within"
        objects.ground.ring = ring
    await world.after(bucket, {"k": b"within"})


async def test_44_a_shredded_key(world: World) -> None:
    bucket = await world.bucket("encrypted")
    async with world.opened() as objects:
        row = await objects.put(bucket, "k", b"secret")
        await objects.ground.ring.shred("acme", number=1)
        with pytest.raises(PermanentError, match="shred"):
            await read(objects, bucket, "k")
        await objects.put(bucket, "k", b"with the next key")
        assert await read(objects, bucket, "k") == b"with the next key"
        with pytest.raises(PermanentError, match="shred"):
            await read(objects, bucket, "k", version_id=row.version_id)
        assert await objects.delete(bucket, "k", version_id=row.version_id)
        await objects.ground.ring.shred("acme")
        with pytest.raises(PermanentError, match="shred"):
            await objects.put(bucket, "k", b"never")
        await assert_whole(objects, bucket)
