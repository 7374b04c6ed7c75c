"""What a verification finds: restic's list of damages, each by its name; and shares."""

from collections.abc import Mapping

import pytest

from entrepot.errors import InvalidInput, Unavailable
from entrepot.testing.faulty import OK, FaultyStore, Refuse
from entrepot.vault.index import Index
from entrepot.vault.keys import OWN
from entrepot.vault.packs import PackWriter, domain_of, layout
from entrepot.vault.place import VaultPlace
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault, pack_name
from entrepot.vault.snapshots import Entry, Snapshot, Tree
from entrepot.vault.verify import LISTED, Budget, Level, check_pack, pack_of, planned, verify
from entrepot.vault.writer import writing
from tests.codec.making import noise
from tests.vault.making import (
    BUCKET,
    CONTENT,
    PREFIX,
    HeldRing,
    back_up,
    files_of,
    new_vault,
    store_bytes,
    store_page,
    with_files,
)
from tests.vault.test_golden import contents

Files = dict[str, bytes]


@pytest.fixture
async def files() -> Files:
    """The objects of a vault of two generations."""
    vault = await new_vault()
    await back_up(vault)
    await back_up(vault, {**CONTENT, "new": noise(9000)})
    return await files_of(vault.place)


async def vault_of(files: Mapping[str, bytes]) -> Vault:
    return await Vault.open(await with_files(files), HeldRing())


def in_folder(files: Mapping[str, bytes], folder: str) -> list[str]:
    return sorted(name for name in files if name.startswith(folder))


async def test_a_sound_vault_is_called_so(files: Files) -> None:
    vault = await vault_of(files)
    for level in Level:
        report = await verify(vault, level)
        assert report.is_sound
        assert (report.unreferenced, report.unreadable, report.unlisted) == ((), (), 0)
        assert report.snapshots == 2
        assert report.packs == len(in_folder(files, "packs"))
        assert report.proven_share == (1 if level is Level.READ else 0)
        assert (report.used_chunks == report.chunks) == (level >= Level.CLOSURE)
    empty = await verify(await new_vault())
    assert (empty.is_sound, empty.proven_share, empty.packs) == (True, 1, 0)


async def test_a_missing_pack(files: Files) -> None:
    for name in in_folder(files, "packs"):
        vault = await vault_of({key: data for key, data in files.items() if key != name})
        for level in Level:
            report = await verify(vault, level)
            assert name in [found.name for found in report.missing]
            assert not report.is_sound
        assert report.proven_share < 1


async def test_a_missing_pack_whose_chunks_were_stored_again(files: Files) -> None:
    """It is missing all the same, but no key needs it any more."""
    name = in_folder(files, "packs")[0]
    vault = await vault_of({key: data for key, data in files.items() if key != name})
    lost = [found.name for found in (await verify(vault, Level.CLOSURE)).missing]
    assert len(lost) > 1  # also what is hit by it
    await back_up(vault)
    await back_up(vault, {**CONTENT, "new": noise(9000)})
    report = await verify(vault)
    assert [found.name for found in report.missing] == [name]
    assert (await contents(vault))[-1] == {**CONTENT, "new": noise(9000)}


async def test_a_pack_of_another_length(files: Files) -> None:
    (name, *_) = in_folder(files, "packs")
    for data in (files[name][:-1], files[name] + b"x", b""):
        vault = await vault_of({**files, name: data})
        assert [f.name for f in (await verify(vault, Level.LISTING)).damaged] == [name]


async def test_a_missing_index_and_a_pack_without_one(files: Files) -> None:
    """The packs are there, no index names them; what they hold can be had from themselves."""
    indexes = in_folder(files, "indexes")
    vault = await vault_of({name: data for name, data in files.items() if name not in indexes})
    assert list((await verify(vault, Level.LISTING)).unreferenced) == in_folder(files, "packs")
    report = await verify(vault, Level.CLOSURE)
    assert {"page" in found.name for found in report.missing} == {True}
    packs = []
    for name in in_folder(files, "packs"):
        data = files[name]
        head = data[: layout(data[-10:], pack_bytes=len(data)).header_bytes]
        packs.append(pack_of(data, await vault.keys_of(domain_of(head))))
    await vault.write_index(packs)
    assert (await verify(vault)).proven_share == 1
    assert (await contents(vault))[0] == CONTENT


async def test_a_damaged_index(files: Files) -> None:
    name = in_folder(files, "indexes")[0]
    vault = await vault_of({**files, name: files[name][:-1] + b"\0"})
    report = await verify(vault, Level.LISTING)
    assert [found.name for found in report.damaged] == [name]
    assert report.unreferenced


async def test_duplicate_packs_in_indexes(files: Files) -> None:
    vault = await vault_of(files)
    packs = await vault.packs()
    for _ in range(2):
        await vault.write_index(packs)
    report = await verify(vault)
    assert report.is_sound
    assert report.packs == len(in_folder(files, "packs"))
    assert await contents(vault) == [
        each for each in (CONTENT, {**CONTENT, "new": noise(9000)}) for _ in "ab"
    ]


async def test_the_same_chunks_in_several_packs(files: Files) -> None:
    vault = await vault_of(files)
    async with writing(vault, Index()) as writer:
        await store_bytes(writer, vault, CONTENT["twice"])
    report = await verify(vault)
    assert report.is_sound
    assert report.used_chunks < report.chunks


async def test_a_pack_whose_name_is_right_and_whose_index_is_not() -> None:
    """As a faulty writer would make it: the blobs of one pack under the rows of another."""
    vault = await new_vault()
    keys = await vault.keys_of(OWN)
    for seed in range(2):
        async with writing(vault) as writer:
            await store_bytes(writer, vault, noise(3000, seed=seed))
    one, two = await vault.packs()
    data = [await vault.place.read(pack_name(each.id)) for each in (one, two)]
    for info in (
        type(one)(one.id, one.size_bytes, one.header, two.rows),
        type(one)(one.id, one.size_bytes, two.header, one.rows),
        type(one)(one.id, one.size_bytes, one.header, one.rows[40:]),
        type(one)(one.id, one.size_bytes, one.header, one.rows[:-40]),
        type(one)(one.id, one.size_bytes + 1, one.header, one.rows),
        type(one)(two.id, one.size_bytes, one.header, one.rows),
    ):
        assert check_pack(info, data[0], keys)
    assert check_pack(type(one)(one.id, one.size_bytes, two.header, one.rows), data[0], None)
    assert not check_pack(one, data[0], keys)
    writer_of_wrong = PackWriter(keys)
    writer_of_wrong.add(keys.chunk_id(b"other"), b"a chunk under the id of another")
    wrong = writer_of_wrong.close()
    info = pack_of(wrong.data, keys)
    assert "is not the chunk it is named for" in check_pack(info, wrong.data, keys)[0]


async def test_chunks_and_pages_that_are_nowhere() -> None:
    vault = await new_vault()
    async with writing(vault) as writer:
        ids = await store_bytes(writer, vault, noise(2000))
        entries = [
            Entry("fine", "v", 0, size_bytes=2000, chunks=ids),
            Entry("lost", "v", 0, size_bytes=1, chunks=(bytes(32),)),
            Entry("short", "v", 0, size_bytes=1999, chunks=ids),
            Entry("marker", "v", 0, is_delete_marker=True),
        ]
        page = await store_page(writer, vault, entries, OWN)
        no_page = await store_bytes(writer, vault, b"no page")
    tree = Tree("bucket", "main", "photos", pages=(page, bytes(32), *no_page))
    name = await vault.write(Kind.SNAPSHOT, Snapshot(0, 1, (tree,)).dump())
    assert (await verify(vault, Level.LISTING)).is_sound
    report = await verify(vault, Level.CLOSURE)
    where = f"snapshots/{name} bucket main/photos"
    assert {found.name for found in report.missing} == {
        f"{where} 'lost' v",
        f"{where} page {bytes(32).hex()}",
    }
    assert {found.name for found in report.damaged} == {
        f"{where} 'short' v",
        f"{where} page {no_page[0].hex()}",
    }


async def test_pages_that_do_not_open_do_not_hide_others(files: Files) -> None:
    vault = await new_vault()
    async with writing(vault) as writer:
        pages = [
            await store_page(writer, vault, [Entry(f"k{n}", "v", 0, chunks=(bytes(32),))], OWN)
            for n in range(20)
        ]
    tree = Tree("bucket", "main", "photos", pages=tuple(pages))
    await vault.write(Kind.SNAPSHOT, Snapshot(0, 1, (tree,)).dump())
    files = await files_of(vault.place)
    (pack,) = await vault.packs()
    found = (await vault.index()).find(pages[9])
    assert found
    at, data = found.row.offset, files[pack_name(pack.id)]
    broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    report = await verify(await vault_of({**files, pack_name(pack.id): broken}), Level.CLOSURE)
    assert [pages[9].hex() in found.name for found in report.damaged] == [True]
    assert len(report.missing) == 19


async def test_doomed_packs_are_neither_used_nor_strange(files: Files) -> None:
    vault = await vault_of(files)
    async with writing(vault) as writer:
        await store_bytes(writer, vault, noise(500, seed="unused"))
    pack = (await vault.packs())[-1]
    await vault.write(Kind.DOOM, b'{"since_ms":1,"packs":["%s"]}' % pack.id.hex().encode())
    report = await verify(vault)
    assert (report.is_sound, report.unreferenced) == (True, ())
    await vault.place.remove(pack_name(pack.id))
    assert (await verify(vault)).is_sound


async def test_a_vault_without_slots_and_with_another_file(files: Files) -> None:
    vault = await vault_of(files)
    for name in in_folder(files, "slots"):
        await vault.place.remove(name)
    await vault.place.remove("vault")
    report = await verify(vault, Level.LISTING)
    assert {found.name for found in report.missing} == {"vault", "slots"}
    await vault.place.put("vault", (await new_vault()).file.dump())
    assert [f.name for f in (await verify(vault, Level.LISTING)).damaged] == ["vault"]


async def test_an_endpoint_that_is_away_is_no_damage(files: Files) -> None:
    vault = await vault_of(files)
    for verb in ("get", "list"):
        for at in range(5):  # listings: of packs, slots and the three kinds of records
            broken = FaultyStore(vault.place.store, {verb: [*[OK] * at, Refuse()]})
            away = Vault(VaultPlace(broken, BUCKET, PREFIX), vault.file, vault.key, vault.ring)
            with pytest.raises(Unavailable):
                await verify(away)


async def test_shares_and_budgets_add_up_to_the_whole(files: Files) -> None:
    vault = await vault_of(files)
    for number in range(12):
        async with writing(vault) as writer:
            await store_bytes(writer, vault, noise(2000, seed=number))
    whole = await verify(vault)
    parts = [await verify(vault, Level.READ, Budget(part, 3)) for part in (1, 2, 3)]
    assert sum(each.read_packs for each in parts) == whole.read_packs
    assert sum(each.proven_share for each in parts) == pytest.approx(1)
    cursor, read, rounds = "", 0, 0
    while cursor or not rounds:
        report = await verify(vault, Level.READ, Budget(max_bytes=6000, after=cursor))
        assert report.read_bytes <= 6000 or report.read_packs == 1
        cursor, read, rounds = report.cursor, read + report.read_packs, rounds + 1
    assert read == whole.read_packs
    assert rounds > 3


async def test_a_budget_goes_on_behind_its_cursor_whatever_came_between(files: Files) -> None:
    vault = await vault_of(files)
    packs = sorted(await vault.packs(), key=lambda each: each.id)
    first, cursor = planned(packs, Budget(max_bytes=1))
    assert (first, cursor) == (packs[:1], packs[0].id.hex())
    assert planned(packs[1:], Budget(after=cursor)) == (packs[1:], "")
    assert planned([], Budget(max_bytes=1)) == ([], "")


@pytest.mark.parametrize("wrong", [{"part": 0}, {"part": 3, "parts": 2}, {"max_bytes": 0}])
def test_budgets_that_mean_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Budget(**wrong)


async def test_many_findings_are_counted() -> None:
    vault = await new_vault()
    entries = [
        Entry(f"{n:06}", "v", 0, size_bytes=1, chunks=(bytes(32),)) for n in range(LISTED + 5)
    ]
    trees = []
    async with writing(vault) as writer:
        for at in range(0, len(entries), 3):
            page = await store_page(writer, vault, entries[at : at + 3], OWN)
            trees.append(page)
    tree = Tree("bucket", "main", "photos", pages=tuple(trees))
    await vault.write(Kind.SNAPSHOT, Snapshot(0, 1, (tree,)).dump())
    report = await verify(vault, Level.CLOSURE)
    assert (len(report.missing), report.unlisted) == (LISTED, 5)
