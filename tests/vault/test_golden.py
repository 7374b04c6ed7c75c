"""Vaults of every version that was ever written: they must read for ever, and be written again."""

from pathlib import Path

import pytest
import zstandard

from entrepot.store.local import LocalStore
from entrepot.vault.reader import read_chunk, read_chunks
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import parse_page
from entrepot.vault.verify import verify
from tests.codec.test_golden import LIBZSTD
from tests.vault import independent, make_golden
from tests.vault.make_golden import GOLDEN, NAMES
from tests.vault.making import (
    ACME,
    BUCKET,
    CONTENT,
    PREFIX,
    PRIVATE,
    RING_KEYS,
    HeldRing,
    back_up,
    files_of,
    new_vault,
    place_of,
    with_files,
)

names = pytest.mark.parametrize("name", NAMES)


def ring_key(name: str, number: int) -> bytes:
    return RING_KEYS[name, number]


async def contents(vault: Vault) -> list[dict[str, bytes]]:
    """The bytes of each tree's entries by key."""
    index = await vault.index()
    found = []
    for name in await vault.names(Kind.SNAPSHOT):
        for tree in (await vault.snapshot(name)).trees:
            entries = [
                entry
                for page in tree.pages
                for entry in parse_page(await read_chunk(vault, index, page))
            ]
            found.append(
                {
                    entry.key: b"".join([c async for c in read_chunks(vault, index, entry.chunks)])
                    for entry in entries
                }
            )
    return found


@names
async def test_golden_vaults_are_read(name: str) -> None:
    files = make_golden.held(name)
    place = await with_files(files)
    by_ring = await Vault.open(place, HeldRing())
    assert await contents(by_ring) == [CONTENT, CONTENT]
    assert (await verify(by_ring)).proven_share == 1
    recipient = await Vault.open_as_recipient(place, PRIVATE)
    assert recipient.key == by_ring.key
    assert (await verify(recipient)).unreadable == (ACME,)


@names
@pytest.mark.parametrize("private", [None, PRIVATE])
def test_golden_vaults_are_read_from_the_docs(name: str, private: bytes | None) -> None:
    vault = independent.Vault(make_golden.held(name), ring_key, private)
    assert [entries for _, entries in vault.trees()] == [CONTENT, CONTENT]
    assert [tree["domain"] for tree, _ in vault.trees()] == [["", 0], ["acme", 3]]
    assert len(vault.records(3)) == 1
    assert list(vault.records(5).values()) == list(vault.records(2).values())


@names
async def test_golden_vaults_are_written(name: str) -> None:
    made, golden = await make_golden.made(name), make_golden.held(name)
    if LIBZSTD == zstandard.ZSTD_VERSION:
        assert made == golden
    else:  # other bytes for the same content, so other names of packs too
        entries = [
            [found for _, found in independent.Vault(files, ring_key).trees()]
            for files in (made, golden)
        ]
        assert entries[0] == entries[1]


def test_no_golden_vault_is_forgotten() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(NAMES)


async def test_a_vault_on_a_disk_is_read_with_the_keys_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.create(BUCKET)
    vault = await new_vault(await place_of(store))
    await back_up(vault)
    found = independent.Vault(await files_of(vault.place), ring_key)
    assert [entries for _, entries in found.trees()] == [CONTENT, CONTENT]
    assert found.key == vault.key
    assert PREFIX not in str(list(found.files))
    await store.close()
