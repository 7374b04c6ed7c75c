"""Sweeps compare tags and locks of managed versions: rows and stores say the same afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest_asyncio

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.objects.read import get_version
from entrepot.clock import SYSTEM_CLOCK
from entrepot.objects.names import shown_key, stored_key
from entrepot.objects.receive import Received
from entrepot.objects.removal import TAGGED
from entrepot.objects.service import Objects
from entrepot.objects.traits import give, traits_of
from entrepot.replication.agree import Disputed, agree_on_traits
from entrepot.replication.policy import Policy
from entrepot.replication.sites import Named, Site
from entrepot.replication.sweep import Options, Range
from entrepot.replication.totals import Totals
from entrepot.replication.traits import Agreed, Tags, Traits
from entrepot.stamp import Stamp
from entrepot.store.protocol import Lock, LockMode
from entrepot.terms import Travel
from tests.objects.test_receive import Pair, pair_of
from tests.objects.worlds import ALL

SOONER, LATER = (datetime(year, 1, 1, tzinfo=UTC) for year in (2090, 2091))


@dataclass(frozen=True)
class Rows:
    """One site's catalog, as the worker asks it; ``interrupt`` runs before each change."""

    objects: Objects
    is_managed: bool = True
    interrupt: Any = None

    async def traits(self, bucket: str, names: Sequence[Named]) -> Mapping[Named, Traits] | None:
        if not self.is_managed:
            return None
        ground = self.objects.ground
        return await traits_of(ground, await ground.bucket(bucket), names)

    async def alter(
        self, bucket: str, key: str, version_id: str, *, seen: Traits, agreed: Agreed
    ) -> bool:
        if self.interrupt:
            await self.interrupt()
        ground = self.objects.ground
        found = await ground.bucket(bucket)
        return await give(ground, found, shown_key(key), version_id, seen=seen, agreed=agreed)


class Known(dict[Named, Tags]):
    """What was agreed on, in memory."""

    async def base(self, after: str, last: str) -> Mapping[Named, Tags]:
        return {named: tags for named, tags in self.items() if after < named[0] <= last}

    async def agreed(self, tags: Mapping[Named, Tags]) -> None:
        self.update(tags)

    async def disputes(self, found: Sequence[Disputed]) -> None:
        assert not found


@dataclass
class Swept:
    """A pair under sweeps."""

    pair: Pair
    rows: tuple[Rows, Rows]
    known: Known

    async def sweep(self, *travels: Travel) -> Totals:
        async def checkpoint(_last: str, _since: Totals) -> None:
            return

        services = self.pair.here, self.pair.there
        sites = [
            Site(f"site-{'ab'[rank]}", rank, each.ground.store, ALL, rows=self.rows[rank])
            for rank, each in enumerate(services)
        ]
        policy = Policy(travels=frozenset(travels or Travel))
        now_ms = round(SYSTEM_CLOCK.now().timestamp() * 1000)
        totals, findings = await agree_on_traits(
            sites,
            self.pair.bucket,
            keys=Range(),
            options=Options(100, 4, horizon_ms=lambda: now_ms + 60_000, policy=policy),
            guard=lambda: None,
            checkpoint=checkpoint,
            bases=self.known,
        )
        assert totals.failed == 0, findings.rows
        return totals

    async def said(self, row: ObjectRow) -> list[tuple[dict[str, str], Lock]]:
        """Tags and lock by row and by store, of both sites."""
        found = []
        for each in (self.pair.here, self.pair.there):
            ground, name = each.ground, stored_key(row.key)
            [told] = (
                await traits_of(
                    ground, await ground.bucket(self.pair.bucket), [(name, row.version_id)]
                )
            ).values()
            found.append((dict(told.tags), told.lock))
            where = {"version_id": row.version_id}
            stored = await ground.store.tags(self.pair.bucket, name, **where)
            lock = await ground.store.lock(self.pair.bucket, name, **where)
            found.append((dict(stored), lock))
        return found

    async def row(self, objects: Objects, row: ObjectRow) -> ObjectRow:
        bucket = await objects.ground.bucket(self.pair.bucket)
        place = {"bucket_id": bucket.id, "key": row.key, "version_id": row.version_id}
        found = await get_version(objects.ground.catalog, **place)
        assert found
        return found


@pytest_asyncio.fixture
async def swept(objects: Objects, there: Objects) -> Swept:
    pair = await pair_of(objects, there, locked=True, encrypted=True)
    return Swept(pair, (Rows(objects), Rows(there)), Known())


async def test_the_later_change_counts_in_rows_and_stores(swept: Swept) -> None:
    pair = swept.pair
    here, there_, bucket = pair.here, pair.there, pair.bucket
    row = await there_.put(bucket, "k ü", b"x")
    assert await pair.send(row) is Received.TAKEN
    tagged = [
        await objects.tag(bucket, "k ü", {"by": objects.ground.site}) for objects in (here, there_)
    ]
    # Other tests of the session may have pushed one site's clock ahead.
    last = max((each.attributes for each in tagged), key=lambda each: Stamp.parse(each[TAGGED]))
    await here.hold(bucket, "k ü", on=True)
    await here.retain(bucket, "k ü", mode=LockMode.GOVERNANCE, until=LATER)
    await there_.retain(bucket, "k ü", mode=LockMode.COMPLIANCE, until=SOONER)
    await there_.hold(bucket, "k ü", on=True)
    assert (await swept.sweep()).altered == 2
    wanted = last["tags"], Lock(LockMode.COMPLIANCE, LATER, hold=True)
    assert await swept.said(row) == [wanted] * 4
    ours, theirs = await swept.row(here, row), await swept.row(there_, row)
    assert ours.attributes == theirs.attributes  # stamps too, so a stream finds nothing to do
    assert await pair.send(theirs) is Received.KNOWN
    assert await swept.sweep() == Totals()

    await here.hold(bucket, "k ü", on=False)
    assert (await swept.sweep()).altered == 1
    assert [lock.hold for _, lock in await swept.said(row)] == [False] * 4
    assert await swept.sweep() == Totals()


async def test_what_does_not_travel_stays_as_it_is(swept: Swept) -> None:
    pair = swept.pair
    row = await pair.there.put(pair.bucket, "k", b"x")
    await pair.send(row)
    await pair.there.tag(pair.bucket, "k", {"s": "1"})
    await pair.there.hold(pair.bucket, "k", on=True)
    assert (await swept.sweep(Travel.LOCKS)).altered == 1
    ours = {"s": "1"}, Lock(hold=True)
    assert await swept.said(row) == [({}, Lock(hold=True))] * 2 + [ours] * 2
    await pair.here.hold(pair.bucket, "k", on=False)
    assert (await swept.sweep(Travel.TAGS)).altered == 1
    assert await swept.said(row) == [({"s": "1"}, Lock())] * 2 + [ours] * 2


async def test_what_the_stream_brought_meanwhile_is_not_undone(swept: Swept) -> None:
    pair = swept.pair
    row = await pair.there.put(pair.bucket, "k", b"x")
    await pair.send(row)
    await pair.there.tag(pair.bucket, "k", {"s": "1"})

    async def interrupt() -> None:
        swept.rows = Rows(pair.here), Rows(pair.there)
        await pair.send(await pair.there.tag(pair.bucket, "k", {"s": "2"}))

    swept.rows = Rows(pair.here, interrupt=interrupt), Rows(pair.there)
    await swept.sweep()
    assert [tags for tags, _ in await swept.said(row)] == [{"s": "2"}] * 4
    assert await swept.sweep() == Totals()


async def test_a_store_that_is_behind_its_catalog_is_told_again(swept: Swept) -> None:
    pair = swept.pair
    row = await pair.there.put(pair.bucket, "k", b"x")
    await pair.send(row)
    await pair.send(await pair.there.tag(pair.bucket, "k", {"s": "1"}))
    where = {"version_id": row.version_id}
    await pair.here.ground.store.tag(pair.bucket, "k", {"s": "other"}, **where)
    await swept.sweep()
    assert [tags for tags, _ in await swept.said(row)] == [{"s": "1"}] * 4
    assert await swept.sweep() == Totals()


async def test_a_managed_and_an_adopted_bucket(swept: Swept) -> None:
    """One side of the pair goes without its catalog: three-way, and rows learn of it."""
    pair = swept.pair
    row = await pair.there.put(pair.bucket, "k", b"x")
    await pair.send(row)
    swept.rows = Rows(pair.here), Rows(pair.there, is_managed=False)
    await pair.here.tag(pair.bucket, "k", {"s": "1", "t": "1"})
    assert (await swept.sweep()).altered == 1
    store, where = pair.there.ground.store, {"version_id": row.version_id}
    assert await store.tags(pair.bucket, "k", **where) == {"s": "1", "t": "1"}
    await store.tag(pair.bucket, "k", {"s": "2", "t": "1"}, **where)
    assert (await swept.sweep()).altered == 1
    found = await swept.row(pair.here, row)
    assert found.attributes["tags"] == {"s": "2", "t": "1"}
    assert await pair.here.ground.store.tags(pair.bucket, "k", **where) == {"s": "2", "t": "1"}
    assert await swept.sweep() == Totals()
    await pair.here.hold(pair.bucket, "k", on=True)
    await swept.sweep()
    await pair.here.hold(pair.bucket, "k", on=False)
    await swept.sweep()  # the adopted one holds it still
    assert (await store.lock(pair.bucket, "k", **where)).hold
    assert (await swept.row(pair.here, row)).attributes["lock"]["hold"]
