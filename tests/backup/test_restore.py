"""Buckets as they were at an instant: planned, carried out exactly, undone, done again."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from entrepot.backup.apply import Applied, apply_restore
from entrepot.backup.back_up import back_up
from entrepot.backup.planning import plan_restore, wanted
from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.plans import Plan, undo_plan
from entrepot.clock import SYSTEM_CLOCK
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import AlreadyExists, InvalidInput, NotFound, Unavailable
from entrepot.objects.service import Objects
from entrepot.objects.source import bucket_source
from entrepot.objects.target import bucket_target
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry
from entrepot.vault.target import Target
from tests.backup.test_back_up import body
from tests.objects.worlds import new_bucket_name

Content = tuple[bytes, str, Mapping[str, str], Mapping[str, str]]
"""Bytes, content type, metadata, tags: what a reader of a key has."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_dsn(postgres: PostgresServer) -> str:
    dsn = postgres.create_database("restore_control")
    await migrate(dsn, kind=CatalogKind.CONTROL)
    return dsn


@pytest_asyncio.fixture
async def control(control_dsn: str) -> AsyncIterator[Catalog]:
    async with Catalog.open(control_dsn, pool_size=4) as catalog:
        yield catalog


@dataclass
class World:
    """One bucket, its vault, and the catalog of plans."""

    objects: Objects
    vault: Vault
    control: Catalog
    bucket: str

    async def passed(self) -> None:
        """Wait out the times to come: a clock that has just started runs two seconds ahead."""
        ahead_s = await newest_ms(self) / 1000 - SYSTEM_CLOCK.now().timestamp()
        await asyncio.sleep(max(0.0, ahead_s) + 0.002)

    async def backed_up(self) -> None:
        await back_up([self.vault], [await bucket_source(self.objects.ground, self.bucket)])

    async def target(self, *prefixes: str, into: str = "") -> Target:
        return await bucket_target(self.objects, into or self.bucket, prefixes=prefixes)

    async def plan(
        self, at_ms: int | None, *, prefixes: Sequence[str] = (), into: str = "", most: int = 5000
    ) -> Plan:
        want = await wanted(
            self.vault, "near", site="site-a", bucket=self.bucket, at_ms=at_ms, prefixes=prefixes
        )
        target = await self.target(*want.prefixes, into=into)
        return await plan_restore(
            self.control, self.vault, target, want, holder="test", page_actions=most
        )

    async def apply(self, plan: Plan, target: Target | None = None) -> Applied:
        return await apply_restore(
            self.control,
            plan,
            target or await self.target(into=plan.bucket),
            vault=self.vault if plan.totals["vault"] else None,
            holder="test",
        )

    async def undo(self, plan: Plan) -> Plan:
        back = await undo_plan(self.control, plan_id=plan.id)
        assert (await self.apply(back)).failed == 0
        return back

    async def entries(self) -> list[Entry]:
        source = await bucket_source(self.objects.ground, self.bucket)
        return [entry async for entry in source.entries()]

    async def content(self, *, into: str = "") -> dict[str, Content]:
        """What a reader finds under each key."""
        found = {}
        target = await self.target(into=into)
        async for listed in self.objects.walk(into or self.bucket):
            entry = await target.look(listed.key)
            assert entry
            async with target.open(entry) as pieces:
                data = b"".join([piece async for piece in pieces])
            found[listed.key] = (
                data, entry.content_type, dict(entry.metadata), dict(entry.tags)
            )  # fmt: skip
        return found


KINDS = pytest.mark.parametrize("adopted", [False, True], ids=["managed", "adopted"])


async def world_of(objects: Objects, vault: Vault, control: Catalog, *, adopted: bool) -> World:
    name = new_bucket_name()
    if adopted:
        await objects.ground.store.create(name)
        await objects.adopt_bucket(name, tenant_id="acme")
    else:
        await objects.create_bucket(name, tenant_id="acme", encrypted=True, compressed=True)
    return World(objects, vault, control, name)


async def put(world: World, key: str, data: bytes, kind: str = "note") -> None:
    attributes = Attributes("text/plain", {"who": f"é {kind}"}, {}, {"kind": kind})
    await world.objects.put(world.bucket, key, data, wish=Wish(attributes))


def sums(plan: Plan) -> tuple[int, int, int, int]:
    """Adds, reverts, hides, unchanged keys."""
    add, revert, hide, unchanged = (
        plan.totals[name] for name in ("add", "revert", "hide", "unchanged")
    )
    return add, revert, hide, unchanged


async def newest_ms(world: World) -> int:
    return max(entry.mtime_ms for entry in await world.entries())


@KINDS
async def test_back_to_an_instant_back_from_it_and_there_again(
    objects: Objects, vault: Vault, control: Catalog, adopted: bool
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    for key in ("changed", "gone", "same", "back", "tags"):
        await put(world, key, body(key))
    await put(world, "empty", b"")
    await objects.delete(world.bucket, "back")
    then, at_ms = await world.content(), await newest_ms(world)
    await asyncio.sleep(0.005)  # a version of the same millisecond would be of that instant
    await put(world, "changed", body("other"))
    await objects.delete(world.bucket, "gone")
    await put(world, "back", body("back again"))
    await world.passed()
    await world.backed_up()
    await put(world, "tags", body("tags"), kind="other")
    await put(world, "new", body("new"))
    before, versions = await world.content(), len(await world.entries())

    plan = await world.plan(at_ms)
    assert sums(plan) == (1, 2, 2, 2)
    assert plan.totals["bytes"] == 3 * 20_000 and plan.totals["seconds"] > 0
    assert await world.content() == before
    applied = await world.apply(plan)
    assert (applied.done, applied.moved, applied.failed) == (5, 0, 0)
    assert await world.content() == then
    assert len(await world.entries()) == versions + 5
    assert sums(await world.plan(at_ms)) == (0, 0, 0, 5)

    back = await world.undo(plan)
    assert await world.content() == before
    await world.undo(back)
    assert await world.content() == then
    assert (await world.apply(plan)).counts() == applied.counts()  # nothing is done twice


@KINDS
async def test_what_the_bucket_has_lost_comes_out_of_the_vault(
    objects: Objects, vault: Vault, control: Catalog, adopted: bool
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    for n in range(3):
        await put(world, f"a/{n}", body(f"a{n}", 60_000))
    await put(world, "b", body("b"))
    await world.backed_up()
    then = await world.content()
    for entry in await world.entries():
        await objects.delete(world.bucket, entry.key, version_id=entry.version_id)
    plan = await world.plan(None, prefixes=["a/"])
    assert sums(plan) == (3, 0, 0, 0)
    assert (await world.apply(plan)).done == 3
    only_a = {key: content for key, content in then.items() if key.startswith("a/")}
    assert await world.content() == only_a
    await world.undo(plan)
    assert await world.content() == {}


@KINDS
async def test_keys_that_moved_since_are_left_alone(
    objects: Objects, vault: Vault, control: Catalog, adopted: bool
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    for key in ("a", "b", "c", "d"):
        await put(world, key, body(key))
    await world.backed_up()
    for key in ("a", "b", "new", "newer"):
        await put(world, key, body("later"))
    await objects.delete(world.bucket, "c")
    await objects.delete(world.bucket, "d")
    plan = await world.plan(None)
    for key in ("a", "new", "c"):
        await put(world, key, body("latest"))
    racing = Racing(await world.target(), world)
    applied = await world.apply(plan, racing)
    assert (applied.done, applied.moved, applied.failed) == (2, 4, 0)
    assert {each["key"] for each in applied.findings} == {"a", "new", "c", "b"}
    found = {key: content[0] for key, content in (await world.content()).items()}
    assert found == {
        **dict.fromkeys(("a", "new", "c"), body("latest")), "b": body("raced"), "d": body("d")
    }  # fmt: skip


class Racing:
    """A target to which somebody writes key ``b`` between the last look and the write."""

    def __init__(self, target: Any, world: World) -> None:
        self._target, self._world = target, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def put(
        self, wished: Entry, pieces: AsyncIterator[bytes], *, over: Entry | None
    ) -> Entry:
        async def late() -> AsyncIterator[bytes]:
            if wished.key == "b":
                await put(self._world, "b", body("raced"))
            async for piece in pieces:
                yield piece

        return await self._target.put(wished, late(), over=over)


@KINDS
async def test_a_run_that_dies_and_goes_on_comes_to_the_same_end(
    objects: Objects, vault: Vault, control: Catalog, adopted: bool
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    keys = [f"{n:02d}" for n in range(12)]
    for key in keys:
        await put(world, key, body(key, 500))
    await world.backed_up()
    then = await world.content()
    for key in keys:
        await put(world, key, body(f"{key} later", 500))
    before = await world.content()
    plan = await world.plan(None, most=5)
    assert sums(plan) == (0, 12, 0, 0)
    with pytest.raises(Unavailable, match="went away"):
        await world.apply(plan, Dying(await world.target(), puts=7))
    with pytest.raises(NotFound, match="not carried out"):
        await undo_plan(control, plan_id=plan.id)
    applied = await world.apply(plan)
    assert (applied.done, applied.moved, applied.failed) == (12, 0, 0)
    assert await world.content() == then
    assert len(await world.entries()) == 3 * 12
    await world.undo(plan)
    assert await world.content() == before


class Dying:
    """A target that goes away after some writes."""

    def __init__(self, target: Any, *, puts: int) -> None:
        self._target, self._left = target, puts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    async def put(
        self, wished: Entry, pieces: AsyncIterator[bytes], *, over: Entry | None
    ) -> Entry:
        self._left -= 1
        if self._left < 0:
            raise Unavailable("the site went away")
        return await self._target.put(wished, pieces, over=over)


@KINDS
async def test_what_is_purged_after_the_plan_comes_out_of_the_vault_or_fails(
    objects: Objects, vault: Vault, control: Catalog, adopted: bool
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    await put(world, "a", body("first"))
    await world.backed_up()
    then = await world.content()
    await put(world, "a", body("second"))
    plan = await world.plan(None)
    second, first = await world.entries()
    await objects.delete(world.bucket, "a", version_id=first.version_id)
    assert (await world.apply(plan)).done == 1
    assert await world.content() == then
    await objects.delete(world.bucket, "a", version_id=second.version_id)
    applied = await world.apply(await undo_plan(control, plan_id=plan.id))
    assert (applied.done, applied.failed) == (0, 1)
    assert "gone" in applied.findings[0]["why"]
    assert await world.content() == then


@KINDS
async def test_into_another_bucket(
    objects: Objects, vault: Vault, control: Catalog, adopted: bool
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    other = await world_of(objects, vault, control, adopted=not adopted)
    for key in ("a", "b"):
        await put(world, key, body(key))
    await world.backed_up()
    then = await world.content()
    await put(other, "mine", b"mine")
    plan = await world.plan(None, into=other.bucket)
    assert sums(plan) == (2, 0, 0, 0)
    assert (await world.apply(plan)).done == 2
    found = await world.content(into=other.bucket)
    assert found.pop("mine")[0] == b"mine" and found == then
    await put(other, "b", b"theirs")
    with pytest.raises(AlreadyExists, match="these keys"):
        await world.plan(None, into=other.bucket)


async def test_an_instant_that_nothing_knows_is_refused(
    objects: Objects, vault: Vault, control: Catalog
) -> None:
    world = await world_of(objects, vault, control, adopted=False)
    await put(world, "a", body("a"))
    with pytest.raises(NotFound, match="no snapshot"):
        await world.plan(None)
    await world.passed()
    await world.backed_up()
    first_ms = await newest_ms(world)
    with pytest.raises(InvalidInput, match="before all") as early:
        await world.plan(first_ms - 1)
    assert "since" in early.value.hint
    with pytest.raises(InvalidInput, match="later than"):
        await world.plan(first_ms + 3_600_000)
    assert sums(await world.plan(first_ms)) == (0, 0, 0, 1)


async def test_a_key_whose_state_was_purged_is_lost_and_left_alone(
    objects: Objects, vault: Vault, control: Catalog
) -> None:
    world = await world_of(objects, vault, control, adopted=False)
    await put(world, "a", body("1"))
    await put(world, "a", body("2"))
    at_ms = await newest_ms(world)
    await put(world, "a", body("3"))
    gone = (await world.entries())[1]
    await objects.delete(world.bucket, "a", version_id=gone.version_id)
    await world.passed()
    await world.backed_up()
    plan = await world.plan(at_ms)
    assert sums(plan) == (0, 0, 0, 0)
    assert (plan.totals["lost"], plan.totals["lost_keys"]) == (1, ["a"])


async def test_a_damaged_vault_gives_no_bytes(
    objects: Objects, vault: Vault, control: Catalog
) -> None:
    world = await world_of(objects, vault, control, adopted=False)
    await put(world, "a", body("a", 200_000))
    await world.backed_up()
    [entry] = await world.entries()
    await objects.delete(world.bucket, "a", version_id=entry.version_id)
    plan = await world.plan(None)
    store, place = vault.place.store, vault.place
    sizes = {found.name: found.size_bytes async for found in place.list("packs")}
    name = max(sizes, key=sizes.__getitem__)
    pack = bytearray(await place.read(name))
    pack[len(pack) // 2] ^= 1
    await store.put(place.bucket, place.prefix + name, bytes(pack))
    applied = await world.apply(plan)
    assert (applied.done, applied.failed) == (0, 1)
    assert "damaged" in applied.findings[0]["why"]
    assert await world.content() == {}


WRITES = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=6)
"""Keys, and what is written: 0 a delete marker, else one of five contents."""


def content_of(number: int) -> Content | None:
    kind = {"kind": str(number)}
    return (body(str(number), 700 * number), "text/plain", {"who": "é"}, kind) if number else None


async def written(world: World, writes: list[tuple[str, int]]) -> dict[str, Content | None]:
    """Write; what each new version is, by its id."""
    model: dict[str, Content | None] = {}
    for key, number in writes:
        content = content_of(number)
        if content is None:
            row = await world.objects.delete(world.bucket, key)
            if row is None:  # there was nothing to delete
                continue
        else:
            data, content_type, metadata, tags = content
            wish = Wish(Attributes(content_type, metadata, {}, tags))
            row = await world.objects.put(world.bucket, key, data, wish=wish)
        model[row.version_id] = content
    return model


@KINDS
@hypothesis_settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(early=WRITES, late=WRITES, chosen=st.integers(0, 7))
async def test_any_history_at_any_instant(  # noqa: PLR0917
    objects: Objects,
    vault: Vault,
    control: Catalog,
    adopted: bool,
    early: list[tuple[str, int]],
    late: list[tuple[str, int]],
    chosen: int,
) -> None:
    world = await world_of(objects, vault, control, adopted=adopted)
    model = await written(world, early)
    history = await world.entries()
    assume(history)
    await world.passed()
    await world.backed_up()
    await written(world, late)
    at_ms = sorted(entry.mtime_ms for entry in history)[chosen % len(history)]
    expected: dict[str, Content | None] = {}
    for entry in history:  # newest first
        if entry.mtime_ms <= at_ms:
            expected.setdefault(entry.key, model[entry.version_id])
    before = await world.content()
    plan = await world.plan(at_ms, most=2)
    applied = await world.apply(plan)
    assert (applied.moved, applied.failed) == (0, 0)
    then = {key: content for key, content in expected.items() if content}
    assert await world.content() == then
    back = await world.undo(plan)
    assert await world.content() == before
    await world.undo(back)
    assert await world.content() == then
