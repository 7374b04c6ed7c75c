"""Writes that did not know of each other, brought together by a stream: in the ledger, once."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from entrepot.catalog.conflicts import Conflict, NewConflict, list_conflicts, record_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import lag_of
from entrepot.catalog.objects import outbox
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.streams import windows
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.errors import PreconditionFailed, Unavailable
from entrepot.objects import resolving
from entrepot.objects.check import check
from entrepot.objects.resolving import resolve_managed
from entrepot.objects.shipping import Shipping
from entrepot.objects.writes import Wish
from entrepot.replication.conflicts import judged
from entrepot.replication.ledger import as_row
from entrepot.replication.look import histories_of
from entrepot.replication.plan import Facts
from entrepot.replication.policy import Policy
from entrepot.replication.sites import Site
from entrepot.replication.stream.conflicts import ConflictBook
from entrepot.replication.stream.engine import subscribe_site
from entrepot.replication.view import see
from entrepot.store.protocol import Attributes
from entrepot.testing.proxy import BreakableProxy
from tests.objects.conftest import KINDS
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import (
    World,
    assert_equal,
    counted,
    drained,
    route_over,
    running,
    until,
)


class Crash(Exception):
    """A process that dies here."""


SITES = ("site-a", "site-b", "site-c")


async def ledger(world: World, bucket: str) -> tuple[Conflict, ...]:
    return await list_conflicts(world.control, rule=bucket)


async def as_a_sweep_sees_it(world: World, bucket: str, key: str) -> NewConflict | None:
    """What a sweep would record of the key now."""
    sites = [
        Site(name, rank, each.ground.store, each.ground.capabilities)
        for rank, (name, each) in enumerate(world.sites.items())
    ]
    view = see(key, await histories_of(sites, bucket, key), keeps=[True] * len(sites))
    facts = Facts(horizon_ms=1 << 60, names=list(world.sites))
    how: dict[str, Any] = {"policy": Policy(), "sites": sites, "bucket": bucket, "bound_ms": 0}
    found = await judged(view, facts=facts, **how)
    if found is None:
        return None
    return as_row(replace(found.conflict, serves=found.verdict.winner.identity))


async def apart(world: World, bucket: str) -> None:
    """Have what is written wait: there is no stream yet."""
    route = route_over(bucket, tuple(world.sites))
    for name, each in world.sites.items():
        await subscribe_site(each.ground.catalog, route, name)


async def written(world: World, site: str, bucket: str, key: str, body: bytes) -> ObjectRow:
    """A write, and no site will give a time as early as its own: their clocks run ahead a bit."""
    row = await world[site].put(bucket, key, body)
    await until(lambda: past(world, bucket, site))
    return row


async def past(world: World, bucket: str, site: str) -> bool:
    newest = max(row.stamp.time_ms for row in await world[site].versions(bucket))
    return SYSTEM_CLOCK.now().timestamp() * 1000 > newest + 1


async def _brought(world: World, bucket: str) -> bool:
    lags = await lag_of({"site-a": world["site-a"].ground.catalog}, rule=bucket)
    return not any(lag.depth for lag in lags)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_conflict_is_recorded_as_a_sweep_would(world: World, kind: str) -> None:
    bucket = await world.bucket(new_bucket_name(), **KINDS[kind])
    await apart(world, bucket)
    a, b = world["site-a"], world["site-b"]
    await b.put(bucket, "k", b"first " * 1000)
    lost = await written(world, "site-b", bucket, "k", b"lost " * 1000)
    await a.put(bucket, "k", b"early")
    won = await a.put(bucket, "k", b"won " * 1000)
    await written(world, "site-a", bucket, "deleted", b"x")
    await b.delete(bucket, "deleted")
    expected = {key: await as_a_sweep_sees_it(world, bucket, key) for key in ("k", "deleted")}
    from_a = replace(route_over(bucket, SITES), sources=("site-a",))
    async with running(world.stream(from_a)):
        await until(lambda: _brought(world, bucket))
    async with running(world.stream(route_over(bucket, SITES))):
        await drained(world)
    await assert_equal(world, bucket, count=6)
    found = {each.key: each for each in await ledger(world, bucket)}
    assert found.keys() == expected.keys() and len(await ledger(world, bucket)) == 2
    for key, row in found.items():
        wanted = expected[key]
        assert wanted is not None and [dict(each) for each in row.contenders] == wanted.contenders
        assert (row.winner, row.serves, row.policy) == (wanted.winner, wanted.serves, wanted.policy)
        assert row.reason == wanted.reason == "the latest write"
        # A sweep that met it at the same time has nothing to add, and one later sees none.
        how = {"rule": bucket, "bucket": bucket, "job_id": new_id()}
        await record_conflicts(world.control, [wanted], **how)
        assert await as_a_sweep_sees_it(world, bucket, key) is None
    assert len(await ledger(world, bucket)) == 2
    both = [each["version_id"] for each in found["k"].contenders]
    assert both == [lost.version_id, won.version_id] and found["k"].winner == 1
    writers = [each["writer"].partition("/")[0] for each in found["k"].contenders]
    assert writers == ["site-b", "site-a"]


async def test_what_follows_or_is_the_same_is_none(world: World) -> None:
    """One after the other, wherever; the same bytes; two deletes; in whatever order they come."""
    bucket = await world.bucket(new_bucket_name())
    async with running(world.stream(route_over(bucket, SITES))):
        for number in range(9):
            await world[SITES[number % 3]].put(bucket, "k", b"%d" % number)
            await world[SITES[number % 3]].put(bucket, "k", b"again %d" % number)
            await drained(world)
        await asyncio.gather(*(world["site-a"].put(bucket, "many", b"%d" % n) for n in range(50)))
        await drained(world)
        await world["site-b"].put(bucket, "many", b"after all")
        await drained(world)
    await apart(world, bucket)
    for site in SITES:
        await world[site].delete(bucket, "k")
        await world[site].put(bucket, "same", b"same")
        dressed = Wish(attributes=Attributes(metadata={"site": site}))
        await world[site].put(bucket, "dressed", b"same", wish=dressed)
    async with running(world.stream(route_over(bucket, SITES))):
        await drained(world)
    assert {each.key for each in await ledger(world, bucket)} == {"dressed"}


async def test_a_later_write_that_comes_first(world: World) -> None:
    """Its parent is newer than what it takes the place of, and is not there: the source tells."""
    bucket = await world.bucket(new_bucket_name())
    await apart(world, bucket)
    a, b = world["site-a"], world["site-b"]
    carry = _carrier(world, bucket)
    lost = await written(world, "site-b", bucket, "k", b"lost")
    await a.put(bucket, "k", b"did not know")
    served = await a.put(bucket, "k", b"later")
    base = await written(world, "site-a", bucket, "fine", b"1")
    events = await outbox.waiting(a.ground.catalog, f"{bucket}>site-b", skip=(), most=10)
    assert [each.key for each in events] == ["k", "k", "fine"]
    await carry.carry(events[2])
    own = await b.put(bucket, "fine", b"2")
    assert own.parent == base.stamp
    await _back(world, bucket, own.version_id)
    for body in (b"3", b"4"):
        await a.put(bucket, "fine", body)
    later = await outbox.waiting(a.ground.catalog, f"{bucket}>site-b", skip=(), most=10)
    for event in (later[-1], later[-2], events[1], events[0]):
        await carry.carry(event)
    async with running(world.stream(route_over(bucket, SITES))):
        await drained(world)
    (row,) = await ledger(world, bucket)
    named = [each["version_id"] for each in row.contenders]
    assert named == [lost.version_id, served.version_id]


def _carrier(world: World, bucket: str, **more: Any) -> Shipping:
    book = ConflictBook(world.control, rule=bucket, job_id=new_id())
    names = {"source": "site-a", "target": "site-b", "rule": bucket, **more}
    return Shipping(world.open_site, met=book.met, **names)


async def _back(world: World, bucket: str, version_id: str) -> None:
    """Bring one of B's versions to A."""
    catalog = world["site-b"].ground.catalog
    waiting = await outbox.waiting(catalog, f"{bucket}>site-a", skip=(), most=100)
    [event] = [each for each in waiting if each.version_id == version_id]
    await _carrier(world, bucket, source="site-b", target="site-a").carry(event)


async def test_who_dies_before_it_is_told_leaves_it_to_the_next(world: World) -> None:
    """The version is there; the event still waits, and whoever takes it up looks again."""
    bucket = await world.bucket(new_bucket_name())
    await apart(world, bucket)
    lost = await written(world, "site-b", bucket, "k", b"lost")
    won = await world["site-a"].put(bucket, "k", b"won")
    await world["site-a"].tag(bucket, "k", {"now": "tagged"})

    async def die(*_: object) -> None:
        raise Unavailable("the control catalog is away")

    dying = Shipping(world.open_site, source="site-a", target="site-b", rule=bucket, met=die)
    waiting = await outbox.waiting(
        world["site-a"].ground.catalog, f"{bucket}>site-b", skip=(), most=10
    )
    with pytest.raises(Unavailable):
        await dying.carry(waiting[0])
    assert (await world["site-b"].head(bucket, "k")).version_id == won.version_id
    assert await ledger(world, bucket) == ()
    async with running(world.stream(route_over(bucket, SITES))):
        await drained(world)
    (row,) = await ledger(world, bucket)
    assert {each["version_id"] for each in row.contenders} == {lost.version_id, won.version_id}


async def test_the_control_catalog_is_waited_for(world: World) -> None:
    """The version is there and read; its event waits until the ledger has the conflict."""
    bucket = await world.bucket(new_bucket_name())
    await apart(world, bucket)
    port = make_url(world.dsn).port
    assert port
    async with (
        BreakableProxy("127.0.0.1", port) as proxy,
        Catalog.open(make_url(world.dsn).set(port=proxy.port).render_as_string(False)) as control,
    ):
        rests = [True]
        stream = world.stream(route_over(bucket, SITES), resting=lambda: rests[0])
        stream.control = control
        await written(world, "site-b", bucket, "k", b"lost")
        won = await world["site-a"].put(bucket, "k", b"won")
        async with running(stream):
            await until(lambda: _is_claimed(world, bucket))
            await proxy.refuse()
            rests[0] = False
            await until(lambda: _serves(world, bucket, won))
            await until(lambda: _waits_alone(world))
            await proxy.heal()
            await drained(world)
    assert all(
        [await counted(each.ground.catalog, "dead_letters") == 0 for each in world.sites.values()]
    )
    assert len(await ledger(world, bucket)) == 1


async def _is_claimed(world: World, bucket: str) -> bool:
    return bool(await windows(world.control, bucket))


async def _serves(world: World, bucket: str, row: ObjectRow) -> bool:
    found = [await each.versions(bucket) for each in world.sites.values()]
    return all(rows and rows[0].version_id == row.version_id for rows in found)


async def _waits_alone(world: World) -> bool:
    """All else was brought."""
    return await world.backlog() == 1


async def test_three_sites_at_once(world: World) -> None:
    """However it arrives, each write that lost is in the ledger, and what is served once won."""
    bucket = await world.bucket(new_bucket_name())
    await apart(world, bucket)
    rows = [await written(world, site, bucket, "k", site.encode()) for site in SITES]
    async with running(world.stream(route_over(bucket, SITES))):
        await drained(world)
    found = await ledger(world, bucket)
    losers = [each.contenders[1 - each.winner]["version_id"] for each in found]
    assert set(losers) == {row.version_id for row in rows[:2]} and len(losers) == 2
    winners = {each.contenders[each.winner]["version_id"] for each in found}
    assert rows[2].version_id in winners


@pytest.mark.parametrize("lost", [b"lost", None])
async def test_the_other_side_can_be_taken(
    world: World, lost: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and stores agree at every site; killed before the ledger knows, and tried again, too."""
    bucket = await world.bucket(new_bucket_name(), encrypted=True, compressed=True)
    async with running(world.stream(route_over(bucket, SITES))):
        await world["site-c"].put(bucket, "k", b"both knew")
        await drained(world)
    await apart(world, bucket)
    if lost:
        await world["site-b"].put(bucket, "k", lost)
    else:
        await world["site-b"].delete(bucket, "k")
    await until(lambda: past(world, bucket, "site-b"))
    await world["site-a"].put(bucket, "k", b"won")
    async with running(world.stream(route_over(bucket, SITES))):
        await drained(world)
        (row,) = await ledger(world, bucket)

        async def die(*_: object, **__: object) -> None:
            raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(resolving, "resolve_conflict", die)
            with pytest.raises(Crash):
                await take(world, row, 1 - row.winner)
        version_id = await take(world, row, 1 - row.winner)
        await drained(world)
        await assert_equal(world, bucket, count=4)
        for each in world.sites.values():
            [newest, *_] = await each.versions(bucket)
            assert newest.version_id == version_id and newest.is_delete_marker is (lost is None)
            found = await check(each.ground, await each.ground.bucket(bucket))
            assert (found.orphan_count, found.missing_count) == (0, 0)
        (row,) = await ledger(world, bucket)
        assert (row.serves, row.taken, row.resolved_by) == (version_id, 1 - row.winner, "ada")
        await take(world, row, row.winner)
        await drained(world)
        async with world["site-b"].get(bucket, "k") as body:
            assert await body.read() == b"won"
        (row,) = await ledger(world, bucket)
        await world["site-c"].put(bucket, "k", b"since")
        with pytest.raises(PreconditionFailed, match="written since"):
            await take(world, row, 1 - row.winner)
        await drained(world)
    assert len(await ledger(world, bucket)) == 1


async def take(world: World, conflict: Conflict, which: int) -> str:
    how: dict[str, Any] = {"conflict": conflict, "taken": which, "by": "ada"}
    return await resolve_managed(world.control, world.sites, **how)
