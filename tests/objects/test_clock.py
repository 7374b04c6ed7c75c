"""Order of writes where the clocks of gateways are wrong, apart, or jump."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.objects.intents import raise_floor
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import Unavailable
from entrepot.objects.service import Objects
from entrepot.stamp import AHEAD_MS, BOUND_MS
from tests.objects.outages import private
from tests.objects.test_service import assert_books, read
from tests.objects.worlds import new_bucket_name, objects_of, s3_store

MINUTE_S = 60.0
DAY_S = 86_400.0


class WrongClock:
    """The machine's clock, so many seconds off; its timer is right."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.off_s = off_s

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now() + timedelta(seconds=self.off_s)

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()


Gateway = Callable[[WrongClock], AbstractAsyncContextManager[Objects]]


@pytest_asyncio.fixture
async def gateway(
    postgres: PostgresServer, minio_a: MinioServer, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """Opens gateways of one site, whose catalog is the test's own: a floor stays for good."""
    dsn = postgres.create_database(f"clock_{new_id().hex[:12]}")
    await migrate(dsn, kind=CatalogKind.SITE)
    store, keys = s3_store(minio_a), private(tmp_path)

    @asynccontextmanager
    async def opened(clock: WrongClock) -> AsyncIterator[Objects]:
        async with objects_of(dsn, store, keys, clock=clock) as objects:
            yield objects

    yield opened
    await store.close()


async def new_bucket(objects: Objects) -> str:
    name = new_bucket_name()
    await objects.create_bucket(name, tenant_id="acme")
    return name


async def assert_ordered(objects: Objects, bucket: str, written: list[bytes]) -> None:
    """All that was acknowledged is there, in that order, for us and for any S3 tool."""
    rows = await objects.versions(bucket, prefix="k")
    assert [await read(objects, bucket, "k", version_id=r.version_id) for r in rows] == [
        *reversed(written)
    ]
    assert await read(objects, bucket, "k") == written[-1]
    times = [row.stamp.time_ms for row in rows]
    assert times == sorted(set(times), reverse=True)
    store = objects.ground.store
    listed = [one async for page in store.versions(bucket, prefix="k") for one in page.versions]
    assert [(one.version_id, one.mtime_ms) for one in listed] == [
        (row.version_id, row.stamp.time_ms) for row in rows
    ]
    assert (await store.head(bucket, "k")).version_id == rows[0].version_id
    await assert_books(objects, bucket)


def far_apart_ms(error: Unavailable) -> int:
    assert error.message == "this machine's clock and the catalog's are far apart"
    assert error.hint
    return int(error.fields["apart_ms"])


@pytest.mark.parametrize("jump_s", [-5 * MINUTE_S, 5 * MINUTE_S, -DAY_S, DAY_S])
async def test_a_clock_that_jumps_and_comes_back(gateway: Gateway, jump_s: float) -> None:
    """While it is wrong, writes are refused; once it is right they go on, in order."""
    clock, written = WrongClock(), [b"0"]
    async with gateway(clock) as objects:
        bucket = await new_bucket(objects)
        await objects.put(bucket, "k", b"0")
        clock.off_s = jump_s
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await objects.put(bucket, "k", b"lost")
            if jump_s > 0:
                assert far_apart_ms(caught.value) > jump_s * 1000 - BOUND_MS
            else:
                assert "far behind the stamps" in caught.value.message
        assert await read(objects, bucket, "k") == b"0"  # reads go on
        clock.off_s = 0.0
        for number in range(1, 4):
            await objects.put(bucket, "k", b"%d" % number)
            written.append(b"%d" % number)
        await assert_ordered(objects, bucket, written)
    async with gateway(WrongClock()) as objects:  # nothing of the jump was kept
        await objects.put(bucket, "k", b"last")
        await assert_ordered(objects, bucket, [*written, b"last"])


@pytest.mark.parametrize("off_s", [-DAY_S, -5 * MINUTE_S, 5 * MINUTE_S, DAY_S])
async def test_a_wrong_clock_from_the_start(gateway: Gateway, off_s: float) -> None:
    async with gateway(WrongClock(off_s)) as objects:
        bucket = await new_bucket(objects)
        with pytest.raises(Unavailable) as caught:
            await objects.put(bucket, "k", b"x")
        assert far_apart_ms(caught.value) > abs(off_s) * 1000 - BOUND_MS
        kept_ms, theirs_ms = await raise_floor(objects.ground.catalog, 0)
        assert kept_ms <= theirs_ms + AHEAD_MS
    async with gateway(WrongClock()) as objects:
        await objects.put(bucket, "k", b"x")
        await assert_ordered(objects, bucket, [b"x"])


async def test_small_jumps_are_not_seen(gateway: Gateway) -> None:
    """Within the bound time only ever goes on."""
    clock, written = WrongClock(), []
    async with gateway(clock) as objects:
        bucket = await new_bucket(objects)
        for number, off_s in enumerate([0, 30, -25, 20, 0, -20, 29, 0]):
            clock.off_s = off_s
            row = await objects.put(bucket, "k", b"%d" % number)
            written.append(b"%d" % number)
            assert isinstance(row.stamp.time_ms, int)
        await assert_ordered(objects, bucket, written)


@pytest.mark.parametrize("back_s", [1.0, 30.0, 50.0])
async def test_a_restart_after_a_jump_back_keeps_the_order(gateway: Gateway, back_s: float) -> None:
    async with gateway(WrongClock()) as objects:
        bucket = await new_bucket(objects)
        first = await objects.put(bucket, "k", b"first")
    async with gateway(WrongClock(-back_s)) as objects:
        second = await objects.put(bucket, "k", b"second")
        other = await objects.put(bucket, "other", b"x")
        assert second.stamp > first.stamp
        assert other.stamp.time_ms > first.stamp.time_ms  # of other keys, too
        await assert_ordered(objects, bucket, [b"first", b"second"])


async def test_gateways_whose_clocks_are_apart(gateway: Gateway) -> None:
    """The later acknowledged write wins, whichever gateway took it; the store says so as well."""
    written: list[bytes] = []
    async with gateway(WrongClock(15)) as early, gateway(WrongClock(-15)) as late:
        bucket = await new_bucket(early)
        for number in range(12):
            body = b"%d" % number
            await (early if number % 3 else late).put(bucket, "k", body)
            written.append(body)
            for each in (early, late):
                assert await read(each, bucket, "k") == body
        await assert_ordered(late, bucket, written)
        marker = await late.delete(bucket, "k")
        assert marker is not None
        assert await early.list(bucket) == ()
        await early.put(bucket, "k", b"again")
        assert await read(late, bucket, "k") == b"again"
        await late.delete(bucket, "k")
        assert await early.list(bucket) == ()
        await assert_books(early, bucket)


async def test_many_writers_through_gateways_apart(gateway: Gateway) -> None:
    """At once: every write has a millisecond of its own, and both sides show one winner."""
    async with gateway(WrongClock(15)) as early, gateway(WrongClock(-15)) as late:
        bucket = await new_bucket(early)
        rows = await asyncio.gather(
            *((early, late)[n % 2].put(bucket, f"k{n % 3}", b"%d" % n) for n in range(60))
        )
        listed = [
            (one.key, one.version_id, one.mtime_ms)
            async for page in early.ground.store.versions(bucket)
            for one in page.versions
        ]
        ours = [(row.key, row.version_id, row.stamp.time_ms) for row in await late.versions(bucket)]
        assert ours == listed
        assert len({(key, time_ms) for key, _, time_ms in ours}) == len(rows) == 60
        await assert_books(late, bucket)
