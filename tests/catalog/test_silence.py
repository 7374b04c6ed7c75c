"""A server that takes what it is given and says nothing: nobody waits for longer than the limit."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import func, select

from entrepot.catalog.connect import Catalog
from entrepot.errors import Unavailable
from entrepot.testing.proxy import BreakableProxy


@asynccontextmanager
async def behind_proxy(dsn: str) -> AsyncIterator[tuple[BreakableProxy, Catalog]]:
    """A catalog of two open connections, and the proxy that they go through."""
    head, _, rest = dsn.rpartition("@")
    address, _, database = rest.partition("/")
    async with (
        BreakableProxy("127.0.0.1", int(address.partition(":")[2])) as proxy,
        Catalog.open(f"{head}@127.0.0.1:{proxy.port}/{database}", pool_size=2) as catalog,
    ):
        await asyncio.gather(ask(catalog, 5), ask(catalog, 5))
        yield proxy, catalog


async def ask(catalog: Catalog, within_s: float) -> None:
    assert await catalog.ask("SELECT 1", {}, within_s=within_s) == [(1,)]


async def seconds_of_refusal(catalog: Catalog, within_s: float) -> float:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await ask(catalog, within_s)
    return time.monotonic() - began


async def eventually(catalog: Catalog, within_s: float) -> None:
    """Ask until it is answered; that takes one look."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await ask(catalog, within_s)
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_silent_server_is_waited_for_once(empty_dsn: str) -> None:
    async with behind_proxy(empty_dsn) as (proxy, catalog):
        proxy.hang()
        assert 0.5 <= await seconds_of_refusal(catalog, 0.5) < 2
        for _ in range(100):  # looks among them: nobody waits for those either
            assert await seconds_of_refusal(catalog, 0.5) < 0.3
            await asyncio.sleep(0.03)
        await proxy.heal()
        await eventually(catalog, 0.5)


async def test_who_was_in_a_hurry_speaks_for_the_hurried_only(empty_dsn: str) -> None:
    async with behind_proxy(empty_dsn) as (proxy, catalog):
        proxy.hang()
        await seconds_of_refusal(catalog, 0.3)
        patient = asyncio.create_task(ask(catalog, 20))
        await asyncio.sleep(0.2)
        await proxy.heal()
        await patient
        await eventually(catalog, 0.3)


async def test_a_transaction_ends_within_its_limit_and_refuses_everybody(empty_dsn: str) -> None:
    async with behind_proxy(empty_dsn) as (proxy, catalog):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            async with catalog.begin(within_s=4) as connection:
                await connection.execute(select(1))
                proxy.hang()
                await connection.execute(select(1))
        assert 4 <= time.monotonic() - began < 6
        for within_s in (0.3, 20, 65):
            assert await seconds_of_refusal(catalog, within_s) < 0.3
        await proxy.heal()
        await eventually(catalog, 65)


async def test_a_connection_that_is_never_made_is_a_silence_too(empty_dsn: str) -> None:
    async with behind_proxy(empty_dsn) as (proxy, catalog):
        await catalog.close()
        proxy.hang()
        assert await seconds_of_refusal(catalog, 20) < 8
        assert await seconds_of_refusal(catalog, 20) < 0.3
        await proxy.heal()
        await eventually(catalog, 20)


async def test_a_slow_statement_is_no_silence_within_its_limit(empty_dsn: str) -> None:
    async with Catalog.open(empty_dsn) as catalog, catalog.begin(within_s=2) as connection:
        for _ in range(3):  # the limit is of each round trip
            await connection.execute(select(func.pg_sleep(0.9)))


async def test_who_was_busy_itself_does_not_blame_the_server(empty_dsn: str) -> None:
    async with Catalog.open(empty_dsn) as catalog:
        await ask(catalog, 5)
        asked = asyncio.create_task(catalog.ask("SELECT pg_sleep(0.2)", {}, within_s=0.4))
        await asyncio.sleep(0.1)
        time.sleep(0.8)  # noqa: ASYNC251 - that is what is tested
        await asked
        await ask(catalog, 0.5)
