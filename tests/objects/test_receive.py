"""Versions of other sites, as they come in: whole, once, in any order, not after a removal."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.objects.outbox import subscribe
from entrepot.catalog.objects.read import get_version
from entrepot.catalog.objects.replicas import forget_purges
from entrepot.errors import AccessDenied, DeleteMarker, Unsupported
from entrepot.objects.check import check
from entrepot.objects.names import stored_key
from entrepot.objects.receive import Received, Receiver, merged
from entrepot.objects.recover import Recovered, recover
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes, Body, LockMode
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import counted, history


class Pair:
    """A bucket at two sites; ``here`` receives."""

    def __init__(self, here: Objects, there: Objects, bucket: str) -> None:
        self.here, self.there, self.bucket = here, there, bucket
        self.receiver = Receiver(here.ground, actor="test")

    async def send(self, row: ObjectRow) -> Received:
        bucket = await self.here.ground.bucket(self.bucket)
        return await self.receiver.receive(bucket, row, lambda: self._open(row))

    def _open(self, row: ObjectRow) -> AbstractAsyncContextManager[Body]:
        store = self.there.ground.store
        return store.get(self.bucket, stored_key(row.key), version_id=row.version_id)

    async def remove(self, row: ObjectRow) -> Received:
        bucket = await self.here.ground.bucket(self.bucket)
        return await self.receiver.remove(bucket, row.key, row.version_id)

    async def assert_equal(self) -> None:
        assert await history(self.here, self.bucket) == await history(self.there, self.bucket)
        assert await self.here.usage(self.bucket) == await self.here.usage(
            self.bucket, recount=True
        )
        ground = self.here.ground
        found = await check(ground, await ground.bucket(self.bucket))
        assert (found.orphan_count, found.missing_count) == (0, 0)


@pytest_asyncio.fixture(params=[{}, {"encrypted": True, "compressed": True}])
async def pair(objects: Objects, there: Objects, request: pytest.FixtureRequest) -> Pair:
    return await pair_of(objects, there, **request.param)


async def pair_of(objects: Objects, there: Objects, **kind: bool) -> Pair:
    name = new_bucket_name()
    for each in (objects, there):
        await each.create_bucket(name, tenant_id="acme", **kind)
    return Pair(objects, there, name)


async def some_history(pair: Pair) -> list[ObjectRow]:
    """Overwrites, a marker, an empty object, a folder, attributes, an upload, a long body."""
    there, bucket = pair.there, pair.bucket
    wish = Wish(attributes=Attributes("text/x", {"author": "ada"}, {}, {"a": "1"}))
    rows = [await there.put(bucket, "k", f"{number} ".encode() * 900) for number in range(3)]
    rows.append(await there.put(bucket, "k", b"tagged", wish=wish))
    marker = await there.delete(bucket, "k")
    assert marker
    upload = await there.start_upload(bucket, "parts", wish=wish)
    part = await there.put_part(bucket, "parts", upload, number=1, source=b"p" * (5 << 20))
    last = await there.put_part(bucket, "parts", upload, number=2, source=b"q" * 10)
    named = [(1, part.etag), (2, last.etag)]
    rows += [marker, await there.complete_upload(bucket, "parts", upload, named)]
    rows += [await there.put(bucket, "folder/", b""), await there.put(bucket, "a b/ü", b"x" * 70)]
    rows.append(await there.put(bucket, "long", b"0123456789abcdef" * 200_000))
    return rows


async def test_in_any_order_and_twice(pair: Pair) -> None:
    rows = await some_history(pair)
    sent = rows * 2
    random.Random(5).shuffle(sent)
    found = await asyncio.gather(*map(pair.send, sent))
    assert set(found) <= {Received.TAKEN, Received.KNOWN}
    await pair.assert_equal()
    with pytest.raises(DeleteMarker):
        await pair.here.head(pair.bucket, "k")
    assert await pair.send(rows[0]) is Received.KNOWN


async def test_a_replica_is_known_as_one_and_the_next_write_descends_from_it(pair: Pair) -> None:
    ground = pair.here.ground
    bucket = await ground.bucket(pair.bucket)
    await subscribe(ground.catalog, name="r>site-b", bucket_ids=[bucket.id], prefix="")
    before = await counted(ground.catalog, "outbox")
    row = await pair.there.put(pair.bucket, "k", b"theirs")
    assert await pair.send(row) is Received.TAKEN
    await pair.there.tag(pair.bucket, "k", {"a": "2"})
    altered = await pair.there.head(pair.bucket, "k")
    assert await pair.send(altered) is Received.MERGED
    await pair.remove(row)
    assert await counted(ground.catalog, "outbox") == before
    assert await pair.send(await pair.there.put(pair.bucket, "l", b"x")) is Received.TAKEN
    ours = await pair.here.put(pair.bucket, "l", b"ours")
    assert ours.parent and ours.parent.site == "site-b" and ours.stamp > ours.parent
    assert await counted(ground.catalog, "outbox") == before + 1


async def test_what_was_removed_does_not_come_back(objects: Objects, there: Objects) -> None:
    pair = await pair_of(objects, there)
    row = await pair.there.put(pair.bucket, "k", b"one")
    assert await pair.send(row) is Received.TAKEN
    await pair.here.delete(pair.bucket, "k", version_id=row.version_id)
    assert await pair.send(row) is Received.REMOVED
    # The removal may come first.
    second = await pair.there.put(pair.bucket, "l", b"two")
    assert await pair.remove(second) is Received.REMOVED
    assert await pair.send(second) is Received.REMOVED
    assert await history(pair.here, pair.bucket) == []
    assert await forget_purges(pair.here.ground.catalog) == 0
    assert await forget_purges(pair.here.ground.catalog, horizon=timedelta()) >= 2
    assert await pair.send(second) is Received.TAKEN


async def test_a_removal_on_the_way_wins(objects: Objects, there: Objects) -> None:
    """The version is removed while its bytes come: neither a row nor its bytes are left."""
    pair = await pair_of(objects, there)
    row = await pair.there.put(pair.bucket, "k", b"one")
    bucket = await pair.here.ground.bucket(pair.bucket)

    class Opening:
        async def __aenter__(self) -> Body:
            await pair.remove(row)
            self.opened = pair._open(row)
            return await self.opened.__aenter__()

        async def __aexit__(self, *error: Any) -> None:
            await self.opened.__aexit__(*error)

    received: Any = pair.receiver.receive(bucket, row, Opening)
    with pytest.raises(Exception, match="given up"):
        await received
    assert await pair.send(row) is Received.REMOVED
    await recover(pair.here.ground, older_s=0)
    [page] = [page async for page in pair.here.ground.store.versions(pair.bucket)]
    assert page.versions == []


async def test_a_receiver_that_died_is_followed(objects: Objects, there: Objects) -> None:
    """Its intent is left: with the bytes in the store it is completed, without them released."""
    pair = await pair_of(objects, there)
    rows = [await pair.there.put(pair.bucket, key, b"one") for key in ("whole", "not")]
    bucket = await pair.here.ground.bucket(pair.bucket)
    for row in rows:
        begun = await pair.receiver._begins.submit(_coming(bucket, row))
        pair.here.ground.under_way.discard(begun.intent.write_id)
    await pair.receiver._store(bucket, rows[0], lambda: pair._open(rows[0]))
    found = await check(pair.here.ground, bucket)
    assert found.orphan_count == 0  # it is on its way
    async with pair.here.ground.catalog.begin() as connection:
        await connection.execute(text("UPDATE intents SET expires_at = '-infinity'"))
    assert await recover(pair.here.ground) == Recovered(completed=1, released=1)
    [told] = await history(pair.here, pair.bucket)
    assert told in await history(pair.there, pair.bucket)
    assert await pair.send(rows[1]) is Received.TAKEN
    await pair.assert_equal()


def _coming(bucket: Any, row: ObjectRow) -> Any:
    from entrepot.objects.receive import _Coming

    return _Coming(bucket, row)


async def test_the_future_is_kept_and_not_applied(objects: Objects, there: Objects) -> None:
    pair = await pair_of(objects, there)
    row = await pair.there.put(pair.bucket, "k", b"one")
    ours = await pair.here.put(pair.bucket, "k", b"ours")
    day_ms = 86_400_000
    later = replace(row, stamp=replace(row.stamp, time_ms=row.stamp.time_ms + day_ms))
    assert await pair.send(later) is Received.QUARANTINED
    assert (await pair.here.head(pair.bucket, "k")).version_id == ours.version_id
    [first, second] = await pair.here.versions(pair.bucket)
    assert first.is_quarantined and not second.is_quarantined
    assert await pair.here.put(pair.bucket, "k", b"again") != ours
    assert (await pair.here.head(pair.bucket, "k")).stamp < later.stamp


async def test_a_time_ahead_within_the_bound_pushes_this_clock(
    objects: Objects, there: Objects
) -> None:
    pair = await pair_of(objects, there)
    row = await pair.there.put(pair.bucket, "k", b"one")
    ahead = replace(row, stamp=replace(row.stamp, time_ms=row.stamp.time_ms + 5_000))
    assert await pair.send(ahead) is Received.TAKEN
    other = await pair.here.put(pair.bucket, "another", b"")
    assert other.stamp.time_ms >= ahead.stamp.time_ms


async def test_locks_travel_and_protect(objects: Objects, there: Objects) -> None:
    pair = await pair_of(objects, there, locked=True)
    bucket = pair.bucket
    row = await pair.there.put(bucket, "k", b"one")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    held = await pair.there.hold(bucket, "k", on=True)
    assert await pair.send(held) is Received.TAKEN
    kept = await pair.there.retain(bucket, "k", mode=LockMode.GOVERNANCE, until=until)
    assert await pair.send(kept) is Received.MERGED
    lock = await pair.here.ground.store.lock(bucket, "k", version_id=row.version_id)
    assert (lock.mode, lock.until, lock.hold) == (LockMode.GOVERNANCE, until, True)
    with pytest.raises(AccessDenied):
        await pair.remove(row)
    assert await pair.send(row) is Received.KNOWN  # an older state comes late
    assert await pair.send(await pair.there.hold(bucket, "k", on=False)) is Received.MERGED
    lock = await pair.here.ground.store.lock(bucket, "k", version_id=row.version_id)
    assert (lock.until, lock.hold) == (until, False)
    await pair.here.delete(bucket, "k", version_id=row.version_id, bypass=True)
    plain = await pair_of(objects, there)
    row = await plain.there.put(plain.bucket, "k", b"one")
    locked = replace(row, attributes={"lock": {"mode": None, "until": None, "hold": True}})
    with pytest.raises(Unsupported):
        await plain.send(locked)
    await recover(plain.here.ground)


@pytest.mark.parametrize("last", ["older", "newer"])
async def test_two_receivers_of_one_version_lose_no_change_of_it(
    objects: Objects, there: Objects, last: str
) -> None:
    """As when a write and its tags are brought by two streams at once."""
    pair = await pair_of(objects, there, locked=True)
    older = await there.put(pair.bucket, "k", b"x")
    await there.tag(pair.bucket, "k", {"now": "tagged"})
    await there.hold(pair.bucket, "k", on=True)
    newer = await there.head(pair.bucket, "k")
    slow, quick = (older, newer) if last == "older" else (newer, older)
    may_read, reads = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slowly() -> AsyncIterator[Body]:
        reads.set()
        await may_read.wait()
        async with pair._open(slow) as body:
            yield body

    bucket = await objects.ground.bucket(pair.bucket)
    waits = asyncio.create_task(pair.receiver.receive(bucket, slow, slowly))
    await reads.wait()
    await pair.send(quick)
    may_read.set()
    await waits
    await pair.assert_equal()
    here = objects.ground.store
    assert await here.tags(pair.bucket, "k", version_id=older.version_id) == {"now": "tagged"}
    assert (await here.lock(pair.bucket, "k", version_id=older.version_id)).hold


async def test_tags_of_two_sites_end_equal(objects: Objects, there: Objects) -> None:
    pair = await pair_of(objects, there)
    row = await pair.there.put(pair.bucket, "k", b"one")
    await pair.send(row)
    theirs = await pair.there.tag(pair.bucket, "k", {"by": "there"})
    ours = await pair.here.tag(pair.bucket, "k", {"by": "here"})
    assert await pair.send(theirs) is Received.KNOWN  # ours is later
    back = Pair(pair.there, pair.here, pair.bucket)
    assert await back.send(ours) is Received.MERGED
    await pair.assert_equal()
    for each in (pair.here, pair.there):
        tags = await each.ground.store.tags(pair.bucket, "k", version_id=row.version_id)
        assert tags == {"by": "here"}


async def test_other_bytes_are_refused(objects: Objects, there: Objects) -> None:
    """Bytes that changed at the source since they were stored do not become a replica."""
    pair = await pair_of(objects, there)
    row = await pair.there.put(pair.bucket, "k", b"one")

    class Damaged:
        def __init__(self, body: Body) -> None:
            self.version, self.length = body.version, body.length

        async def read(self) -> bytes:
            return b"two"

    class Opening:
        async def __aenter__(self) -> Any:
            self.opened = pair._open(row)
            return Damaged(await self.opened.__aenter__())

        async def __aexit__(self, *error: Any) -> None:
            await self.opened.__aexit__(*error)

    bucket = await pair.here.ground.bucket(pair.bucket)
    with pytest.raises(Exception, match=r"(?i)md5|digest"):
        await pair.receiver.receive(bucket, row, Opening)
    place = {"bucket_id": bucket.id, "key": "k", "version_id": row.version_id}
    assert await get_version(pair.here.ground.catalog, **place) is None


TIMES = st.integers(1, 4).map(str)
STAMPS = st.builds(lambda ms, site: f"{ms}.{site}.w", TIMES, st.sampled_from(["a", "b"]))


@st.composite
def attributes(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes as changes of two sites leave them: what a stamp says is the same everywhere."""
    found: dict[str, Any] = {}
    if stamp := draw(st.none() | STAMPS):
        found |= {"tagged": stamp, "tags": {"by": stamp}}
    mode = draw(st.sampled_from([None, "governance", "compliance"]))
    until = f"2030-01-0{draw(st.integers(1, 3))}T00:00:00+00:00" if mode else None
    held = draw(st.none() | STAMPS)
    if held:
        found["held"] = held
    if mode or held:
        hold = bool(held) and held.endswith("a.w")
        found["lock"] = {"mode": mode, "until": until, "hold": hold}
    return found


@given(attributes(), attributes(), attributes())
def test_merging_gives_one_end_whatever_the_order(
    a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]
) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(a, a) == a
    assert merged(merged(a, b), b) == merged(a, b)
