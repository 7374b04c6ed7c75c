"""Keys that are made gone for ever, and keys that move to another root."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from entrepot.codec.keys import files, record
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.record import TenantKey
from entrepot.codec.keys.ring import KeyRing, KeyState
from entrepot.errors import (
    NotFound,
    PermanentError,
    Unavailable,
)
from tests.codec.keys.servers import BaoServer, KmsServer
from tests.codec.keys.tools import (
    TTL_S,
    HandClock,
    SwitchRoot,
    all_keys,
    another,
    bytes_below,
    file_of,
)

# --- shred


async def test_a_shredded_key_is_gone_for_ever(
    ring: KeyRing, directory: Path, root: SwitchRoot, clock: HandClock
) -> None:
    first, second = await ring.current("acme"), await ring.rotate("acme")
    wrapped = json.loads(file_of(ring, first).read_text())["wrapped"].encode()
    assert await ring.shred("acme", number=1) == (1,)
    assert wrapped not in bytes_below(directory)
    for each in (ring, another(ring, root, clock)):
        with pytest.raises(PermanentError, match="was shredded") as caught:
            await each.get("acme", 1)
        assert type(caught.value) is PermanentError
        assert await each.get("acme", 2) == second
        assert await each.current("acme") == second
    shown = ring.describe("acme")
    assert [info.state for info in shown] == [KeyState.SHREDDED, KeyState.ACTIVE]
    assert shown[0].shredded == clock.now()
    assert await ring.shred("acme", number=1) == (1,), "again is no error"


async def test_a_shredded_number_is_not_used_again(ring: KeyRing) -> None:
    await ring.current("acme")
    await ring.shred("acme", number=1)
    assert (await ring.current("acme")).number == 2
    await ring.shred("acme", number=2)
    assert (await ring.rotate("acme")).number == 3


async def test_a_shredded_tenant_gets_no_keys_any_more(
    ring: KeyRing, directory: Path, root: SwitchRoot, clock: HandClock
) -> None:
    await ring.current("acme")
    await ring.rotate("acme")
    assert await ring.shred("acme") == (1, 2)
    assert b"wrapped" not in bytes_below(directory)
    for each in (ring, another(ring, root, clock)):
        for call in (each.current("acme"), each.rotate("acme"), each.get("acme", 2)):
            with pytest.raises(PermanentError, match="shredded"):
                await call
    assert {info.state for info in ring.describe("acme")} == {KeyState.SHREDDED}


async def test_what_the_ring_never_had_is_not_shredded(ring: KeyRing) -> None:
    await ring.current("acme")
    for call in (ring.shred("acme", number=2), ring.shred("acm")):
        with pytest.raises(NotFound, match="to shred"):
            await call
    assert ring.tenants() == ["acme"]


async def test_a_tombstone_wins_over_a_file_that_is_put_back(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    path = file_of(ring, await ring.current("acme"))
    copy = path.read_bytes()
    await ring.shred("acme", number=1)
    files.publish(path, copy)
    with pytest.raises(PermanentError, match="was shredded"):
        await another(ring, root, clock).get("acme", 1)
    await ring.shred("acme", number=1)
    assert not path.exists()


async def test_a_tombstone_wins_over_a_late_writer(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    """A rotation that took its number before the shred puts its key in place after it."""
    await ring.current("acme")
    late = await record.wrap(root, TenantKey("acme", 2, bytes(32)), created=clock.now())
    await ring.shred("acme")
    with pytest.raises(PermanentError, match="shredded"):
        ring.directory.add(late)
    ring.directory.replace(late)
    assert b"wrapped" not in bytes_below(ring.directory.path)


async def test_an_empty_tombstone_is_one(ring: KeyRing, clock: HandClock) -> None:
    path = file_of(ring, await ring.current("acme"))
    path.with_suffix(".shredded").touch()
    clock.pass_s(TTL_S + 1)
    with pytest.raises(PermanentError, match="was shredded"):
        await ring.get("acme", 1)
    assert ring.describe("acme")[0].shredded is None


async def test_a_shred_takes_what_killed_writers_left(ring: KeyRing) -> None:
    path = file_of(ring, await ring.current("acme"))
    left = path.with_name(".1.json.0011223344556677")
    left.write_bytes(path.read_bytes())
    await ring.shred("acme", number=1)
    assert not left.exists()


async def test_a_fetch_under_way_does_not_bring_a_shredded_key_back(
    ring: KeyRing, root: SwitchRoot, clock: HandClock
) -> None:
    await ring.current("acme")
    clock.pass_s(TTL_S + 1)
    root.open.clear()
    late = asyncio.ensure_future(ring.get("acme", 1))
    await asyncio.sleep(0.05)
    await ring.shred("acme", number=1)
    root.open.set()
    await late  # asked before the shred
    with pytest.raises(PermanentError, match="was shredded"):
        await ring.get("acme", 1)


# --- rewrap


async def test_rewrap_moves_every_key_to_another_root(ring: KeyRing, clock: HandClock) -> None:
    await ring.rotate("acme")
    await ring.rotate("acme")
    await ring.current("other")
    await ring.shred("acme", number=1)
    before = await all_keys(ring)
    created = [info.created for info in ring.describe("acme")]
    new_root = LocalRoot(bytes(32))
    assert await ring.rewrap(new_root) == 2
    assert await ring.rewrap(new_root) == 0
    later = KeyRing(ring.directory.path, new_root, clock=clock)
    assert await all_keys(later) == before
    assert {info.root for info in later.describe("acme")} == {None, new_root.name}
    assert [info.created for info in later.describe("acme")] == created
    assert (await ring.rotate("acme")).number == 3, "the ring itself goes on with the new root"
    assert (await later.get("acme", 3)) == await ring.current("acme")


async def test_rewrap_stops_at_a_root_that_fails_and_goes_on_later(ring: KeyRing) -> None:
    for tenant in ("a", "b", "c"):
        await ring.current(tenant)
    before = await all_keys(ring)

    class Tiring(SwitchRoot):
        async def wrap(self, secret: bytes, *, context: str) -> bytes:
            if context.endswith("b"):
                self.switch_off()
            return await super().wrap(secret, context=context)

    new_root = Tiring(bytes(32))
    with pytest.raises(Unavailable):
        await ring.rewrap(new_root)
    roots = {info.root for tenant in "abc" for info in ring.describe(tenant)}
    assert roots == {new_root.name, ring.health.root}
    assert await ring.rewrap(LocalRoot(bytes(32))) == 2
    assert await all_keys(ring) == before


async def test_rewrap_notices_another_root_of_the_same_name(ring: KeyRing) -> None:
    class Namesake(SwitchRoot):
        def __init__(self, key: bytes, name: str) -> None:
            super().__init__(key)
            self.name = name

    await ring.current("acme")
    before = await all_keys(ring)
    assert await ring.rewrap(Namesake(bytes(32), ring.health.root)) == 1
    assert await all_keys(ring) == before


async def test_rewrap_sweeps_what_killed_writers_left(ring: KeyRing, clock: HandClock) -> None:
    path = file_of(ring, await ring.current("acme"))
    old, new = (path.with_name(f".1.json.{n}") for n in "12")
    for left, age_s in ((old, 3700), (new, 3500)):
        left.write_text("{")
        written = clock.now().timestamp() - age_s
        os.utime(left, (written, written))
    await ring.rewrap(LocalRoot(bytes(32)))
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("way", ["vault to kms", "kms to vault"])
async def test_rewrap_between_real_services(
    directory: Path, bao: BaoServer, kms: KmsServer, way: str
) -> None:
    old, new = (bao.root(), kms.root()) if way == "vault to kms" else (kms.root(), bao.root())
    ring = KeyRing(directory, old)
    await ring.rotate("acme")
    await ring.rotate("acme")
    before = await all_keys(ring)
    assert await ring.rewrap(new) == 2
    await old.close()
    later = KeyRing(directory, new)
    assert await all_keys(later) == before
    await later.close()
