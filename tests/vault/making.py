"""Small vaults for the tests: their chunks have some 256 bytes, their packs 4 KiB."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import shake_256

from entrepot.clock import SYSTEM_CLOCK, Clock, new_bytes
from entrepot.codec.keys.record import TenantKey
from entrepot.codec.keys.ring import KeyRing
from entrepot.codec.primitives import Random
from entrepot.errors import NotFound
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import ObjectStore
from entrepot.vault.chunks import Chunk
from entrepot.vault.intake import Intake
from entrepot.vault.keys import OWN, Cutting, Domain
from entrepot.vault.packs import pack_id
from entrepot.vault.place import VaultPlace
from entrepot.vault.records import Kind
from entrepot.vault.repository import RING_NAME, Vault, pack_name
from entrepot.vault.snapshots import Entry, Snapshot, Tree, dump_page
from entrepot.vault.writer import Writer, writing
from tests.codec.making import noise, text

SMALL = Cutting(64, 256, 1024, 4096)
BUCKET, PREFIX = "backups", "v/"
ACME = Domain("acme", 3)
RING_KEYS = {
    (name, 3): shake_256(f"ring key {name}".encode()).digest(32) for name in (RING_NAME, "acme")
}
PRIVATE = shake_256(b"a recipient's private key").digest(32)


class HeldRing(KeyRing):
    """A ring whose keys are given, since golden vaults need keys that follow from names."""

    def __init__(self, held: Mapping[tuple[str, int], bytes] = RING_KEYS) -> None:
        self.held = dict(held)

    async def get(self, tenant: str, number: int) -> TenantKey:
        if (tenant, number) not in self.held:
            raise NotFound("no such key", tenant=tenant, number=number)
        return TenantKey(tenant, number, self.held[tenant, number])

    async def current(self, tenant: str) -> TenantKey:
        return await self.get(tenant, max(n for name, n in self.held if name == tenant))


class Steps:
    """A clock that goes on by a second each time it is asked."""

    def __init__(self) -> None:
        self._now = datetime(2026, 11, 25, 22, 45, tzinfo=UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()


async def place_of(store: ObjectStore | None = None) -> VaultPlace:
    """An empty place, in memory unless a store is given that has the bucket."""
    if store is None:
        store = memory = MemoryStore()
        await memory.create(BUCKET)
    return VaultPlace(store, BUCKET, PREFIX)


async def new_vault(
    place: VaultPlace | None = None,
    *,
    ring: KeyRing | None = None,
    clock: Clock = SYSTEM_CLOCK,
    random: Random = new_bytes,
) -> Vault:
    return await Vault.create(
        place or await place_of(), ring or HeldRing(), cutting=SMALL, clock=clock, random=random
    )


async def pieces(data: bytes, cuts: Iterable[int] = ()) -> AsyncIterator[bytes]:
    start = 0
    for stop in (*sorted(cuts), len(data)):
        yield data[start:stop]
        start = stop


async def store_bytes(
    writer: Writer, vault: Vault, data: bytes, domain: Domain = OWN
) -> tuple[bytes, ...]:
    """The ids of a stream's chunks, stored."""
    keys = await vault.keys_of(domain)
    intake = Intake(writer, keys)
    async for piece in pieces(data):
        await intake.feed(piece)
    return await intake.finish()


CONTENT = {
    "2026/a b/é.jpg": noise(1500, seed="photo"),
    "2026/notes\u2028and\nmore.txt": text(6000, seed="notes"),
    "empty": b"",
    "twice": noise(1500, seed="photo"),
}
"""What a small vault holds, by key, under each of two domains."""


async def back_up(vault: Vault, content: Mapping[str, bytes] = CONTENT) -> str:
    """Put ``content`` into both domains; the name of the snapshot."""
    trees = []
    async with writing(vault) as writer:
        for domain in (OWN, ACME):
            entries = [
                Entry(
                    key=key,
                    version_id=f"v{number}",
                    mtime_ms=1_764_000_000_000 + number,
                    size_bytes=len(content[key]),
                    chunks=await store_bytes(writer, vault, content[key], domain),
                    metadata={"a": "ä"} if number else {},
                )
                for number, key in enumerate(sorted(content, key=str.encode))
            ]
            page = await store_page(writer, vault, entries, domain)
            trees.append(
                Tree(
                    "bucket",
                    "main",
                    "photos",
                    domain,
                    entries=len(entries),
                    size_bytes=sum(map(len, content.values())),
                    pages=(page,),
                )
            )
    snapshot = Snapshot(1_764_000_000_000, 1_764_000_001_000, tuple(trees), tags={"by": "tests"})
    return await vault.write(Kind.SNAPSHOT, snapshot.dump())


async def store_page(
    writer: Writer, vault: Vault, entries: Sequence[Entry], domain: Domain
) -> bytes:
    keys = await vault.keys_of(domain)
    data = dump_page(entries)
    (page,) = await writer.store([Chunk(keys.chunk_id(data), data)], keys)
    return page


async def files_of(place: VaultPlace) -> dict[str, bytes]:
    """Every object of a vault by its name."""
    found = {}
    async for page in place.store.list(place.bucket, prefix=place.prefix):
        for version in page.versions:
            name = version.key[len(place.prefix) :]
            found[name] = await place.read(name)
    return found


async def with_files(files: Mapping[str, bytes]) -> VaultPlace:
    """A place in memory with just those objects."""
    place = await place_of()
    for name, data in files.items():
        await place.store.put(BUCKET, PREFIX + name, data)
    return place


def renamed_pack(data: bytes) -> str:
    """Where a pack of those bytes lies."""
    return pack_name(pack_id(data))
