"""The version map: it spares requests, and wherever it is missing or wrong the objects count."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from entrepot.catalog.connect import Catalog
from entrepot.catalog.version_map import VersionMap
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.versity import VersityServer
from entrepot.replication.origins import copy_mark
from entrepot.replication.plan import Copy
from entrepot.replication.run import Force
from entrepot.replication.sweep import Range
from entrepot.replication.where import as_json, where
from entrepot.testing.faulty import FaultyStore
from tests.replication.ruled import Ruled
from tests.replication.test_versity import MINTED
from tests.replication.worlds import ALL, World, now_ms

Rows = Mapping[tuple[str, str], str]


class Mapped(World):
    """MinIO and versitygw, whose HEADs are counted and whose map is at hand."""

    def count_heads(self, control: Catalog) -> None:
        self.store = FaultyStore(self.stores[1], {})
        self.map = VersionMap(control, self.sites[1].name)
        self.sites[1] = replace(self.sites[1], store=self.store, version_map=self.map)

    async def heads(self) -> int:
        """The HEADs of a sweep that has nothing to do."""
        before = self.store.calls.count("head")
        totals = await self.sweep()
        assert (totals.copied, totals.marked, totals.failed, totals.moved) == (0, 0, 0, 0)
        return self.store.calls.count("head") - before

    async def rows(self) -> Rows:
        return await self.map.between(self.bucket, "", "")

    def bodies(self, key: str = "k") -> list[bytes]:
        return [self.body(site, key) for site in (0, 1)]

    def version_id(self, site: int, key: str = "k") -> str:
        return self.currents(site)[key].version_id


@pytest.fixture
async def world(
    minio_a: MinioServer, versity: VersityServer, control: Catalog
) -> AsyncIterator[Mapped]:
    made = Mapped((minio_a, versity), capabilities={0: ALL, 1: MINTED})
    made.count_heads(control)
    yield made
    await made.close()


def forged(world: Mapped, *, mtime_ms: int, source_version: str = "forged") -> str:
    """A mark whose proof is right, on what the minting site serves as ``k``."""
    head = world.currents(1)["k"]
    copy = Copy("k", 0, source_version, (), "", mtime_ms, head.size_bytes, head.etag.strip('"'))
    return copy_mark(copy, bucket=world.bucket)


async def test_a_sweep_that_finds_nothing_asks_no_object(world: Mapped) -> None:
    for site in (0, 1):
        for number in range(5):
            world.put(site, f"from-{site}/{number}", b"x" * number)
    world.put_parts(0, "parts", bytes(5 * 1024 * 1024), b"tail")
    assert (await world.sweep()).copied == 11
    assert await world.heads() == 0
    world.put(0, "from-1/0", b"changed")
    world.delete(0, "from-0/0")
    await world.sweep()
    assert world.bodies("from-1/0") == [b"changed"] * 2
    assert await world.heads() == 0


async def test_a_map_that_is_lost_comes_back(world: Mapped) -> None:
    world.put(0, "k", b"copied")
    world.put(1, "own", b"x")
    await world.sweep()
    kept = await world.rows()
    assert sorted((key, bool(mark)) for (key, _), mark in kept.items()) == [
        ("k", True),
        ("own", False),
    ]
    await world.map.forget(world.bucket, "", "")
    assert await world.heads() == 2
    assert await world.rows() == kept
    assert await world.heads() == 0


@pytest.mark.parametrize("wrong", ["later", "earlier", "no copy", "garbled", "of another version"])
async def test_a_wrong_row_is_noticed_and_mended(world: Mapped, wrong: str) -> None:
    world.put(0, "k", b"other bytes")
    await world.sweep()
    of_another = (await world.rows())["k", world.version_id(1)]
    world.put(0, "k", b"first")
    await world.sweep()
    right, named = await world.rows(), ("k", world.version_id(1))
    garbled = f"{world.version_id(0)} {now_ms() + 1000} {right[named].rpartition(' ')[2]}"
    mark = {
        "later": forged(world, mtime_ms=now_ms() + 1000),
        "earlier": forged(world, mtime_ms=1000),
        "no copy": "",
        "garbled": garbled,
        "of another version": of_another,
    }[wrong]
    before = world.histories()
    await world.map.keep(world.bucket, {named: mark})
    assert await world.heads() > 0
    assert world.histories() == before
    assert await world.rows() == right
    # Whom the row would have win: what was written since, or what had been there before.
    await world.map.keep(world.bucket, {named: mark})
    world.put(0, "k", b"second")
    await world.sweep()
    assert world.bodies() == [b"second"] * 2
    assert await world.heads() == 0


async def test_a_row_that_hides_a_change_is_found_by_the_comparison(
    world: Mapped, control: Catalog
) -> None:
    """Same bytes, other metadata: all that a wrong row with a right proof can hide."""
    world.put(0, "k", b"same", Metadata={"n": "1"})
    await world.sweep()
    world.put(0, "k", b"same", Metadata={"n": "2"}, Tagging="t=2")
    second = world.currents(0)["k"]
    mark = forged(world, mtime_ms=second.mtime_ms, source_version=second.version_id)
    await world.map.keep(world.bucket, {("k", world.version_id(1)): mark})
    assert await world.heads() == 0
    work = Ruled(control, world)
    await work.run(force=Force(traits=True))
    assert mark not in (await world.rows()).values()
    assert "tags" not in world.view(1)["k"]["metadata"]
    assert world.view(1)["k"]["tags"] == []  # of a version that it does not have
    await world.sweep()
    found = world.view(1)["k"]
    assert (found["metadata"]["n"], found["tags"]) == ("2", [("t", "2")])


async def test_what_is_gone_is_forgotten(world: Mapped) -> None:
    for key in ("a/1", "b/1", "b/2", "c"):
        world.put(0, key, b"x")
    await world.sweep()

    def remove(key: str) -> None:
        for site in (0, 1):
            of = {"Key": key, "VersionId": world.version_id(site, key)}
            world.s3[site].delete_object(Bucket=world.bucket, **of)

    remove("b/1")
    remove("c")
    await world.sweep(keys=Range(prefix="a/"))
    await world.sweep(dry_run=True)
    assert len(await world.rows()) == 4
    await world.sweep()
    assert sorted(key for key, _ in await world.rows()) == ["a/1", "b/2"]


async def test_the_order_of_a_history_is_kept(world: Mapped) -> None:
    pairs = {}
    for number in range(3):
        world.put(0, "k", f"{number}".encode())
        await world.sweep()
        pairs[world.version_id(1)] = world.version_id(0)
    (oldest, *_) = sorted(entry.mtime_ms for entry in world.history(0))
    late = await world.put_at(0, "k", b"late", mtime_ms=oldest - 1000)
    assert await world.heads() == 0  # older than what is served, so no business of that site
    assert world.bodies() == [b"2", b"2"]
    found = await where(world.sites, world.bucket, "k", catalogs={})
    first, second = as_json(found, bucket=world.bucket, key="k")["sites"]
    assert {each["version_id"]: each["elsewhere"] for each in second["versions"]} == pairs
    ordered = [each["version_id"] for each in first["versions"]]
    assert ordered == [*reversed(pairs.values()), late]
    assert {each["elsewhere"] for each in first["versions"]} == {None}


async def test_where_asks_the_object_that_is_not_in_the_map(world: Mapped) -> None:
    world.put(1, "k", b"own")
    await world.sweep()
    await world.map.forget(world.bucket, "", "")
    found = await where(world.sites, world.bucket, "k", catalogs={})
    [_, there] = found.answers
    assert found.agree
    assert dict(there.elsewhere) == {world.version_id(1): world.version_id(0)}
