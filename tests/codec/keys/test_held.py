"""How keys are held: one unwrap for many, the outage contract, what others did, memory."""

import asyncio
from pathlib import Path

import pytest

from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import (
    NotFound,
    PermanentError,
    Throttled,
    Unavailable,
)
from tests.codec.keys.tools import (
    TTL_S,
    HandClock,
    SwitchRoot,
    another,
    file_of,
)


async def test_concurrent_first_uses_unwrap_once(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    await ring.current("acme")
    cold = another(ring, root, clock)
    root.unwraps = 0
    root.open.clear()
    calls = [cold.get("acme", 1) for _ in range(50)] + [cold.current("acme") for _ in range(50)]
    waiting = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0.05)
    waiting[0].cancel()  # one who gives up does not end it for the others
    root.open.set()
    found = await asyncio.gather(*waiting[1:])
    assert len(set(found)) == 1
    assert root.unwraps == 1


async def test_a_failed_first_use_fails_for_all_and_is_tried_again(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    await ring.current("acme")
    cold = another(ring, root, clock)
    root.switch_off()
    found = await asyncio.gather(*(cold.get("acme", 1) for _ in range(9)), return_exceptions=True)
    assert {type(each) for each in found} == {Unavailable}
    root.switch_on()
    assert await cold.get("acme", 1) == await ring.get("acme", 1)


async def test_up_to_half_its_time_a_key_is_not_asked_for(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    await ring.current("acme")
    root.unwraps = 0
    clock.pass_s(TTL_S / 2)
    await ring.current("acme")
    assert root.unwraps == 0
    clock.pass_s(1)
    await ring.current("acme")
    assert root.unwraps == 1
    clock.pass_s(TTL_S / 2)
    await ring.current("acme")
    assert root.unwraps == 1, "the refresh counts from itself on"


async def test_during_an_outage_a_key_lasts_its_time_and_not_longer(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    key = await ring.current("acme")
    clock.pass_s(TTL_S / 2 + 1)
    root.switch_off()
    since = clock.now()
    root.unwraps = 0
    for _ in range(100):
        assert await ring.current("acme") == await ring.get("acme", 1) == key
    assert root.unwraps == 1, "a root that is down is not asked by every request"
    assert ring.health.failed_refreshes == 1
    assert ring.health.failing_since == since
    clock.pass_s(TTL_S / 2 - 1)
    assert await ring.current("acme") == key
    clock.pass_s(0.001)
    for call in (ring.current("acme"), ring.get("acme", 1)):
        with pytest.raises(Unavailable, match="out of reach since 2026-05-04T12:02:31") as caught:
            await call
        assert caught.value.fields["root"] == root.name
        assert "bring" in caught.value.hint
    root.switch_on()
    assert await ring.current("acme") == key
    assert ring.health.failing_since is None


async def test_an_outage_stops_new_tenants_and_rotations_at_once(
    ring: KeyRing, root: SwitchRoot, directory: Path
) -> None:
    await ring.current("acme")
    root.switch_off()
    for call in (ring.current("new"), ring.rotate("acme")):
        with pytest.raises(Unavailable):
            await call
    root.failure = Throttled("slow down")
    with pytest.raises(Throttled):
        await ring.current("new")
    assert ring.tenants() == ["acme"]


async def test_a_refusal_inside_the_time_counts_as_a_failed_refresh(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    """A ring whose disk goes away, or a token that ends, is an outage like another."""
    path = file_of(ring, await ring.current("acme"))
    path.rename(path.with_suffix(".away"))
    clock.pass_s(TTL_S * 0.6)
    await ring.get("acme", 1)
    assert ring.health.failed_refreshes == 1
    clock.pass_s(TTL_S)
    with pytest.raises(NotFound):
        await ring.get("acme", 1)


async def test_a_rotation_elsewhere_is_seen_in_time(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    old = await ring.current("acme")
    new = await another(ring, root, clock).rotate("acme")
    assert await ring.current("acme") == old
    assert await ring.get("acme", 2) == new, "what another wrote with it can be read at once"
    clock.pass_s(TTL_S)
    assert await ring.current("acme") == new


async def test_a_rotation_elsewhere_during_an_outage_keeps_the_old_key_in_use(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    old = await ring.current("acme")
    await another(ring, root, clock).rotate("acme")
    root.switch_off()
    clock.pass_s(TTL_S)
    assert await ring.current("acme") == old
    clock.pass_s(1)
    with pytest.raises(Unavailable):
        await ring.current("acme")


async def test_a_shred_elsewhere_is_seen_in_time_also_during_an_outage(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    await ring.current("acme")
    await ring.current("gone")
    other = another(ring, root, clock)
    await other.shred("acme", number=1)
    await other.shred("gone")
    root.switch_off()
    clock.pass_s(TTL_S / 2 + 1)
    with pytest.raises(PermanentError, match="was shredded"):
        await ring.get("acme", 1)
    with pytest.raises(PermanentError, match="shredded"):
        await ring.current("gone")
    root.switch_on()
    assert (await ring.current("acme")).number == 2


async def test_memory_is_bounded_and_the_least_used_goes(
    directory: Path, root: SwitchRoot, clock: HandClock
) -> None:
    ring = KeyRing(directory, root, keys_max=3, clock=clock)
    for tenant in "abc":
        await ring.current(tenant)
    await ring.current("a")
    await ring.current("d")
    root.unwraps = 0
    for tenant in "acd":
        await ring.get(tenant, 1)
    assert root.unwraps == 0
    await ring.get("b", 1)
    assert root.unwraps == 1
