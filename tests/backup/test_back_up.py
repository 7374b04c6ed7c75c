"""Buckets into vaults: all that a bucket holds, only what changed, and nothing half."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import shake_256

import pytest
from blake3 import blake3

from entrepot.backup.back_up import Backed, back_up
from entrepot.backup.parents import entries_of
from entrepot.errors import NotFound, Unavailable
from entrepot.objects.service import Objects
from entrepot.objects.source import bucket_source
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes
from entrepot.vault.reader import read_chunks
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Tree, ends_page
from entrepot.vault.source import Source, disjoint
from tests.objects.worlds import new_bucket_name

NOTES = Attributes("text/plain", {"who": "é"}, {"cache-control": "no-store"}, {"kind": "note"})


def body(name: str, size: int = 20_000) -> bytes:
    return shake_256(name.encode()).digest(size)


async def tree_of(vault: Vault, backed: Backed, name: str) -> Tree:
    snapshot = await vault.snapshot(backed.snapshot)
    return next(tree for tree in snapshot.trees if tree.name == name)


async def kept(vault: Vault, backed: Backed, name: str) -> dict[tuple[str, str], Entry]:
    index = await vault.index()
    tree = await tree_of(vault, backed, name)
    return {(e.key, e.version_id): e async for e in entries_of(vault, index, tree)}


async def bytes_of(vault: Vault, entry: Entry) -> bytes:
    index = await vault.index()
    found = b"".join([chunk async for chunk in read_chunks(vault, index, entry.chunks)])
    assert not entry.digest or blake3(found).digest() == entry.digest
    return found


async def filled(objects: Objects, *, adopted: bool = False) -> str:
    """A bucket with versions, a delete marker, an empty object and odd names."""
    name = new_bucket_name()
    if adopted:
        await objects.ground.store.create(name)
        await objects.adopt_bucket(name, tenant_id="acme")
    else:
        await objects.create_bucket(name, tenant_id="acme", encrypted=True, compressed=True)
    for n in range(3):
        await objects.put(name, "a/changed", body(f"changed {n}"))
    await objects.put(name, "a/é\u2028\nodd", body("odd", 300), wish=Wish(NOTES))
    await objects.put(name, "b/empty", b"")
    await objects.put(name, "b/gone", body("gone"))
    await objects.delete(name, "b/gone")
    return name


@pytest.mark.parametrize("adopted", [False, True], ids=["managed", "adopted"])
async def test_all_that_a_bucket_holds(objects: Objects, vault: Vault, adopted: bool) -> None:
    name = await filled(objects, adopted=adopted)
    (backed,) = await back_up([vault], [await bucket_source(objects.ground, name)])
    found = await kept(vault, backed, name)
    assert [entry.key for entry in found.values()] == [
        *(["a/changed"] * 3), "a/é\u2028\nodd", "b/empty", "b/gone", "b/gone"
    ]  # fmt: skip
    changed = [entry for entry in found.values() if entry.key == "a/changed"]
    assert [await bytes_of(vault, each) for each in changed] == [
        body(f"changed {n}") for n in (2, 1, 0)
    ]
    odd = next(entry for entry in found.values() if "odd" in entry.key)
    said = (odd.content_type, odd.metadata["who"], dict(odd.headers), dict(odd.tags))
    assert said == ("text/plain", "é", {"cache-control": "no-store"}, {"kind": "note"})
    marker, gone = [entry for entry in found.values() if entry.key == "b/gone"]
    assert marker.is_delete_marker and not gone.is_delete_marker
    assert (await tree_of(vault, backed, name)).settings["mode"] == (
        "adopted" if adopted else "managed"
    )
    assert ("stamp" in gone.extra) is not adopted


@pytest.mark.parametrize("adopted", [False, True], ids=["managed", "adopted"])
async def test_only_what_changed_is_read(objects: Objects, vault: Vault, adopted: bool) -> None:
    name = await filled(objects, adopted=adopted)
    source = await bucket_source(objects.ground, name)
    (first,) = await back_up([vault], [source])
    (again,) = await back_up([vault], [source])
    assert first.counts[name].read == 5 and again.counts[name].read == 0
    assert again.new_bytes == 0 and again.parent == first.snapshot
    assert (await tree_of(vault, again, name)).pages == (await tree_of(vault, first, name)).pages
    long = body("long", 200_000)  # many chunks of 16 KiB at most, wherever this vault cuts
    await objects.put(name, "b/long", long)
    await back_up([vault], [source])
    edited = long[:100_000] + b"edit" + long[100_000:]
    await objects.put(name, "b/long", edited)
    (third,) = await back_up([vault], [source])
    assert (third.counts[name].read, third.counts[name].read_bytes) == (1, len(edited))
    assert 0 < third.new_bytes < len(edited) / 2
    entry = next(e for e in (await kept(vault, third, name)).values() if e.key == "b/long")
    assert await bytes_of(vault, entry) == edited


async def test_changed_tags_are_kept_without_reading(objects: Objects, vault: Vault) -> None:
    name = await filled(objects)
    source = await bucket_source(objects.ground, name)
    await back_up([vault], [source])
    await objects.tag(name, "a/é\u2028\nodd", {"kind": "other"})
    (backed,) = await back_up([vault], [source])
    odd = next(e for e in (await kept(vault, backed, name)).values() if "odd" in e.key)
    assert backed.counts[name].read == 0 and dict(odd.tags) == {"kind": "other"}


async def test_prefixes(objects: Objects, vault: Vault) -> None:
    name = await filled(objects)
    source = await bucket_source(objects.ground, name, prefixes=("b/g", "a/", "a/c"))
    (backed,) = await back_up([vault], [source])
    keys = {key for key, _ in await kept(vault, backed, name)}
    assert keys == {"a/changed", "a/é\u2028\nodd", "b/gone"}
    whole = await bucket_source(objects.ground, name)
    (other,) = await back_up([vault], [whole])
    assert other.parent is None and other.new_bytes < 8_000  # pages alone


def test_prefixes_that_others_cover_go() -> None:
    assert disjoint(("b", "a/x", "a/", "b")) == ("a/", "b")
    assert disjoint(("a", "")) == ()


async def test_one_read_feeds_two_vaults(objects: Objects, vault: Vault) -> None:
    name = await filled(objects)
    place = replace(vault.place, prefix="vaults/two/")
    other = await Vault.create(place, objects.ground.ring, cutting=vault.file.cutting)
    source = Counting(await bucket_source(objects.ground, name))
    both = await back_up([vault, other], [source])
    assert source.opened == 5
    for each, backed in zip((vault, other), both, strict=True):
        found = await kept(each, backed, name)
        changed = next(entry for entry in found.values() if entry.key == "a/changed")
        assert await bytes_of(each, changed) == body("changed 2")
    await objects.put(name, "a/new", body("new"))
    await back_up([other], [source])
    near, far = await back_up([vault, other], [source])
    assert (near.counts[name].read, far.counts[name].read) == (1, 0)


class Counting:
    """A source that counts what is opened, and breaks where it is told to."""

    def __init__(self, source: Source, *, breaks_at: int = 0, missing: str = "") -> None:
        self._source = source
        self.kind, self.site, self.name = source.kind, source.site, source.name
        self.tenant, self.prefixes = source.tenant, source.prefixes
        self.opened, self._breaks_at, self._missing = 0, breaks_at, missing

    def entries(self) -> AsyncIterator[Entry]:
        return self._source.entries()

    async def settings(self) -> dict[str, str]:
        return dict(await self._source.settings())

    @asynccontextmanager
    async def open(self, entry: Entry) -> AsyncIterator[AsyncIterator[bytes]]:
        self.opened += 1
        if self.opened == self._breaks_at:
            raise Unavailable("the site went away")
        if entry.key == self._missing:
            raise NotFound("the version is gone")
        async with self._source.open(entry) as pieces:
            yield pieces


async def test_a_run_that_breaks_leaves_no_snapshot_and_loses_no_draft(
    objects: Objects, vault: Vault
) -> None:
    name = new_bucket_name()
    await objects.create_bucket(name, tenant_id="acme")
    keys = [f"{n:04d}" for n in range(600)]
    for key in keys:
        await objects.put(name, key, body(key, 500))
    source = Counting(await bucket_source(objects.ground, name), breaks_at=550)
    with pytest.raises(Unavailable, match="went away"):
        await back_up([vault], [source], draft_bytes=50_000)
    assert await vault.names(Kind.SNAPSHOT) == []
    assert await vault.names(Kind.DRAFT) != []
    again = Counting(await bucket_source(objects.ground, name))
    (backed,) = await back_up([vault], [again])
    assert again.opened < 500 and backed.counts[name].entries == 600
    assert await vault.names(Kind.DRAFT) == []
    found = await kept(vault, backed, name)
    assert [await bytes_of(vault, entry) for entry in list(found.values())[::97]] == [
        body(key, 500) for key in keys[::97]
    ]


async def test_a_version_that_goes_meanwhile_is_left_out_and_counted(
    objects: Objects, vault: Vault
) -> None:
    name = await filled(objects)
    source = Counting(await bucket_source(objects.ground, name), missing="a/changed")
    (backed,) = await back_up([vault], [source])
    assert backed.counts[name].vanished == 3
    assert "a/changed" not in {key for key, _ in await kept(vault, backed, name)}


async def test_a_pack_that_was_lost_is_stored_again(objects: Objects, vault: Vault) -> None:
    name = await filled(objects)
    source = await bucket_source(objects.ground, name)
    await back_up([vault], [source])
    for pack in [found.name async for found in vault.place.list("packs")]:
        await vault.place.remove(pack)
    (backed,) = await back_up([vault], [source])
    found = await kept(vault, backed, name)
    changed = next(entry for entry in found.values() if entry.key == "a/changed")
    assert await bytes_of(vault, changed) == body("changed 2")


class Waiting:
    """A source in which the end of the first page is read when the next page has begun."""

    kind, site, name, tenant = "bucket", "site-a", "waiting", ""

    def __init__(self) -> None:
        self.prefixes: tuple[str, ...] = ()
        self._keys = [f"{n:04d}" for n in range(600)]
        self._last = next(n for n, key in enumerate(self._keys) if ends_page(key))
        self._next_began = asyncio.Event()

    async def entries(self) -> AsyncIterator[Entry]:
        for key in self._keys:
            yield Entry(key, "1", 0, size_bytes=4, etag=key)

    async def settings(self) -> dict[str, str]:
        return {}

    @asynccontextmanager
    async def open(self, entry: Entry) -> AsyncIterator[AsyncIterator[bytes]]:
        if entry.key > self._keys[self._last]:
            self._next_began.set()
        if entry.key == self._keys[self._last]:
            await self._next_began.wait()
        yield _pieces(entry.key.encode())


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_page_is_read_while_the_one_before_it_ends(vault: Vault) -> None:
    async with asyncio.timeout(60):
        (backed,) = await back_up([vault], [Waiting()])
    found = await kept(vault, backed, "waiting")
    assert [key for key, _ in found] == [f"{n:04d}" for n in range(600)]
