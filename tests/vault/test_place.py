"""What a vault asks of a store, on servers: MinIO, and one that is not."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer
from entrepot.embedded.versity import VersityServer
from entrepot.errors import AlreadyExists, IntegrityError, LimitExceeded, NotFound
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store
from entrepot.testing.contract_tools import new_bucket
from entrepot.vault.place import VaultPlace
from entrepot.vault.repository import Vault
from entrepot.vault.verify import verify
from tests.codec.making import noise
from tests.vault.making import CONTENT, SMALL, HeldRing, back_up, files_of
from tests.vault.test_golden import contents

KINDS = {
    "memory": frozenset(),
    "minio": frozenset({Capability.CONDITIONAL_WRITE, Capability.TRAILER}),
    "minio-unprobed": frozenset(),
    "versity": frozenset({Capability.CONDITIONAL_WRITE}),
    "versity-unprobed": frozenset(),
}


@pytest.fixture(scope="module")
def versity(servers_dir: Path) -> Iterator[VersityServer]:
    server = VersityServer(
        servers_dir / "versity-vault", MinioCredentials(new_token(8), SecretStr(new_token(24)))
    )
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, minio_a: MinioServer) -> AsyncIterator[VaultPlace]:
    """An empty place in a new bucket."""
    kind = request.param.partition("-")[0]
    if kind == "memory":
        store: MemoryStore | RetryStore = MemoryStore()
    else:
        server = minio_a if kind == "minio" else request.getfixturevalue("versity")
        store = RetryStore(
            S3Store(
                endpoint=server.endpoint,
                access_key=server.access_key,
                secret_key=server.secret_key,
            )
        )
    bucket = await new_bucket(store)
    yield VaultPlace(store, bucket, "a vault/é/", KINDS[request.param])
    await store.close()


async def test_a_name_is_written_once(place: VaultPlace) -> None:
    await place.put("slots/a", b"one")
    for data in (b"one", b"two"):
        with pytest.raises(AlreadyExists):
            await place.put("slots/a", data)
    assert await place.read("slots/a") == b"one"
    await place.remove("slots/a")
    assert not await place.has("slots/a")
    await place.put("slots/a", b"two")
    assert await place.has("slots/a")


async def test_the_same_is_written_again(place: VaultPlace) -> None:
    large = noise(3 << 20)
    for _ in range(2):
        await place.put_same("packs/x", large)
    assert await place.read("packs/x") == large


async def test_ranges(place: VaultPlace) -> None:
    await place.put_same("packs/x", bytes(range(100)))
    assert await place.read_range("packs/x", 0, 100) == bytes(range(100))
    assert await place.read_range("packs/x", 7, 8) == b"\7"
    for start, stop in ((0, 101), (99, 101), (100, 101), (500, 600)):
        with pytest.raises(IntegrityError):
            await place.read_range("packs/x", start, stop)
    with pytest.raises(LimitExceeded):
        await place.read("packs/x", limit_bytes=99)
    for missing in (place.read("packs/y"), place.read_range("packs/y", 0, 1)):
        with pytest.raises(NotFound):
            await missing


async def test_long_listings(place: VaultPlace) -> None:
    names = [f"packs/{number % 256:02x}/{number:04}" for number in range(1010)]
    for at in range(0, len(names), 50):
        await asyncio.gather(*(place.put_same(name, b"x") for name in names[at : at + 50]))
    await place.put_same("packs-not", b"x")
    found = [each async for each in place.list("packs")]
    assert [each.name for each in found] == sorted(names)
    assert {each.size_bytes for each in found} == {1}
    assert [each async for each in place.list("indexes")] == []


async def test_a_vault_is_made_filled_read_and_verified(place: VaultPlace) -> None:
    ring = HeldRing()
    vault = await Vault.create(place, ring, cutting=SMALL)
    with pytest.raises(AlreadyExists):
        await Vault.create(place, ring)
    await back_up(vault)
    vault = await Vault.open(place, ring)
    assert await contents(vault) == [CONTENT, CONTENT]
    assert (await verify(vault)).proven_share == 1
    (name, *_) = (name for name in await files_of(place) if name.startswith("packs/"))
    await place.remove(name)
    assert name in [found.name for found in (await verify(vault)).missing]
