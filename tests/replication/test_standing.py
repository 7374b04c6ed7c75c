"""A rule that is paused under a sweep: it stops at a batch, keeps its job, and goes on."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from entrepot.catalog import jobs
from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.rules import Rule, delete_rule, pause, resume, save_rule, set_enabled
from entrepot.catalog.sites import upsert_site
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import NotFound, Paused
from entrepot.replication import run as replication
from entrepot.replication import standing as standings
from entrepot.replication.standing import Standing
from entrepot.timetable import Rate
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import same


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standings, "LOOK_EVERY_S", 0.05)


@pytest.fixture(scope="module")
async def control(postgres: PostgresServer) -> AsyncIterator[Catalog]:
    dsn = postgres.create_database("standing")
    await migrate(dsn, kind=CatalogKind.CONTROL)
    async with Catalog.open(dsn, pool_size=8) as catalog:
        for rank, site in enumerate(("site-0", "site-1")):
            await upsert_site(catalog, name=site, endpoint=f"http://{site}", region="", rank=rank)
        yield catalog


async def new_rule(control: Catalog, bucket: str = "photos", **more: Any) -> Rule:
    name = f"rule-{new_id().hex[:8]}"
    return await save_rule(control, name=name, buckets=[bucket], sites=["site-0", "site-1"], **more)


@pytest.mark.usefixtures("quick")
async def test_a_sweep_rests_at_a_batch_and_goes_on_from_there(
    control: Catalog, worlds: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds()
    for number in range(30):
        world.put(0, f"k{number:02}", str(number).encode())
    for store in world.stores:
        store.versions = _small_pages(store.versions)  # type: ignore[method-assign]
    rule = await new_rule(control, world.bucket)
    job = await replication.begin(
        control,
        world.sites,
        rule=rule.name,
        bucket=world.bucket,
        prefix="",
        shards=1,
        holder="h",
        flow_run_id=None,
    )
    real, checkpoints, paused = jobs.checkpoint, 0, asyncio.Event()

    async def pausing(*args: Any, **more: Any) -> None:
        nonlocal checkpoints
        await real(*args, **more)
        checkpoints += 1
        if checkpoints == 2:
            await pause(control, name=rule.name)
            await standing.look()
            paused.set()

    monkeypatch.setattr(jobs, "checkpoint", pausing)
    async with Standing(control, rule) as standing:
        # As a timed pause: nobody waits for one without an end.
        monkeypatch.setattr(standing, "wait", _until_resumed(standing))
        sweeping = asyncio.ensure_future(
            replication.sweep_shard(
                control,
                world.sites,
                job=job,
                shard=job.shards[0],
                batch_size=5,
                workers=2,
                standing=standing,
            )
        )
        await paused.wait()
        await asyncio.sleep(0.3)
        there = len(world.history(1))
        assert 0 < there < 30
        await asyncio.sleep(0.3)
        assert len(world.history(1)) == there
        await resume(control, name=rule.name)
        outcome = await asyncio.wait_for(sweeping, timeout=30)
    assert outcome.totals["copied"] == 30
    assert same(world.histories())


def _small_pages(versions: Any) -> Any:
    return lambda *args, **more: versions(*args, **{**more, "page_size": 5})


def _until_resumed(standing: Standing) -> Any:
    real = standing.wait

    async def wait() -> None:
        while True:
            try:
                await real()
            except Paused:
                await asyncio.sleep(0.05)
                continue
            return

    return wait


@pytest.mark.usefixtures("quick")
async def test_a_timed_pause_ends_by_itself(control: Catalog) -> None:
    rule = await new_rule(control)
    rule = await pause(
        control, name=rule.name, until=SYSTEM_CLOCK.now() + timedelta(milliseconds=300)
    )
    async with Standing(control, rule) as standing:
        with pytest.raises(Paused):
            standing.check()
        began = SYSTEM_CLOCK.monotonic()
        await standing.wait()
        assert 0.1 < SYSTEM_CLOCK.monotonic() - began < 5
        standing.check()


@pytest.mark.usefixtures("quick")
async def test_a_pause_can_be_ended_early(control: Catalog) -> None:
    rule = await new_rule(control)
    rule = await pause(control, name=rule.name, until=SYSTEM_CLOCK.now() + timedelta(hours=1))
    async with Standing(control, rule) as standing:
        waiting = asyncio.ensure_future(standing.wait())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await resume(control, name=rule.name)
        await asyncio.wait_for(waiting, timeout=10)


@pytest.mark.usefixtures("quick")
async def test_nobody_waits_for_what_has_no_end_or_a_far_one(control: Catalog) -> None:
    rule = await new_rule(control)
    async with Standing(control, rule) as standing:
        await pause(control, name=rule.name)
        with pytest.raises(Paused) as held:
            await standing.wait()
        assert held.value.hint == f"entrepot replicate rule resume {rule.name}"
        await pause(control, name=rule.name, until=SYSTEM_CLOCK.now() + timedelta(days=2))
        with pytest.raises(Paused):
            await standing.wait()
        await resume(control, name=rule.name)
        await set_enabled(control, name=rule.name, enabled=False)
        with pytest.raises(Paused) as held:
            await standing.wait()
        assert held.value.hint == f"entrepot replicate rule enable {rule.name}"


@pytest.mark.usefixtures("quick")
async def test_a_change_is_seen_while_others_work(control: Catalog) -> None:
    rule = await new_rule(control, bytes_per_s="1MB")
    async with Standing(control, rule) as standing:
        assert standing.rate() == Rate(1_000_000, None)
        await save_rule(control, name=rule.name, buckets=["photos"], sites=["site-0", "site-1"])
        async with asyncio.timeout(10):
            while not standing.rate().unlimited:  # noqa: ASYNC110 # it tells nobody
                await asyncio.sleep(0.02)
        standing.check()
        await delete_rule(control, name=rule.name)
        async with asyncio.timeout(10):
            while True:
                try:
                    standing.check()
                except NotFound:
                    break
                await asyncio.sleep(0.02)


async def test_the_budget_of_a_rule_is_taken_from_its_row(control: Catalog) -> None:
    rule = await new_rule(control, requests_per_s=20)
    async with Standing(control, rule) as standing:
        began = SYSTEM_CLOCK.monotonic()
        for _ in range(3):
            await standing.budget.take(requests=10)
        assert SYSTEM_CLOCK.monotonic() - began >= 0.9
