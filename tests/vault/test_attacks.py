"""A vault that is altered in any way: an error by name, never other bytes, and found by a look."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unsupported,
)
from entrepot.vault import index as index_records
from entrepot.vault import keys, records
from entrepot.vault.index import Index
from entrepot.vault.keys import OWN
from entrepot.vault.packs import PackOpener, layout, rows
from entrepot.vault.reader import read_chunk
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault, pack_name
from entrepot.vault.snapshots import Snapshot, parse_page
from entrepot.vault.verify import Level, check_pack, pack_of, verify
from entrepot.vault.writer import writing
from tests.codec.making import noise
from tests.vault.making import (
    ACME,
    PRIVATE,
    RING_KEYS,
    HeldRing,
    back_up,
    files_of,
    new_vault,
    store_bytes,
    with_files,
)
from tests.vault.test_golden import contents

SMALL = {"k": b"a small object", "twice": b"a small object" * 9}
PUBLIC = X25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()


@pytest.fixture(scope="module")
async def files() -> dict[str, bytes]:
    """The objects of a vault with one thing of each kind."""
    vault = await new_vault()
    await vault.add_recipient("auditor", PUBLIC)
    await back_up(vault, SMALL)
    await vault.write(Kind.DOOM, b'{"since_ms":1,"packs":[]}')
    await vault.write(Kind.DRAFT, Snapshot(0, 1, ()).dump())
    return await files_of(vault.place)


Change = Callable[[bytes], Iterator[bytes]]


def flips(data: bytes) -> Iterator[bytes]:
    """``data`` with each byte altered in turn, one bit or all of them."""
    for at in range(len(data)):
        for mask in (1, 0xFF):
            yield data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def cuts(data: bytes) -> Iterator[bytes]:
    """``data`` cut off at each length, and made longer."""
    yield from (data[:size] for size in range(len(data)))
    yield data + b"\0"


def named(files: Mapping[str, bytes], folder: str) -> str:
    """The name of the first object of a folder."""
    return min(name for name in files if name.startswith(folder))


async def is_harmless(files: Mapping[str, bytes], name: str, altered: bytes) -> bool:
    """Whether reading everything gives the right bytes, or an error by name."""
    place = await with_files({**files, name: altered})
    try:
        vault = await Vault.open(place, HeldRing())
        await vault.doomed()
        for draft in await vault.names(Kind.DRAFT):
            Snapshot.parse(await vault.read(Kind.DRAFT, draft))
        return await contents(vault) == [SMALL, SMALL]
    except EntrepotError:
        return True


async def is_found(files: Mapping[str, bytes], name: str, altered: bytes) -> bool:
    """Whether a full verification names what was altered, or the vault does not open."""
    place = await with_files({**files, name: altered})
    with suppress(AccessDenied, IntegrityError, Unsupported):
        report = await verify(await Vault.open(place, HeldRing()))
        return any(found.name == name for found in report.damaged)
    return name == "vault" or name.startswith("slots/ring")


FOLDERS = ["vault", "slots/ring", "slots/auditor", "indexes", "snapshots", "dooms", "drafts"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("change", [flips, cuts], ids=["flips", "cuts"])
async def test_no_byte_of_a_small_object_can_change(
    files: dict[str, bytes], folder: str, change: Change
) -> None:
    name = named(files, folder)
    altered = list(change(files[name]))
    for each in altered[:: max(1, len(altered) // 20)]:
        assert await is_harmless(files, name, each)
        assert await is_found(files, name, each)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.WAL])
async def test_no_byte_of_a_record_can_change(files: dict[str, bytes], kind: Kind) -> None:
    vault = await Vault.open(await with_files(files), HeldRing())
    name = named(files, kind.folder)
    said = {
        "vault_key": vault.key,
        "vault_digest": vault.file.digest,
        "kind": kind,
        "name": name.split("/")[1],
    }
    assert records.unseal(files[name], **said)
    for altered in (*flips(files[name]), *cuts(files[name])):
        with pytest.raises(IntegrityError):
            records.unseal(altered, **said)


@pytest.mark.parametrize("slot", ["ring", "auditor"])
async def test_no_byte_of_a_slot_or_of_the_vault_file_can_change(
    files: dict[str, bytes], slot: str
) -> None:
    data = files[named(files, f"slots/{slot}")]
    file = keys.VaultFile.parse(files["vault"])

    def opened(slot_bytes: bytes, vault: keys.VaultFile) -> bytes:
        holder = keys.slot_holder(slot_bytes)
        if isinstance(holder, keys.RecipientSlot):
            return keys.open_as_recipient(slot_bytes, vault, private=PRIVATE)
        if (holder.name, holder.number) not in RING_KEYS:
            raise NotFound("no such key")
        key = RING_KEYS[holder.name, holder.number]
        return keys.open_with_ring(slot_bytes, vault, ring_key=key)

    vault_key = opened(data, file)
    keys.check_slot(data, file, vault_key=vault_key)
    for altered in (*flips(data), *cuts(data)):
        with pytest.raises((AccessDenied, IntegrityError, NotFound)):
            opened(altered, file)
        with pytest.raises(IntegrityError):
            keys.check_slot(altered, file, vault_key=vault_key)
    for altered in (*flips(files["vault"]), *cuts(files["vault"])):
        with pytest.raises((AccessDenied, IntegrityError, Unsupported)):
            opened(data, keys.VaultFile.parse(altered))


async def test_no_byte_of_a_pack_can_change(files: dict[str, bytes]) -> None:
    vault = await Vault.open(await with_files(files), HeldRing())
    for pack in await vault.packs():
        data, secrets = files[pack_name(pack.id)], await vault.keys_of(pack.domain)
        assert check_pack(pack, data, secrets) == []
        assert pack_of(data, secrets) == pack
        opener = PackOpener(pack.header, secrets)
        for altered in (*flips(data), *cuts(data)):
            assert check_pack(pack, altered, secrets)
            assert check_pack(pack, altered, None)
            for number, row in enumerate(rows(pack.rows, start=len(pack.header))):
                blob = altered[row.offset : row.offset + row.stored_bytes]
                if blob != data[row.offset : row.offset + row.stored_bytes]:
                    with pytest.raises(IntegrityError):
                        opener.chunk(row, blob, number=number)


async def test_no_byte_of_a_pack_can_change_unseen(files: dict[str, bytes]) -> None:
    for name in (name for name in files if name.startswith("packs/")):
        altered = [*flips(files[name]), *cuts(files[name])]
        for each in altered[:: max(1, len(altered) // 20)]:
            assert await is_harmless(files, name, each)
            assert await is_found(files, name, each)


async def test_records_open_under_their_own_name_kind_and_vault_only() -> None:
    one, other = await new_vault(), await new_vault()
    names = [await one.write(Kind.SNAPSHOT, b"{}") for _ in "ab"]
    others = await other.write(Kind.SNAPSHOT, b"{}")

    async def moved(source: str, target: str, vault: Vault = one) -> bytes:
        data = await vault.place.read(source)
        folder, _, name = target.partition("/")
        await one.place.remove(target)
        await one.place.put(target, data)
        kind = next(kind for kind in Kind if kind.folder == folder)
        return await one.read(kind, name)

    first, second = (f"snapshots/{name}" for name in names)
    with pytest.raises(IntegrityError):
        await moved(first, second)
    with pytest.raises(IntegrityError):
        await moved(first, first.replace("snapshots", "indexes"))
    with pytest.raises(IntegrityError):
        await moved(f"snapshots/{others}", f"snapshots/{others}", other)
    assert await moved(first, first) == b"{}"


async def test_vaults_are_not_read_with_the_file_or_slots_of_another(
    files: dict[str, bytes],
) -> None:
    others = await files_of((await new_vault()).place)
    for name in ("vault", named(files, "slots/ring")):
        mixed = {**files, name: others["vault" if name == "vault" else named(others, "slots")]}
        with pytest.raises(AccessDenied):
            await Vault.open(await with_files(mixed), HeldRing())


async def test_packs_that_are_swapped_are_no_other_bytes(files: dict[str, bytes]) -> None:
    one, two = (name for name in files if name.startswith("packs/"))
    place = await with_files({**files, one: files[two], two: files[one]})
    vault = await Vault.open(place, HeldRing())
    with pytest.raises((IntegrityError, NotFound)):
        await contents(vault)
    with pytest.raises(IntegrityError):
        index = Index(await vault.packs())
        await read_chunk(vault, index, next(iter(rows_of(index)))[:32])
    assert {found.name for found in (await verify(vault)).damaged} >= {one, two}


def rows_of(index: Index) -> Iterator[bytes]:
    return (pack.rows for pack in index.packs)


async def test_a_blob_of_another_pack_is_none() -> None:
    """The same chunk of the same domain, sealed twice: even then a blob stays in its pack."""
    vault = await new_vault()
    for _ in range(2):
        async with writing(vault, Index()) as writer:  # which does not know of the other
            await store_bytes(writer, vault, noise(60))
    one, two = await vault.packs()
    secrets = await vault.keys_of(OWN)
    start, other = len(one.header), await vault.place.read(pack_name(two.id))
    (row,) = rows(one.rows, start=start)
    assert one.rows == two.rows
    blob = other[row.offset : row.offset + row.stored_bytes]
    assert PackOpener(two.header, secrets).chunk(row, blob, number=0) == noise(60)
    with pytest.raises(IntegrityError):
        PackOpener(one.header, secrets).chunk(row, blob, number=0)
    with pytest.raises(IntegrityError):
        PackOpener(two.header, secrets).chunk(row, blob, number=1)
    with pytest.raises(IntegrityError):
        wrong = replace_id(row.id)
        PackOpener(two.header, secrets).chunk(row._replace(id=wrong), blob, number=0)


def replace_id(chunk_id: bytes) -> bytes:
    return bytes([chunk_id[0] ^ 1]) + chunk_id[1:]


async def test_who_has_no_key_reads_nothing(files: dict[str, bytes]) -> None:
    place = await with_files(files)
    with pytest.raises(AccessDenied) as none:
        await Vault.open(place, HeldRing({}))
    assert "no such key" in none.value.hint
    wrong = {pair: bytes(32) for pair in RING_KEYS}
    with pytest.raises(AccessDenied):
        await Vault.open(place, HeldRing(wrong))
    with pytest.raises(AccessDenied):
        await Vault.open_as_recipient(place, bytes(31) + b"\1")
    with pytest.raises(InvalidInput):
        await Vault.open_as_recipient(place, b"short")


async def test_a_shredded_domain_is_gone_and_nothing_else(files: dict[str, bytes]) -> None:
    left = {pair: key for pair, key in RING_KEYS.items() if pair != tuple(ACME)}
    vault = await Vault.open(await with_files(files), HeldRing(left))
    index = await vault.index()
    (name,) = await vault.names(Kind.SNAPSHOT)
    own, acme = (await vault.snapshot(name)).trees
    assert list(parse_page(await read_chunk(vault, index, own.pages[0])))
    with pytest.raises(NotFound, match="no such key"):
        await read_chunk(vault, index, acme.pages[0])
    report = await verify(vault)
    assert report.is_sound
    assert report.unreadable == (ACME,)
    pack = next(name for name in files if name == pack_name(acme_pack(index)))
    place = await with_files({**files, pack: files[pack][:-60] + b"\0" + files[pack][-59:]})
    vault = await Vault.open(place, HeldRing(left))
    assert [found.name for found in (await verify(vault)).damaged] == [pack]


def acme_pack(index: Index) -> bytes:
    return next(pack.id for pack in index.packs if pack.domain == ACME)


async def test_domains_share_nothing() -> None:
    vault = await new_vault()
    async with writing(vault) as writer:
        ids = [await store_bytes(writer, vault, noise(3000), each) for each in (OWN, ACME)]
    other = await new_vault()
    async with writing(other) as writer:
        ids.append(await store_bytes(writer, other, noise(3000), ACME))
    assert not set(ids[0]) & set(ids[1])
    assert not set(ids[1]) & set(ids[2])
    assert all(pack.count < len(set(ids[0]) | set(ids[1])) for pack in await vault.packs())


async def test_a_slot_that_is_damaged_does_not_keep_others_out(files: dict[str, bytes]) -> None:
    place = await with_files({"slots/a-damaged": b"EPVS\1\0\2\xff\xff", **files})
    await place.put("slots/b-damaged", bytes(1 << 18))
    assert (await Vault.open(place, HeldRing())).key
    assert (await Vault.open_as_recipient(place, PRIVATE)).key


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
async def test_points_of_small_order_are_refused(files: dict[str, bytes], point: bytes) -> None:
    file = keys.VaultFile.parse(files["vault"])
    with pytest.raises(InvalidInput):
        keys.seal_for_recipient(bytes(32), file, public=point)
    slot = files["slots/auditor"]
    with pytest.raises(IntegrityError):
        keys.open_as_recipient(slot[:37] + point + slot[69:], file, private=PRIVATE)


async def test_newer_formats_are_named() -> None:
    vault = await new_vault()
    with pytest.raises(Unsupported, match="newer format"):
        keys.VaultFile.parse(b"EPV2" + vault.file.dump()[4:])
    name = await vault.write(Kind.SNAPSHOT, b'{"format":2}')
    with pytest.raises(Unsupported, match="newer format"):
        await vault.snapshot(name)
    assert [found.what for found in (await verify(vault, Level.LISTING)).damaged]


async def test_what_is_malformed_under_the_right_key_is_named() -> None:
    """Only a faulty writer makes these; a reader still says what it met."""
    vault = await new_vault()
    for content in (b"", b"[]", b"{", b'{"packs":["x"]}', b'{"packs":1}'):
        name = await vault.write(Kind.DOOM, content)
        with pytest.raises(IntegrityError):
            await vault.doomed()
        await vault.place.remove(f"dooms/{name}")
    for content in (b"", b"{}", b"[]", b'{"format":1,"trees":[{}]}', b'{"format":"1","trees":[]}'):
        name = await vault.write(Kind.SNAPSHOT, content)
        with pytest.raises(IntegrityError):
            await vault.snapshot(name)
    for content in (
        b"",
        b"\0\0\0\1",
        b"\0\0\0\0x",
        b"\0\0\0\1" + bytes(36) + b"\0\4head" + bytes(4),
    ):
        with pytest.raises(IntegrityError):
            list(index_records.parse(content))


async def test_an_index_that_names_what_cannot_be_is_named() -> None:
    vault = await new_vault()
    await back_up(vault, SMALL)
    pack = (await vault.packs())[0]
    first = pack.rows[:32]
    wrong = {
        "behind": replace(pack, size_bytes=len(pack.header) + 1),
        "empty": replace(pack, rows=first + pack.rows[32:36] + bytes(4)),
        "huge": replace(pack, rows=first + pack.rows[32:36] + b"\x7f\xff\xff\xff"),
        "short": replace(pack, rows=first + (16).to_bytes(4, "big") + pack.rows[36:40]),
    }
    for each in wrong.values():
        with pytest.raises(IntegrityError, match="an index names"):
            Index([each]).find(first)


async def test_layouts_that_cannot_be_are_refused() -> None:
    for trailer in (b"", bytes(10), b"\0\1\0\0\0\1EPVD", b"\xff\xff\0\0\1\0EPVD"):
        with pytest.raises(IntegrityError):
            layout(trailer, pack_bytes=200)


async def test_strangers_among_the_records_are_passed_over(files: dict[str, bytes]) -> None:
    strange = {"indexes/.DS_Store": b"x", "snapshots/x/y": b"x", "dooms/z": b""}
    vault = await Vault.open(await with_files({**files, **strange}), HeldRing())
    assert await contents(vault) == [SMALL, SMALL]
    assert await vault.doomed() == {}
    with pytest.raises(InvalidInput):
        await vault.read(Kind.SNAPSHOT, "../vault")


async def test_an_object_that_no_writer_makes_is_not_read(files: dict[str, bytes]) -> None:
    vault = await Vault.open(await with_files(files), HeldRing())
    with pytest.raises(LimitExceeded):
        await vault.place.read(named(files, "packs"), limit_bytes=100)


def test_content_is_not_in_the_clear(files: dict[str, bytes]) -> None:
    assert not any(b"a small object" in data or b"photos" in data for data in files.values())
