"""Ours in ``bench.backup``: one process that backs up into a vault, or checks it.

    python -m bench.vaults WORK.json

Connections are open before its clock starts; opening the vault and publishing the snapshot are
within. It ends with one JSON line.
"""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import click
import uvloop
from pydantic import SecretStr

from bench.measure import Endpoint
from entrepot.backup.back_up import back_up
from entrepot.backup.parents import entries_of
from entrepot.catalog.connect import Catalog
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import IntegrityError
from entrepot.objects.ground import Ground
from entrepot.objects.service import Objects
from entrepot.objects.source import bucket_source
from entrepot.store.protocol import Capability
from entrepot.store.s3 import S3Store
from entrepot.vault.place import VAULT_FILE, VaultPlace
from entrepot.vault.reader import read_chunks
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault

CONNECTIONS = 16
POOL = 6


@dataclass(frozen=True, slots=True)
class Work:
    """What the process is told: one verb of ``VERBS``, and where."""

    source: Endpoint
    target: Endpoint
    dsn: str
    keys: str
    verb: str
    bucket: str
    vault: str

    @classmethod
    def load(cls, path: Path) -> "Work":
        told = json.loads(path.read_text())
        source, target = Endpoint(**told.pop("source")), Endpoint(**told.pop("target"))
        return cls(source=source, target=target, **told)


Said = dict[str, float]


async def save(work: Work, objects: Objects, place: VaultPlace) -> Said:
    """A backup, into a new vault where there is none: what it took, read, and has now."""
    ring = objects.ground.ring
    await objects.adopt_bucket(work.bucket, tenant_id="bench")
    await ring.current("bench")
    if not await place.has(VAULT_FILE):
        await Vault.create(place, ring)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    vault = await Vault.open(place, ring)
    [backed] = await back_up([vault], [await bucket_source(objects.ground, work.bucket)])
    took = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
    pages = place.store.list(place.bucket)
    stored_bytes = sum([each.size_bytes async for page in pages for each in page.versions])
    return {**took, "read": backed.counts[work.bucket].read, "stored_bytes": stored_bytes}


async def check(_work: Work, objects: Objects, place: VaultPlace) -> Said:
    """Every byte of the newest snapshot read back; ``IntegrityError`` where it is not its MD5."""
    vault = await Vault.open(place, objects.ground.ring)
    index = await vault.index()
    snapshot = await vault.snapshot((await vault.names(Kind.SNAPSHOT))[-1])
    entries = size_bytes = 0
    for tree in snapshot.trees:
        async for entry in entries_of(vault, index, tree):
            digest = md5(usedforsecurity=False)
            async for chunk in read_chunks(vault, index, entry.chunks):
                digest.update(chunk)
                size_bytes += len(chunk)
            if digest.hexdigest() != entry.etag:
                raise IntegrityError("the vault has other bytes", key=entry.key)
            entries += 1
    return {"entries": entries, "bytes": size_bytes}


VERBS: Mapping[str, Callable[[Work, Objects, VaultPlace], Awaitable[Said]]] = {
    "save": save,
    "check": check,
}


@asynccontextmanager
async def _store(endpoint: Endpoint) -> AsyncGenerator[S3Store, None]:
    store = S3Store(
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=SecretStr(endpoint.secret_key),
        max_connections=CONNECTIONS,
    )
    try:
        yield store
    finally:
        await store.close()


async def _done(work: Work) -> Said:
    root = Path(work.keys) / "root.key"
    if not root.exists():
        LocalRoot.create_file(root)
    ring = KeyRing(Path(work.keys) / "ring", LocalRoot.from_file(root))
    async with (
        _store(work.source) as source,
        _store(work.target) as target,
        Catalog.open(work.dsn, pool_size=POOL) as catalog,
    ):
        everything = frozenset(Capability)
        place = VaultPlace(target, work.vault, capabilities=everything)
        try:
            async with Objects.open(Ground("site-a", source, catalog, ring, everything)) as objects:
                return await VERBS[work.verb](work, objects, place)
        finally:
            await ring.close()


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
def main(*, work: Path) -> None:
    """Do one work."""
    print(json.dumps(uvloop.run(_done(Work.load(work)))))


if __name__ == "__main__":
    main()
