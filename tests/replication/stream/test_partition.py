"""Streams over a network that loses packets and says nothing: real servers in network namespaces.

The worker reaches a site's store and catalog by the link that is cut; users write at each site by
another, as they go on doing while the site is cut off.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url

from entrepot.catalog.conflicts import list_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import Lag, lag_from
from entrepot.clock import SYSTEM_CLOCK, new_bytes
from entrepot.gateway.facts import Facts
from entrepot.objects.service import Objects
from entrepot.replication.proof.verify import verify
from entrepot.replication.sites import Site
from entrepot.replication.stream.engine import Stream
from tests.objects.worlds import ALL, new_bucket_name, s3_store
from tests.replication.namespaces import SILENCE_S, Archipelago, Cutting, Island, Way
from tests.replication.stream.adopted import Told, gateway
from tests.replication.stream.worlds import (
    Place,
    World,
    assert_equal,
    drained,
    route_over,
    running,
    site_of,
    until,
)
from tests.replication.test_proof import how
from tests.replication.worlds import client as user_of

A, B, C = SITES = ("site-a", "site-b", "site-c")
MIB = 1024 * 1024
HEALED_S = 60.0
"""What was held up is there within this: a lost packet is sent again after at most twice the time
that the cut lasted, a silent catalog looked at each second.
"""


@dataclass
class Split:
    """Sites as their users have them, as the worker reaches them, and what lies between."""

    near: World
    far: dict[str, Objects]
    islands: Archipelago

    def __getitem__(self, site: str) -> Objects:
        return self.near[site]

    def island(self, site: str) -> Island:
        return self.islands[site]

    def stream(self, bucket: str) -> Stream:
        async def open_site(name: str) -> Objects:
            return self.far[name]

        return self.near.stream(route_over(bucket, SITES), open_site=open_site)

    async def has(self, site: str, bucket: str, count: int) -> None:
        """Wait until a site has so many versions at least."""

        async def holds() -> bool:
            return len(await self.near[site].versions(bucket)) >= count

        await until(holds)

    def stores(self) -> list[Site]:
        """What lies in them, without what their catalogs say."""
        return [
            Site(name, rank, self.near[name].ground.store, ALL) for rank, name in enumerate(SITES)
        ]

    async def lag(self, source: str, target: str, bucket: str) -> Lag:
        found = await lag_from(self.near[source].ground.catalog, site=source)
        [lag] = [each for each in found if (each.rule, each.target) == (bucket, target)]
        return lag

    async def behind(self, source: str, target: str, bucket: str, *, more_s: float = 0.5) -> None:
        """Wait until what waits has grown older, for nobody brings it."""
        first = await self.lag(source, target, bucket)

        async def grew() -> bool:
            now = await self.lag(source, target, bucket)
            return now.depth > 0 and now.lag_s > first.lag_s + more_s

        await until(grew)

    async def shows_who_is_away(self) -> bool:
        """Whether what people and Prometheus are shown tells B from a site that has nothing."""
        catalogs = {name: each.ground.catalog for name, each in self.far.items()}
        facts = Facts(control=self.near.control, sites=catalogs, clock=SYSTEM_CLOCK)
        lags = await asyncio.wait_for(facts.lags(), 10)
        return {name for name, lag in lags.items() if lag is None} == {B}

    async def converged(self, bucket: str, *, count: int) -> None:
        """Once healed, nothing waits, nothing was given up, and all are equal."""
        await drained(self.near, timeout_s=HEALED_S)
        await assert_equal(self.near, bucket, count=count)
        assert (await verify(self.stores(), bucket, comparison=how())).is_identical
        for source in SITES:
            for target in set(SITES) - {source}:
                assert not (await self.lag(source, target, bucket)).dead


@pytest_asyncio.fixture
async def split(
    dsns: dict[str, str], islands: Archipelago, keys_dir: Path
) -> AsyncGenerator[Split, None]:
    async with AsyncExitStack() as stack:
        near, far = {}, {}
        for name, island in islands.islands.items():
            store, url = s3_store(island.server), make_url(dsns[name])
            stack.push_async_callback(store.close)
            near[name] = await stack.enter_async_context(
                site_of(Place(name, dsns[name], store), keys_dir)
            )
            assert url.host and url.port
            way = await stack.enter_async_context(Way(island, url.host, url.port))
            dsn = url.set(host=way.host, port=way.port).render_as_string(hide_password=False)
            store = island.store()
            stack.push_async_callback(store.close)
            far[name] = await stack.enter_async_context(site_of(Place(name, dsn, store), keys_dir))
            stack.push_async_callback(island.heal)
        control = await stack.enter_async_context(Catalog.open(dsns["control"]))
        yield Split(World(near, control, dsns["control"]), far, islands)


ONE_WAY = pytest.param({"requests": False}, marks=pytest.mark.nightly)


@pytest.mark.parametrize("lost", [{}, {"answers": False}, ONE_WAY])
async def test_a_site_that_is_cut_off_goes_on_and_so_do_the_others(
    split: Split, lost: dict[str, bool]
) -> None:
    """Also where packets are lost in one direction only."""
    bucket = await split.near.bucket(new_bucket_name())
    async with running(split.stream(bucket)):
        await split[A].put(bucket, "k", b"common")
        await drained(split.near)
        await split.island(B).cut(**lost)
        await split[A].put(bucket, "k", b"by a")
        await split[B].put(bucket, "k", b"by b")
        await split[B].put(bucket, "of b", b"x")
        await split[C].put(bucket, "of c", b"x")
        for site in (A, C):
            await split.has(site, bucket, 3)
        for source, target in ((A, B), (C, B), (B, A), (B, C)):
            await split.behind(source, target, bucket)
        assert (await split.lag(A, C, bucket)).lag_s == (await split.lag(C, A, bucket)).lag_s == 0
        await until(split.shows_who_is_away)
        await split.has(B, bucket, 3)
        await split.island(B).heal()
        await split.converged(bucket, count=5)
    found = await list_conflicts(split.near.control, rule=bucket)
    assert [each.key for each in found] == ["k"]


async def test_a_cut_in_the_middle_of_a_body(split: Split) -> None:
    """The site it goes to neither gets the rest nor hears that nobody sends it."""
    bucket = await split.near.bucket(new_bucket_name())
    body = new_bytes(24 * MIB)
    async with running(split.stream(bucket)):
        whole = split.far[A].ground.store
        split.far[A].ground.store = cutting = Cutting(whole, split.island(B), after_bytes=4 * MIB)
        await split[A].put(bucket, "big", body)
        await split.has(C, bucket, 1)

        await split.behind(A, B, bucket, more_s=1.5 * SILENCE_S)
        assert cutting.has_cut
        await split.island(B).heal()
        await split.converged(bucket, count=1)
    async with split[B].get(bucket, "big") as opened:
        assert await opened.read() == body


async def test_a_link_that_flaps(split: Split) -> None:
    bucket = await split.near.bucket(new_bucket_name())
    async with running(split.stream(bucket)):
        for turn in range(6):
            await split.island(B).cut(requests=turn % 3 != 1, answers=turn % 3 != 2)
            for site in SITES:
                await split[site].put(bucket, f"of {site}", b"%d" % turn)
                await split[site].put(bucket, f"{turn}", site.encode())
            await split.has(A, bucket, 4 * (turn + 1))
            await split.island(B).heal()
            await asyncio.sleep(0.1 * turn)
        await split.converged(bucket, count=36)


@pytest.mark.nightly
async def test_a_cut_that_outlasts_every_limit(split: Split) -> None:
    """Of a store, of a catalog, of a connection that idles."""
    bucket = await split.near.bucket(new_bucket_name())
    stream = split.stream(bucket)
    async with running(stream):
        await split[A].put(bucket, "k", b"x")
        await drained(split.near)
        await split.island(B).cut()
        began = SYSTEM_CLOCK.monotonic()
        turn = 0
        while SYSTEM_CLOCK.monotonic() - began < 45:
            for site in SITES:
                await split[site].put(bucket, f"{turn} of {site}", b"x")
            turn += 1
            await split.has(C, bucket, 1 + 2 * turn)
            await split.has(A, bucket, 1 + 2 * turn)
            await asyncio.sleep(1)
        downs = {
            (each.source, each.target) for each in stream.channels if stream.channels[each].down
        }
        assert downs == {(A, B), (C, B), (B, A), (B, C)}
        await split.island(B).heal()
        await split.converged(bucket, count=1 + 3 * turn)


@pytest_asyncio.fixture
async def told(
    split: Split, dsns: dict[str, str], islands: Archipelago, keys_dir: Path
) -> AsyncGenerator[Told, None]:
    """The same sites with a gateway that their stores notify; it is at the sites."""
    users = {name: user_of(server) for name, server in islands.servers.items()}
    url = f"http://{islands.host}:{islands.port}"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        told = Told(split.near, islands.servers, users, url, {}, client)
        async with gateway(
            host=islands.host,
            port=islands.port,
            control_dsn=dsns["control"],
            servers=islands.servers,
            dsns=dsns,
            keys=keys_dir,
            metrics=told.metrics,
        ):
            yield told
    for user in users.values():
        user.close()


async def test_an_adopted_bucket_whose_site_is_cut_off(split: Split, told: Told) -> None:
    bucket = await told.bucket(new_bucket_name())
    async with running(split.stream(bucket)):
        await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"common")
        await told.equal(bucket, count=1)
        await told.quiet()
        await split.island(B).cut()
        for site in SITES:
            await told.does(site, "put_object", Bucket=bucket, Key="k", Body=site.encode())
            await told.does(site, "put_object", Bucket=bucket, Key=f"of {site}", Body=b"x")
        for source, target in ((A, B), (C, B), (B, A)):
            await split.behind(source, target, bucket)
        for site in (A, C):
            await until(lambda site=site: _holds(told, site, bucket, 5))  # type: ignore[misc]
        await split.island(B).heal()
        await told.equal(bucket, count=7)
        await told.quiet(timeout_s=HEALED_S)
    assert (await verify(split.stores(), bucket, comparison=how())).is_identical
    assert await told.shipped(bucket) == {A: 3, B: 2, C: 2}
    assert "k" in {each.key for each in await list_conflicts(split.near.control, rule=bucket)}


async def _holds(told: Told, site: str, bucket: str, count: int) -> bool:
    return len(await told.history(site, bucket)) == count
