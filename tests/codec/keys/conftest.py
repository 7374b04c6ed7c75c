"""Servers that keep root keys, one of each for the session; rings whose clock the tests move."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from entrepot.codec.keys.ring import KeyRing
from tests.codec.keys.servers import BaoServer, KmsServer
from tests.codec.keys.tools import TTL_S, HandClock, SwitchRoot


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def root() -> SwitchRoot:
    return SwitchRoot()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the ring lies; made by it."""
    return tmp_path / "keys"


@pytest.fixture
async def ring(directory: Path, root: SwitchRoot, clock: HandClock) -> AsyncIterator[KeyRing]:
    """A new ring."""
    ring = KeyRing(directory, root, ttl_s=TTL_S, clock=clock)
    yield ring
    await ring.close()


@pytest.fixture(scope="session")
def bao(servers_dir: Path) -> Iterator[BaoServer]:
    """A running OpenBao."""
    server = BaoServer(servers_dir / "bao")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def kms(servers_dir: Path) -> Iterator[KmsServer]:
    """A running key service."""
    server = KmsServer(servers_dir / "kms")
    try:
        yield server.start()
    finally:
        server.stop()
