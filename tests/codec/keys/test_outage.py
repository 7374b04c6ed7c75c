"""The outage contract with a real OpenBao that is stopped, sealed and started again."""

import time
from pathlib import Path

import pytest

from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import Unavailable
from tests.codec.keys.servers import BaoServer
from tests.codec.keys.tools import TTL_S, HandClock


async def test_reads_and_writes_outlast_a_stopped_vault(
    bao: BaoServer, tmp_path: Path, clock: HandClock
) -> None:
    root = bao.root()
    ring = KeyRing(tmp_path / "keys", root, ttl_s=TTL_S, clock=clock)
    key = await ring.current("acme")
    bao.stop()
    try:
        for _ in range(3):
            clock.pass_s(TTL_S / 3)
            assert await ring.get("acme", 1) == await ring.current("acme") == key
        assert ring.health.failed_refreshes > 0
        assert ring.health.failing_since
        with pytest.raises(Unavailable, match="vault does not answer"):
            await ring.current("new")
        clock.pass_s(1)
        for call in (ring.get("acme", 1), ring.current("acme")):
            with pytest.raises(Unavailable) as caught:
                await call
            assert "out of reach since 2026-05-04T12:0" in caught.value.message
            assert caught.value.fields["root"] == root.name
            assert "encryption.vault.address" in caught.value.hint
        bao.start_sealed()
        with pytest.raises(Unavailable, match="vault is sealed") as caught:
            await ring.get("acme", 1)
        assert caught.value.hint == "bao operator unseal"
        bao.unseal()
        assert await ring.get("acme", 1) == key
        assert await ring.current("acme") == key
        assert ring.health.failing_since is None
        assert (await ring.rotate("acme")).number == 2
    finally:
        await ring.close()
        bao.stop()
        bao.start()


async def test_by_the_machines_own_clock(bao: BaoServer, tmp_path: Path) -> None:
    """The same with real seconds, so that nothing rests on how a test moves its clock."""
    ring = KeyRing(tmp_path / "keys", bao.root(timeout_s=0.5), ttl_s=2.0)
    key = await ring.current("acme")
    started = time.monotonic()
    bao.stop()
    try:
        uses = 0
        with pytest.raises(Unavailable):
            while time.monotonic() < started + 10:
                assert await ring.current("acme") == key
                uses += 1
        assert 1.5 < time.monotonic() - started < 4
        assert uses > 100
    finally:
        bao.start()
    assert await ring.current("acme") == key
    await ring.close()
