"""Sites compared: what differs is found and named, what does not is proved, and nothing by chance.

The properties run over stores in memory, the scenarios over real MinIO servers; what those hold is
written through boto3 or with chosen ids and times, never by a sweep.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.clock import SYSTEM_CLOCK, derived_id, new_bytes, new_id
from entrepot.errors import AccessDenied, BucketNotFound, IntegrityError, InvalidInput, Unavailable
from entrepot.replication.proof import verify as proof_module
from entrepot.replication.proof.compare import Kind
from entrepot.replication.proof.record import Aspect, Level, Profile
from entrepot.replication.proof.survey import Reader, survey
from entrepot.replication.proof.verify import Comparison, Proof, profiles, verify
from entrepot.replication.sites import Site
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Attributes, LockMode, Origin, Page, Store
from entrepot.store.wrapper import StoreWrapper
from entrepot.testing.faulty import BreakListing, FaultyStore, Stale
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import ALL, MINTS, World

BUCKET = "proof"
THEN_MS = 1_750_000_000_000
MIB = 1024 * 1024


async def at_once(_seconds: float) -> None:
    return


def how(level: Level = Level.LISTING, **more: Any) -> Comparison:
    return Comparison(Profile(level=level, **more), workers=4, sleep=at_once)


def memory_site(number: int, store: Store | None = None, **more: Any) -> Site:
    return Site(f"site-{number}", number, store or MemoryStore(), more.get("capabilities", ALL))


async def memory_sites(count: int = 2) -> list[Site]:
    sites = [memory_site(number) for number in range(count)]
    for site in sites:
        await site.store.create(BUCKET, locked=True)
    return sites


async def put(
    sites: Sequence[Site], key: str, body: bytes = b"x", *, at: int = 0, **more: Any
) -> None:
    """The same version at each site."""
    origin = Origin(str(derived_id("test", key, str(at))), THEN_MS + at)
    for site in sites:
        await site.store.put(
            BUCKET, key, body, origin=origin, attributes=Attributes(**more) if more else None
        )


async def compared(sites: Sequence[Site], level: Level = Level.LISTING, **more: Any) -> Proof:
    return await verify(sites, BUCKET, comparison=how(level, **more))


def kinds(proof: Proof) -> dict[str, set[Kind]]:
    found: dict[str, set[Kind]] = {}
    for difference in proof.differences:
        found.setdefault(difference.key, set()).add(difference.kind)
    return found


# Properties

CHANGES = st.tuples(
    st.integers(0, 2),  # which site
    st.sampled_from(["put", "put-other", "delete", "remove", "tag", "hold"]),
    st.sampled_from(["a", "a/b", "a/c", "b", "ü", "ý"]),
    st.integers(0, 2),  # which version
)


async def change(site: Site, what: str, key: str, at: int) -> None:
    store, version_id = site.store, str(derived_id("test", key, str(at)))
    match what:
        case "put":
            await put([site], key, b"body", at=at)
        case "put-other":
            await put([site], key, b"tail", at=at)
        case "delete":
            await store.delete(BUCKET, key, origin=Origin(str(new_id()), THEN_MS + 10 + at))
        case "remove":
            await store.delete(BUCKET, key, version_id=version_id)
        case _:
            async for page in store.versions(BUCKET, prefix=key):
                if any(
                    version.version_id == version_id and version.key == key
                    for version in page.versions
                ):
                    if what == "tag":
                        await store.tag(BUCKET, key, {"at": "1"}, version_id=version_id)
                    else:
                        await store.hold(BUCKET, key, True, version_id=version_id)


async def held(site: Site) -> list[Any]:
    """All that a site holds, as its own listing with details tells it."""
    return [
        replace(version, attributes=None if version.is_delete_marker else version.attributes)
        async for page in site.store.versions(BUCKET, details=True)
        for version in page.versions
    ]


@given(st.lists(CHANGES, max_size=8), st.permutations([0, 1, 2]))
@settings(max_examples=60)
def test_the_answer_is_right_and_the_same_whichever_site_is_named_first(
    changes: list[tuple[int, str, str, int]], order: list[int]
) -> None:
    async def check() -> None:
        sites = await memory_sites(3)
        for at in range(2):
            for key in ("a", "a/b", "b", "ü"):
                await put(sites, key, b"body", at=at)
        for number, what, key, at in changes:
            with suppress(AccessDenied):  # a version that is held stays
                await change(sites[number], what, key, at)
        proof = await compared(sites, Level.ATTRIBUTES)
        assert proof == await compared([sites[number] for number in order], Level.ATTRIBUTES)
        holdings = [await held(site) for site in sites]
        is_same = all(one == holdings[0] for one in holdings)
        assert proof.is_identical == is_same == (proof.digest is not None)
        differing = {
            version.key
            for one in holdings
            for version in one
            if any(version not in other for other in holdings)
        }
        assert {difference.key for difference in proof.differences} == differing
        assert proof.differing == len(differing)

    asyncio.run(check())


# One difference of each kind


async def change_each(site: Site) -> None:
    store = site.store

    def id_of(key: str) -> dict[str, str]:
        return {"version_id": str(derived_id("test", key, "0"))}

    await store.delete(BUCKET, "missing", **id_of("missing"))
    await put([site], "bytes", b"y", at=1)
    await store.delete(BUCKET, "marked")
    await store.tag(BUCKET, "tagged", {"a": "2"}, **id_of("tagged"))
    until = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(hours=1)
    await store.retain(BUCKET, "locked", mode=LockMode.GOVERNANCE, until=until, **id_of("locked"))


async def test_each_kind_of_difference_is_named() -> None:
    sites = await memory_sites()
    names = ("missing", "bytes", "marked", "tagged", "locked", "metadata", "time", "same")
    for key in names[:-3]:
        await put(sites, key, tags={"a": "1"})
    await put(sites, "same", metadata={"said": "ü"})
    for number, site in enumerate(sites):
        await put([site], "metadata", metadata={"at": str(number)})
        origin = Origin(str(derived_id("time")), THEN_MS + number)
        await site.store.put(BUCKET, "time", b"x", origin=origin)
        origin = Origin(str(derived_id("bytes")), THEN_MS)
        await site.store.put(BUCKET, "body", b"xy"[number : number + 1], origin=origin)
    await change_each(sites[1])
    proof = await compared(sites, Level.ATTRIBUTES)
    assert kinds(proof) == {
        "missing": {Kind.MISSING_VERSION, Kind.OTHER_CURRENT},
        "bytes": {Kind.MISSING_VERSION, Kind.OTHER_CURRENT},
        "marked": {Kind.EXTRA_MARKER, Kind.OTHER_CURRENT},
        "tagged": {Kind.OTHER_TAGS},
        "locked": {Kind.OTHER_LOCK},
        "metadata": {Kind.OTHER_METADATA},
        "time": {Kind.OTHER_TIME},
        "body": {Kind.OTHER_BYTES},
    }
    shown = {(each.key, each.kind): dict(each.sites) for each in proof.differences}
    assert shown["tagged", Kind.OTHER_TAGS] == {"site-0": '{"a": "1"}', "site-1": '{"a": "2"}'}
    assert shown["locked", Kind.OTHER_LOCK]["site-0"] == "none"
    assert shown["locked", Kind.OTHER_LOCK]["site-1"].startswith("governance until 20")
    assert (proof.differing, proof.digest) == (8, None)

    at_listing = await compared(sites)
    assert set(kinds(at_listing)) == {"missing", "bytes", "marked", "time", "body"}
    without = frozenset({Aspect.HISTORY, Aspect.METADATA})
    assert "tagged" not in kinds(await compared(sites, Level.ATTRIBUTES, aspects=without))
    current = frozenset(Aspect) - {Aspect.HISTORY}
    proof = await compared(sites, aspects=current)
    assert kinds(proof)["marked"] == {Kind.MISSING_VERSION, Kind.OTHER_CURRENT}


async def test_sites_that_mint_ids_are_compared_without_them() -> None:
    first, minting = await memory_sites()
    third = memory_site(2)
    await third.store.create(BUCKET)
    minting = replace(minting, capabilities=MINTS)
    await put([first, third], "k", b"body")
    await minting.store.put(BUCKET, "k", b"older")
    await minting.store.put(BUCKET, "k", b"body")
    await put([first, third], "gone")
    for site in (first, third):
        await site.store.delete(BUCKET, "gone", origin=Origin(str(derived_id("gone")), THEN_MS + 5))
    wanted = profiles([first, minting, third], level=Level.LISTING)
    assert [(len(sites), profile.text) for sites, profile in wanted] == [
        (2, "exact listing history"),
        (3, "loose listing"),
    ]
    for sites, profile in wanted:
        assert (await verify(sites, BUCKET, comparison=replace(how(), profile=profile))).digest
    await minting.store.put(BUCKET, "k", b"bodx")
    sites, profile = wanted[1]
    proof = await verify(sites, BUCKET, comparison=replace(how(), profile=profile))
    assert kinds(proof) == {"k": {Kind.OTHER_BYTES}}


# What must not pass for equal


async def test_a_listing_that_breaks_is_an_error() -> None:
    sites = await memory_sites()
    for number in range(3):
        await put(sites, f"k{number}")
    broken = FaultyStore(sites[1].store, {"versions": [BreakListing(after_pages=0)]})
    with pytest.raises(Unavailable):
        await compared([sites[0], replace(sites[1], store=broken)])
    assert not broken.left


async def test_a_listing_that_is_empty_by_mistake_is_an_error() -> None:
    sites = await memory_sites()
    await put(sites, "k")
    empty = FaultyStore(sites[1].store, {"versions": [Stale(pages=())]})
    with pytest.raises(IntegrityError, match="lists objects and no versions"):
        await compared([sites[0], replace(sites[1], store=empty)])
    both = [
        replace(site, store=FaultyStore(site.store, {"versions": [Stale(pages=())]}))
        for site in sites
    ]
    with pytest.raises(IntegrityError, match="lists objects and no versions"):
        await compared(both)


async def test_a_listing_that_is_cut_short_is_a_difference_or_seen_again() -> None:
    sites = await memory_sites()
    for number in range(5):
        await put(sites, f"k{number}")
    [page] = [page async for page in sites[1].store.versions(BUCKET)]
    cut = Page(page.tokens[:2], page.decode)
    stale = FaultyStore(sites[1].store, {"versions": [Stale(pages=[cut])]})
    proof = await compared([sites[0], replace(sites[1], store=stale)])
    assert (proof.is_identical, proof.keys) == (True, 5)
    assert proof.digest
    always = FaultyStore(sites[1].store, {"versions": [Stale(pages=[cut])] * 50})
    proof = await compared([sites[0], replace(sites[1], store=always)])
    assert (proof.is_identical, proof.differing, proof.digest) == (False, 3, None)


async def test_missing_buckets_and_single_sites_are_refused() -> None:
    sites = await memory_sites()
    with pytest.raises(InvalidInput):
        await compared(sites[:1])
    await sites[1].store.drop(BUCKET)
    with pytest.raises(BucketNotFound):
        await compared(sites)


async def test_nothing_is_equal_to_nothing_where_there_is_nothing() -> None:
    proof = await compared(await memory_sites())
    assert (proof.is_identical, proof.keys, proof.versions) == (True, 0, 0)


async def test_sites_that_list_out_of_order_are_refused() -> None:
    sites = await memory_sites()
    for number in range(3):
        await put(sites, f"k{number}")
    [page] = [page async for page in sites[1].store.versions(BUCKET)]
    turned = Page(page.tokens[::-1], page.decode)
    store = FaultyStore(sites[1].store, {"versions": [Stale(pages=[turned])]})
    with pytest.raises(IntegrityError, match="not in key order"):
        await compared([sites[0], replace(sites[1], store=store)])


# Writes meanwhile


class Meanwhile(StoreWrapper):
    """Does something each time a listing of versions is begun, while there is something to do."""

    def __init__(self, store: Store, works: list[Callable[[], Any]]) -> None:
        super().__init__(store)
        self.works = works

    async def versions(self, bucket: str, **more: Any) -> AsyncIterator[Page]:  # type: ignore[override]
        if self.works:
            await self.works.pop(0)()
        async for page in self._store.versions(bucket, **more):
            yield page


async def test_what_settles_while_we_look_is_no_difference() -> None:
    sites = await memory_sites()
    await put(sites, "k")
    await put(sites[:1], "late")

    async def nothing() -> None:
        return

    async def arrive() -> None:
        await put(sites[1:], "late")

    store = Meanwhile(sites[1].store, [nothing, nothing, arrive])
    proof = await compared([sites[0], replace(sites[1], store=store)])
    assert not store.works
    assert (proof.is_identical, proof.keys) == (True, 2)
    assert proof.digest == (await compared(sites)).digest


async def test_a_key_that_never_rests_is_moving() -> None:
    sites = await memory_sites()
    await put(sites, "k")
    await put(sites, "still", b"1")

    async def write() -> None:
        await sites[1].store.put(BUCKET, "k", new_bytes(4))

    store = Meanwhile(sites[1].store, [write] * 20)
    proof = await compared([sites[0], replace(sites[1], store=store)])
    assert (proof.moving, proof.differing, proof.is_identical) == (("k",), 0, False)


async def test_beyond_the_kept_ones_differing_keys_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proof_module, "KEPT_MAX", 3)
    sites = await memory_sites()
    for number in range(10):
        await put(sites[:1], f"k{number}")
    proof = await compared(sites)
    assert (proof.differing, len({each.key for each in proof.differences})) == (10, 3)


# Real servers


async def twins(world: World, key: str, body: bytes = b"x", *, at: int = 0, **more: Any) -> str:
    """The same version at every site; its id."""
    version_id = str(derived_id(world.bucket, key, str(at)))
    for store in world.stores:
        await store.put(world.bucket, key, body, origin=Origin(version_id, THEN_MS + at), **more)
    return version_id


async def proof_of(world: World, level: Level = Level.LISTING, **more: Any) -> Proof:
    found = await verify(world.sites, world.bucket, comparison=how(level, **more))
    turned = await verify(world.sites[::-1], world.bucket, comparison=how(level, **more))
    assert found == turned, "diff(A, B) mirrors diff(B, A)"
    return found


async def test_scenario_9_equal_count_and_size_but_other_content_or_tags(worlds: MakeWorld) -> None:
    """minio/minio#17939, mc#861: "in sync" where counts and sizes were."""
    world = worlds()
    tagged = Attributes(tags={"colour": "red"})
    version_id = await twins(world, "tagged", attributes=tagged)
    await twins(world, "same", b"same", attributes=Attributes(metadata={"said": "ünï"}))
    assert (await proof_of(world, Level.ATTRIBUTES)).digest
    await world.stores[1].tag(world.bucket, "tagged", {"colour": "blue"}, version_id=version_id)
    for number in range(2):
        await world.put_at(number, "content", b"AB"[number : number + 1], mtime_ms=THEN_MS)
    proof = await proof_of(world, Level.ATTRIBUTES)
    assert not proof.is_identical
    assert kinds(proof) == {
        "content": {Kind.MISSING_VERSION, Kind.OTHER_CURRENT},
        "tagged": {Kind.OTHER_TAGS},
    }
    assert {count.keys for count in proof.sites.values()} == {3}


async def test_scenario_10_the_answer_mirrors(worlds: MakeWorld) -> None:
    """mc#4968. ``proof_of`` holds it for each test here; three sites, all at odds."""
    world = worlds(sites=3)
    await twins(world, "same")
    for number in range(3):
        world.put(number, f"only-{number}", b"x" * number)
        world.put(number, "all", bytes([number]))
    world.delete(1, "same")
    proof = await proof_of(world)
    assert set(kinds(proof)) == {"only-0", "only-1", "only-2", "all", "same"}
    assert Kind.EXTRA_MARKER in kinds(proof)["same"]


async def test_content_is_read_where_etags_do_not_tell(worlds: MakeWorld) -> None:
    world = worlds()
    body = new_bytes(5 * MIB + 100)
    ids = [await parts(world, number, "big", body, cut=5 * MIB + number * 50) for number in (0, 1)]
    assert ids[0] == ids[1]
    proof = await proof_of(world)
    assert (proof.is_identical, proof.by_content, proof.digest) == (True, 1, None)
    assert (await proof_of(world, Level.CONTENT)).digest, "content has no part layout"
    await parts(world, 0, "bad", body, cut=5 * MIB)
    await parts(world, 1, "bad", body[:-1] + bytes([body[-1] ^ 1]), cut=5 * MIB)
    for level in (Level.LISTING, Level.CONTENT):
        proof = await proof_of(world, level)
        assert kinds(proof)["bad"] == {Kind.OTHER_BYTES}
        assert proof.differing == 1


async def parts(world: World, site: int, key: str, body: bytes, *, cut: int) -> str:
    """A multipart object of two parts with the same id and time at each site."""
    store, bucket = world.stores[site], world.bucket
    origin = Origin(str(derived_id(bucket, key)), THEN_MS)
    upload = await store.start(bucket, key, origin=origin)
    sent = (
        await store.part(bucket, key, upload, 1, body[:cut]),
        await store.part(bucket, key, upload, 2, body[cut:]),
    )
    return (await store.complete(bucket, key, upload, sent, origin=origin)).version_id


async def test_what_a_sweep_brought_into_step_is_identical(worlds: MakeWorld) -> None:
    world = worlds(versioned=False)
    world.put(0, "old", b"from before versioning", Metadata={"a": "b"}, Tagging="t=1")
    world.enable_versioning()
    world.put(0, "new", b"n", ContentType="text/plain", CacheControl="no-store")
    world.put_parts(1, "big", new_bytes(5 * MIB), b"tail")
    world.put(1, "ü/😀 +&", b"odd")
    assert not (await proof_of(world)).is_identical
    await world.sweep()
    for level in Level:
        proof = await proof_of(world, level)
        assert proof.digest, proof.differences
        assert (proof.keys, proof.versions) == (4, 4)


async def test_details_and_single_requests_have_one_digest(worlds: MakeWorld) -> None:
    class Plain(StoreWrapper):
        """An endpoint without a listing that tells details."""

        def versions(self, bucket: str, *, details: bool = False, **more: Any) -> Any:
            return super().versions(bucket, **more)

    world = worlds(wraps={1: Plain})
    dressed = Attributes(
        content_type="text/html",
        metadata={"said": "ünï 日本", "key": "<&>"},
        headers={"cache-control": "max-age=5", "content-disposition": 'inline; filename="a b"'},
        tags={"a": "1", "b+c": "d=e@:/"},
    )
    for number in range(30):
        await twins(world, f"k{number % 7}", at=number, attributes=dressed)
    assert (await proof_of(world, Level.ATTRIBUTES)).digest
    assert (await proof_of(world, Level.CONTENT, sample=300)).digest


async def test_a_proof_reads_the_share_it_says(worlds: MakeWorld) -> None:
    world = worlds()
    for number in range(40):
        await twins(world, f"k{number}")
    reads = []
    for sample in (0, 300, 1000):
        counted = FaultyStore(world.stores[0], {})
        profile = Profile(level=Level.CONTENT, sample=sample)
        site = replace(world.sites[0], store=counted)
        await survey({site.name: Reader(site, world.bucket, profile, 4)})
        reads.append(counted.calls.count("get"))
    assert reads[0] == 0
    assert 0 < reads[1] < 40
    assert reads[2] == 40
