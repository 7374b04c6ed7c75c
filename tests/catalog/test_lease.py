"""The heartbeat, with leases short enough to watch."""

import asyncio

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from entrepot.catalog import jobs
from entrepot.catalog.connect import Catalog, async_url
from entrepot.catalog.lease import Lease
from entrepot.catalog.states import JobState
from entrepot.errors import Busy, Fenced, Unavailable
from tests.catalog.test_jobs import claim

LEASE_S = 1.2


async def test_holds_longer_than_the_lease_and_then_lets_go(control: Catalog) -> None:
    held = await claim(control, "a", lease_s=LEASE_S)
    async with Lease(control, held, lease_s=LEASE_S) as lease:
        for _ in range(4):
            await asyncio.sleep(LEASE_S / 2)
            lease.check()
            with pytest.raises(Busy):
                await claim(control, "b")
    assert (await claim(control, "b")).epoch == held.epoch + 1


async def test_an_error_in_the_body_passes_and_releases(control: Catalog) -> None:
    held = await claim(control, "a", lease_s=3600)
    with pytest.raises(ZeroDivisionError):
        async with Lease(control, held, lease_s=3600):
            raise ZeroDivisionError
    assert (await claim(control, "b")).resumed


async def test_a_finished_job_stays_finished(control: Catalog) -> None:
    held = await claim(control, "a")
    async with Lease(control, held, lease_s=60):
        await jobs.finish(control, held, state=JobState.COMPLETED, report={})
    assert not (await claim(control, "b")).resumed


async def test_a_takeover_is_noticed(control: Catalog) -> None:
    held = await claim(control, "a", flow_run_id="run")
    async with Lease(control, held, lease_s=LEASE_S) as lease:
        await claim(control, "b", flow_run_id="run")
        await asyncio.sleep(LEASE_S)
        with pytest.raises(Fenced):
            lease.check()
        with pytest.raises(Busy):  # leaving must not release what is another's
            await claim(control, "c")
    with pytest.raises(Busy):
        await claim(control, "c")
    with pytest.raises(Fenced):
        async with Lease(control, held, lease_s=LEASE_S):
            pass


async def test_a_catalog_out_of_reach_ends_the_lease_here_too(
    control: Catalog, empty_dsn: str
) -> None:
    held = await claim(control, "a")
    async with Lease(control, held, lease_s=LEASE_S) as lease:
        await asyncio.to_thread(_allow_connections, empty_dsn, allow=False)
        await asyncio.sleep(LEASE_S * 1.5)
        with pytest.raises(Unavailable):
            lease.check()
        await asyncio.to_thread(_allow_connections, empty_dsn, allow=True)
        await asyncio.sleep(LEASE_S)
        lease.check()  # nobody else took the job, so it goes on


def _allow_connections(dsn: str, *, allow: bool) -> None:
    """Close the database for everybody and end who is in it, or open it again."""
    url = async_url(dsn)
    engine = create_engine(url.set(database="postgres"), poolclass=NullPool)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS {allow}"))
        connection.execute(text(kill), {"name": url.database})
