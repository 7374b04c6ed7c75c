"""What holds for any stream, any ids, any entries (Hypothesis; a failure prints its seed)."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.codec.primitives import TAG_BYTES, Gcm
from entrepot.errors import IntegrityError, InvalidInput
from entrepot.vault import index as index_records
from entrepot.vault.chunks import Chunk, Cutter, named
from entrepot.vault.index import Index, PackInfo
from entrepot.vault.keys import OWN, Cutting, DomainKeys
from entrepot.vault.packs import PackOpener, PackWriter, Row, header, rows
from entrepot.vault.reader import RUN_BYTES, runs
from entrepot.vault.snapshots import (
    PAGE_ENTRIES_MAX,
    Entry,
    EntryLock,
    Snapshot,
    Tree,
    dump_page,
    ends_page,
    pages,
    parse_page,
)
from tests.codec.making import noise, text
from tests.vault.making import ACME, SMALL, pieces

KEYS = DomainKeys(OWN, bytes(16), bytes(32))


async def cut(data: bytes, cuts: list[int], cutting: Cutting = SMALL) -> list[Chunk]:
    return await cut_with(pieces(data, cuts), cutting, KEYS)


async def cut_with(source: AsyncIterable[bytes], cutting: Cutting, keys: DomainKeys) -> list[Chunk]:
    cutter, found = Cutter(cutting, seed=keys.seed), list[Chunk]()
    async for piece in source:
        cutter.hold(piece)
        if cutter.is_ready:
            found += named(cutter, keys, last=False)
    return found + named(cutter, keys, last=True)


streams = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda size, seed: noise(size, seed=seed), st.integers(0, 20_000), st.integers()),
    st.builds(lambda size, seed: text(size, seed=seed), st.integers(0, 20_000), st.integers()),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, 9000), st.integers(0, 255)),
)


@given(streams, st.data())
def test_cuts_do_not_depend_on_the_pieces(data: bytes, draw: st.DataObject) -> None:
    bounds = draw.draw(st.lists(st.integers(0, len(data)), max_size=30))
    whole, by_pieces = asyncio.run(cut(data, [])), asyncio.run(cut(data, bounds))
    assert whole == by_pieces
    assert b"".join(each.data for each in whole) == data
    assert all(each.id == KEYS.chunk_id(each.data) for each in whole)
    lengths = [len(each.data) for each in whole]
    assert all(SMALL.min_bytes <= size <= SMALL.max_bytes for size in lengths[:-1])
    assert all(0 < size <= SMALL.max_bytes for size in lengths[-1:])


@pytest.mark.parametrize("piece", [1, 7, 4096])
async def test_cuts_of_a_longer_stream(piece: int) -> None:
    data = noise(60_000)
    assert await cut(data, list(range(0, len(data), piece))) == await cut(data, [])


@given(st.integers(0, 2**32), st.integers(0, 60_000), st.binary(min_size=1, max_size=50))
@settings(max_examples=30)
def test_an_edit_moves_few_cuts(seed: int, at: int, inserted: bytes) -> None:
    data = noise(60_000, seed=seed)
    before = asyncio.run(cut(data, []))
    after = asyncio.run(cut(data[:at] + inserted + data[at:], []))
    new = {each.id for each in after} - {each.id for each in before}
    assert len(new) <= 12  # of some 200


def test_the_library_takes_every_seed() -> None:
    """It takes none of 64 bits: half of all vaults could not cut."""
    for number in range(64):
        keys = DomainKeys(OWN, bytes(16), bytes([number]) * 32)
        assert keys.seed < 1 << 63
        assert asyncio.run(cut_with(pieces(b"x"), SMALL, keys))


async def test_other_domains_cut_elsewhere() -> None:
    data, other = noise(60_000), DomainKeys(ACME, bytes(16), bytes(range(32)))
    lengths = [len(each.data) for each in await cut(data, [])]
    others = [len(each.data) for each in await cut_with(pieces(data), SMALL, other)]
    assert lengths[:20] != others[:20]


@pytest.mark.parametrize(
    "sizes", [(63, 256, 1024, 4096), (512, 256, 1024, 4096), (64, 256, 1 << 25, 4096)]
)
def test_a_vault_that_could_not_cut_is_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        Cutting(*sizes)


@given(st.integers(64, 1 << 20), st.integers(256, 1 << 22), st.integers(1024, 1 << 24))
def test_every_cutting_that_a_vault_may_have_cuts(least: int, average: int, most: int) -> None:
    try:
        cutting = Cutting(*sorted((least, average, most)), 4096)
    except InvalidInput:
        return
    assert asyncio.run(cut(b"x", [], cutting))


# Ids: some that share their first 8 bytes, and some that end with zeros.
ids = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.builds(
        lambda start, size, end: (start + end)[:32].ljust(32, b"\0"),
        st.sampled_from([b"", b"\0" * 8, b"\xff" * 8, b"prefix08"]),
        st.integers(0, 1),
        st.binary(max_size=3),
    ),
)
packs = st.lists(st.lists(ids, min_size=1, max_size=6), max_size=6)


def pack_info(number: int, chunk_ids: list[bytes]) -> PackInfo:
    head = header(OWN, bytes(16))
    found = [Row(each, 0, 17 + at, 1 + at, False) for at, each in enumerate(chunk_ids)]
    size = len(head) + sum(row.stored_bytes for row in found)
    return PackInfo(number.to_bytes(32, "big"), size, head, b"".join(r.dump() for r in found))


@given(packs, packs, st.lists(ids, max_size=6), st.sets(st.integers(0, 12)))
def test_an_index_is_a_dict(
    sorted_ids: list[list[bytes]], added: list[list[bytes]], asked: list[bytes], out: set[int]
) -> None:
    infos = [pack_info(at, each) for at, each in enumerate([*sorted_ids, *added])]
    without = {infos[at].id for at in out if at < len(sorted_ids)}
    index = Index([*infos[: len(sorted_ids)], *infos[:1]], without=without)
    for info in infos[len(sorted_ids) :]:
        index.add(info)
    model: dict[bytes, tuple[bytes, int, Row]] = {}
    for info in infos:
        for number, row in enumerate(rows(info.rows, start=len(info.header))):
            if info.id not in without:
                model.setdefault(row.id, (info.id, number, row))
    for each in (*model, *asked, *(each[:31] for each in asked)):
        found = index.find(each)
        assert (found and (found.pack.id, found.number, found.row)) == model.get(each)
        assert (each in index) == (each in model)
        at = index.ordinal(each)
        if at is not None:
            assert index.plain_bytes(at) == model[each][2].size_bytes


@given(packs)
def test_index_records_round_trip(chunk_ids: list[list[bytes]]) -> None:
    infos = [pack_info(at, each) for at, each in enumerate(chunk_ids)]
    content = index_records.dump(infos)
    assert list(index_records.parse(content)) == infos
    for size in range(len(content)):
        with pytest.raises(IntegrityError):
            list(index_records.parse(content[:size]))


@given(st.lists(streams.filter(bool), min_size=1, max_size=8))
def test_packs_round_trip(data: list[bytes]) -> None:
    writer = PackWriter(KEYS)
    for each in data:
        writer.add(KEYS.chunk_id(each), each)
    pack = writer.close()
    opener = PackOpener(pack.header, KEYS)
    for number, (row, each) in enumerate(zip(pack.rows, data, strict=True)):
        blob = pack.data[row.offset : row.offset + row.stored_bytes]
        assert opener.chunk(row, blob, number=number) == each
        assert row.is_compressed <= (len(blob) - TAG_BYTES < len(each))
    with pytest.raises(InvalidInput):
        writer.add(KEYS.chunk_id(b"x"), b"x")
    with pytest.raises(InvalidInput):
        writer.close()


def test_nonces_never_repeat_under_a_pack_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where threads meet in one pack, as they must not."""
    used: Counter[tuple[int, bytes]] = Counter()
    seal = Gcm.seal

    def counted(self: Gcm, data: bytes, target: bytearray, *, nonce: bytes, aad: bytes) -> None:
        used[id(self), nonce] += 1
        seal(self, data, target, nonce=nonce, aad=aad)

    monkeypatch.setattr(Gcm, "seal", counted)
    writers = [PackWriter(KEYS) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda w=w: [w.add(bytes(32), noise(5000)) for _ in range(50)])
        for w in writers * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    closed = [writer.close() for writer in writers]
    assert set(used.values()) == {1}
    assert len(used) == 3 * (200 + 1)
    assert len({pack.header for pack in closed}) == 3
    start = len(closed[0].header)
    assert all(
        list(rows(b"".join(r.dump() for r in p.rows), start=start)) == list(p.rows) for p in closed
    )


texts = st.text(st.characters(codec="utf-8"), max_size=20)
small_dicts = st.dictionaries(texts, texts, max_size=3)
entries = st.builds(
    Entry,
    key=st.one_of(texts, st.sampled_from(["a\nb", "\u2028\u2029\x85", "\r", '"\\', "\0"])),
    version_id=texts,
    mtime_ms=st.integers(0, 2**53),
    size_bytes=st.integers(0, 2**53),
    etag=texts,
    is_delete_marker=st.booleans(),
    chunks=st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
    digest=st.sampled_from([b"", bytes(32)]),
    content_type=texts,
    metadata=small_dicts,
    headers=small_dicts,
    tags=small_dicts,
    lock=st.builds(
        EntryLock, st.sampled_from(["", "governance"]), st.integers(0, 2**40), st.booleans()
    ),
    extra=st.dictionaries(texts, st.none() | st.integers() | st.lists(texts, max_size=2)),
)


@given(st.lists(entries, max_size=3))
@settings(max_examples=50)
def test_pages_round_trip(some: list[Entry]) -> None:
    assert list(parse_page(dump_page(some))) == some


@given(
    st.builds(
        Snapshot,
        started_ms=st.integers(0, 2**53),
        ended_ms=st.integers(0, 2**53),
        trees=st.lists(
            st.builds(
                Tree,
                kind=st.sampled_from(["bucket", "files"]),
                site=texts,
                name=texts,
                domain=st.just(ACME),
                prefixes=st.lists(texts, max_size=2).map(tuple),
                settings=small_dicts,
                entries=st.integers(0),
                size_bytes=st.integers(0),
                pages=st.lists(st.binary(min_size=32, max_size=32), max_size=2).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        parent=st.none() | texts,
        tags=small_dicts,
        points=small_dicts,
    )
)
def test_snapshots_round_trip(snapshot: Snapshot) -> None:
    assert Snapshot.parse(snapshot.dump()) == snapshot


@pytest.mark.parametrize(
    "page", [b"\n", b"{}\n", b'{"k":"a","v":"b"}\n', b"[1]\n", b"\xff\n", b"1\n"]
)
def test_what_is_no_page_is_refused(page: bytes) -> None:
    with pytest.raises(IntegrityError):
        list(parse_page(page))


def test_a_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidInput):
        dump_page([Entry("\udc80", "v", 0)])


async def pages_of(keys: list[str]) -> list[list[str]]:
    async def source() -> AsyncIterator[Entry]:
        for key in keys:
            yield Entry(key, "v", 0)

    return [[entry.key for entry in page] async for page in pages(source())]


async def test_a_change_of_one_key_changes_one_page() -> None:
    keys = sorted(f"k{number:05}" for number in range(3000))
    before, after = await pages_of(keys), await pages_of(sorted([*keys, "k01500+"]))
    assert len(before) > 5
    assert [key for page in before for key in page] == keys
    assert len([page for page in after if page not in before]) <= 2
    assert all(ends_page(page[-1]) for page in before[:-1])


async def test_a_page_holds_all_versions_of_a_key_and_not_many_keys() -> None:
    endless = [key for key in (f"{n:06}" for n in range(10**6)) if not ends_page(key)]
    keys = list(islice(endless, PAGE_ENTRIES_MAX + 10))
    first, second = await pages_of(keys)
    assert (len(first), len(second)) == (PAGE_ENTRIES_MAX, 10)
    assert [len(page) for page in await pages_of(["k"] * (PAGE_ENTRIES_MAX + 10))] == [4106]


def test_runs_hold_bounded_bytes_before_and_after_they_are_opened() -> None:
    head = header(OWN, bytes(16))
    found = [Row(noise(32, seed=n), 0, 100, 1 << 20, True) for n in range(40)]
    info = PackInfo(bytes(32), len(head) + 4000, head, b"".join(r.dump() for r in found))
    index = Index([info])
    made = list(runs(location for row in found if (location := index.find(row.id))))
    assert sum(map(len, made)) == 40
    assert all(sum(row.size_bytes for _, _, row in run) <= RUN_BYTES for run in made)
