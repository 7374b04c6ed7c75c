"""A rule's limits and hours hold for its stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import Lag, lag_of
from entrepot.catalog.rules import get_rule, pause, resume, save_rule
from entrepot.catalog.sites import upsert_site
from entrepot.catalog.streams import windows
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import Unavailable
from entrepot.replication.standing import Standing
from entrepot.replication.stream.engine import subscribe_site
from entrepot.replication.stream.pace import Pace
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import World, assert_equal, drained, route_over, running, until

SITES = ("site-a", "site-b")

MakeRule = Callable[..., Awaitable[Standing]]


@pytest_asyncio.fixture
async def rule_of(world: World) -> AsyncIterator[MakeRule]:
    """``await rule_of(bucket, **terms)``: a rule over two sites, looked at."""
    async with AsyncExitStack() as stack:

        async def make(bucket: str, **terms: Any) -> Standing:
            for rank, site in enumerate(world.sites):
                await upsert_site(
                    world.control, name=site, endpoint=f"http://{site}", region="", rank=rank
                )
            await save_rule(world.control, name=bucket, buckets=[bucket], sites=SITES, **terms)
            rule = await get_rule(world.control, name=bucket)
            return await stack.enter_async_context(Standing(world.control, rule))

        yield make


async def test_the_budget_is_one_for_both_directions_and_the_sweep(
    world: World, rule_of: MakeRule
) -> None:
    bucket = await world.bucket(new_bucket_name())
    stream, sweep = [await rule_of(bucket, bytes_per_s=200_000) for _ in range(2)]
    two = World({name: world[name] for name in SITES}, world.control, world.dsn)
    route = route_over(bucket, SITES)
    for site in SITES:
        await subscribe_site(world[site].ground.catalog, route, site)
        for number in range(20):
            await world[site].put(bucket, f"{site}/{number}", bytes(10_000))
    began = SYSTEM_CLOCK.monotonic()
    async with running(two.stream(route, pace=Pace(stream))):
        await sweep.budget.take(size_bytes=200_000)
        await drained(two)
    # 600 kB at 200 kB/s, and a second's worth at once.
    assert SYSTEM_CLOCK.monotonic() - began > 1.8
    await assert_equal(two, bucket, count=40)


async def test_who_may_not_run_rests_and_what_waits_is_lag(world: World, rule_of: MakeRule) -> None:
    bucket = await world.bucket(new_bucket_name())
    standing = await rule_of(bucket)
    two = World({name: world[name] for name in SITES}, world.control, world.dsn)
    async with running(two.stream(route_over(bucket, SITES), pace=Pace(standing))):
        await world["site-a"].put(bucket, "k", b"before")
        await drained(two)
        await pause(world.control, name=bucket)
        await standing.look()
        await world["site-a"].put(bucket, "k", b"while it rests")
        seen = len(await windows(world.control, bucket))
        await until(lambda: _has_windows(world, bucket, seen + 8))  # it is there, and does nothing
        lag = await _lag(world, bucket)
        assert (lag.depth, lag.shipped, lag.dead) == (1, 1, 0) and lag.lag_s > 0.5
        *_, last = await windows(world.control, bucket)
        assert (last.depth, last.shipped) == (1, 0) and last.lag_ms > 500
        await resume(world.control, name=bucket)
        await standing.look()
        await drained(two)
    await assert_equal(two, bucket, count=2)


async def _has_windows(world: World, bucket: str, count: int) -> bool:
    return len(await windows(world.control, bucket)) >= count


async def _lag(world: World, bucket: str) -> Lag:
    found = await lag_of({"site-a": world["site-a"].ground.catalog}, rule=bucket)
    [lag] = [each for each in found if each.target == "site-b"]
    return lag


async def test_limits_without_a_control_catalog_wait_for_it(
    world: World, rule_of: MakeRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent, and nothing raises: that would end as dead letters."""
    standing = await rule_of(new_bucket_name(), requests_per_s=1000)
    answers = [0]
    real = Catalog.ask

    async def ask(catalog: Catalog, *args: Any, **how: Any) -> Any:
        if catalog is world.control and answers[0] < 3:
            answers[0] += 1
            raise Unavailable("it is away")
        return await real(catalog, *args, **how)

    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(Catalog, "ask", ask)
    await Pace(standing, sleep=sleep).take(requests=1)
    assert len(pauses) == 3
