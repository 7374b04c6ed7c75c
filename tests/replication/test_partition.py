"""Sweeps over a network that loses packets and says nothing: real servers in network namespaces.

A sweep needs every site of its rule. What it promises here is to end, to say which site did not
answer, to leave nothing half done, and to go on where it stopped once the network is whole.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from entrepot.catalog.connect import Catalog
from entrepot.clock import SYSTEM_CLOCK, new_bytes
from entrepot.errors import Unavailable
from entrepot.replication.proof.verify import verify
from entrepot.store.retry import RetryPolicy, RetryStore
from tests.replication.namespaces import SILENCE_S, Archipelago, Cutting
from tests.replication.ruled import Ruled, conflicting
from tests.replication.test_proof import how
from tests.replication.worlds import World, same

MIB = 1024 * 1024
ONCE = RetryPolicy(max_retries=1, initial_backoff_ms=10, max_backoff_ms=50)
PATIENCE_S = 10 * SILENCE_S
"""More than two tries of each of a few requests in a row."""

ONE_WAY = ({"answers": False}, {"requests": False})
LOST = ({}, *(pytest.param(each, marks=pytest.mark.nightly) for each in ONE_WAY))


@asynccontextmanager
async def split(islands: Archipelago) -> AsyncGenerator[World, None]:
    """A world over all islands; the sweep goes by their far links, and users by the near ones."""
    far = [each.store() for each in islands.islands.values()]
    over = {n: (lambda _near, n=n: RetryStore(far[n], ONCE)) for n in range(len(far))}
    world = World(tuple(islands.servers.values()), wraps=over)
    try:
        yield world
    finally:
        for island in islands.islands.values():
            await island.heal()
        for store in far:
            await store.close()
        await world.close()


@asynccontextmanager
async def in_vain(within_s: float = PATIENCE_S) -> AsyncGenerator[None, None]:
    """What cannot be done while a site is cut off ends, and says so."""
    began = SYSTEM_CLOCK.monotonic()
    with pytest.raises(Unavailable, match=r"did not answer|was cut short"):
        yield
    assert SYSTEM_CLOCK.monotonic() - began < within_s


async def is_proved(world: World) -> bool:
    return (await verify(world.sites, world.bucket, comparison=how())).is_identical


@pytest.mark.parametrize("lost", LOST)
async def test_a_cut_ends_a_sweep_and_healing_lets_it_go_on(
    control: Catalog, islands: Archipelago, lost: dict[str, bool]
) -> None:
    """Also where packets are lost in one direction only."""
    async with split(islands) as world:
        work = Ruled(control, world)
        await conflicting(work)
        await islands["site-b"].cut(**lost)
        world.put(2, "at c", b"x")
        async with in_vain():
            await work.run()
        await islands["site-b"].heal()
        await work.run()
        assert same(world.histories()) and len(world.history(0)) == 4
        assert [conflict.key for conflict in await work.ledger()] == ["k"]
        assert await is_proved(world)


@pytest.mark.parametrize("site", [0, 1])
async def test_a_cut_in_the_middle_of_a_body(islands: Archipelago, site: int) -> None:
    """Half-open: neither the source nor the target of a copy will ever hear of the other end."""
    async with split(islands) as world:
        body = new_bytes(24 * MIB)
        world.put(site, "big", body)
        whole = list(world.sites)
        cutting = Cutting(whole[site].store, islands["site-b"], after_bytes=4 * MIB)
        world.sites[site] = replace(whole[site], store=cutting)
        async with in_vain():
            await asyncio.wait_for(world.sweep(), 60)
        assert cutting.has_cut
        assert world.history(1 - site) == []
        await islands["site-b"].heal()
        world.sites[:] = whole
        assert (await world.sweep()).copied == 2
        assert same(world.histories()) and world.body(1 - site, "big") == body
        assert world.uploads(1 - site) == []
