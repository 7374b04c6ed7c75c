"""Tags and locks of adopted buckets that change later: heard of, brought, and never in a circle."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.catalog.objects.read import history_of
from entrepot.errors import Unavailable
from entrepot.objects.altered import COMING, STAMPS, seen, united
from entrepot.objects.shipping import Travels
from entrepot.stamp import Stamp
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.adopted import Told
from tests.replication.stream.test_notices import TAGGED, event, outcome
from tests.replication.stream.worlds import counted, drained, route_over, running, until

A, B = "site-a", "site-b"
SITES = (A, B)
HELD = "s3:ObjectCreated:PutLegalHold"


async def put(told: Told, site: str, bucket: str, key: str, **more: Any) -> str:
    answer = await told.does(site, "put_object", Bucket=bucket, Key=key, Body=b"1", **more)
    return str(answer["VersionId"])


async def retag(told: Told, site: str, bucket: str, key: str, tags: Mapping[str, str]) -> None:
    pairs = [{"Key": name, "Value": value} for name, value in tags.items()]
    where = {"Bucket": bucket, "Key": key}
    await told.does(site, "put_object_tagging", **where, Tagging={"TagSet": pairs})


async def tags_at(told: Told, site: str, bucket: str, key: str) -> dict[str, str]:
    found = await told.does(site, "get_object_tagging", Bucket=bucket, Key=key)
    return {pair["Key"]: pair["Value"] for pair in found["TagSet"]}


async def agreed(told: Told, bucket: str, key: str, tags: Mapping[str, str]) -> None:
    """Wait until both sites have these tags."""

    async def holds() -> bool:
        return all([await tags_at(told, site, bucket, key) == tags for site in SITES])

    try:
        await until(holds, timeout_s=60)
    except TimeoutError:
        found = [await tags_at(told, site, bucket, key) for site in SITES]
        raise AssertionError(found) from None


async def test_changes_anywhere_come_everywhere_once(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name(), locked=True)
    where = {"Bucket": bucket, "Key": "k"}
    until_then = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    async with running(told.world.stream(route_over(bucket, SITES))):
        await put(told, A, bucket, "k", Tagging="a=1&b=1")
        await told.equal(bucket, count=1)
        await retag(told, A, bucket, "k", {"a": "2", "b": "1"})
        await agreed(told, bucket, "k", {"a": "2", "b": "1"})
        await retag(told, B, bucket, "k", {"a": "2", "c": "1"})
        await agreed(told, bucket, "k", {"a": "2", "c": "1"})
        await told.does(A, "delete_object_tagging", **where)
        await agreed(told, bucket, "k", {})
        lock = {"Mode": "GOVERNANCE", "RetainUntilDate": until_then}
        await told.does(B, "put_object_retention", **where, Retention=lock)
        await until(lambda: locked(told, bucket, until_then, hold=False), timeout_s=60)
        await told.does(A, "put_object_legal_hold", **where, LegalHold={"Status": "ON"})
        await until(lambda: locked(told, bucket, until_then, hold=True), timeout_s=60)
        await told.quiet()
        await told.equal(bucket, count=1)
    # The write, two changes of tags and the hold; one of tags and the retention: no echo.
    assert await told.shipped(bucket) == {A: 4, B: 2}


async def locked(told: Told, bucket: str, until_then: datetime, *, hold: bool) -> bool:
    """Whether the one version is kept at both sites."""
    found = [(await told.history(site, bucket))[0][-1] for site in SITES]
    return all((each.until, each.hold) == (until_then, hold) for each in found)


async def test_both_change_tags_at_once(told: Told) -> None:
    """Tag by tag, the later change; told of twice and late, that stays so."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    version = await put(told, A, bucket, "k", Tagging="a=0&b=0&c=0")
    altered = event(bucket, "k", version, kind=TAGGED)
    stream = told.world.stream(route_over(bucket, SITES))
    async with running(stream):
        assert await outcome(told, A, event(bucket, "k", version)) == "new"
        await told.equal(bucket, count=1)
        await drained(told.world)
    await retag(told, A, bucket, "k", {"a": "1", "b": "1", "c": "0"})
    await retag(told, B, bucket, "k", {"a": "0", "b": "2"})
    assert await outcome(told, A, altered) == "altered"
    assert await outcome(told, B, altered) == "altered"
    async with running(told.world.stream(route_over(bucket, SITES))):
        await agreed(told, bucket, "k", {"a": "1", "b": "2"})
        await drained(told.world)
        for _ in range(2):
            assert [await outcome(told, site, altered) for site in SITES] == ["known"] * 2
        await drained(told.world)
    assert await told.shipped(bucket) == {A: 2, B: 1}


async def test_what_we_set_ourselves_is_no_news(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store tells of our change while it is being made, before and after."""
    bucket = await told.bucket(new_bucket_name(), locked=True, followed=False)
    store = told.world[B].ground.store
    tag, hold = store.tag, store.hold
    heard: list[str] = []

    async def tagging(bucket: str, key: str, tags: Mapping[str, str], *, version_id: str) -> None:
        altered = event(bucket, key, version_id, kind=TAGGED)
        heard.append(await outcome(told, B, altered))
        await tag(bucket, key, tags, version_id=version_id)
        heard.append(await outcome(told, B, altered))

    async def holding(bucket: str, key: str, on: bool, *, version_id: str) -> None:
        await hold(bucket, key, on, version_id=version_id)
        heard.append(await outcome(told, B, event(bucket, key, version_id, kind=HELD)))

    monkeypatch.setattr(store, "tag", tagging)
    monkeypatch.setattr(store, "hold", holding)
    async with running(told.world.stream(route_over(bucket, SITES))):
        version = await put(told, A, bucket, "k", Tagging="a=1")
        await outcome(told, A, event(bucket, "k", version))
        await told.equal(bucket, count=1)
        await retag(told, A, bucket, "k", {"a": "2"})
        assert await outcome(told, A, event(bucket, "k", version, kind=TAGGED)) == "altered"
        await agreed(told, bucket, "k", {"a": "2"})
        where = {"Bucket": bucket, "Key": "k"}
        await told.does(A, "put_object_legal_hold", **where, LegalHold={"Status": "ON"})
        assert await outcome(told, A, event(bucket, "k", version, kind=HELD)) == "altered"
        await told.equal(bucket, count=1)
        await drained(told.world)
    assert len(heard) >= 3 and set(heard) == {"known"}  # a change may be made twice
    assert await told.shipped(bucket) == {A: 3, B: 0}


async def test_a_change_that_breaks_off_is_brought_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after the store had it; what a user changed there, untold, is not overwritten."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    store = told.world[B].ground.store
    tag, asked = store.tag, 0

    async def breaking(bucket: str, key: str, tags: Mapping[str, str], *, version_id: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await retag(told, B, bucket, key, {"a": "1", "c": "1"})
            raise Unavailable("cut before")
        await tag(bucket, key, tags, version_id=version_id)
        if asked == 2:
            raise Unavailable("cut after")

    async with running(told.world.stream(route_over(bucket, SITES))):
        version = await put(told, A, bucket, "k", Tagging="a=1")
        await outcome(told, A, event(bucket, "k", version))
        await told.equal(bucket, count=1)
        monkeypatch.setattr(store, "tag", breaking)
        await retag(told, A, bucket, "k", {"a": "2"})
        assert await outcome(told, A, event(bucket, "k", version, kind=TAGGED)) == "altered"
        await agreed(told, bucket, "k", {"a": "2", "c": "1"})
        await drained(told.world)
    row = await told.world[B].ground.bucket(bucket)
    rows = f"versions WHERE bucket_id = {row.id} AND attributes ? '{COMING}'"
    assert await counted(told.world[B].ground.catalog, rows) == 0


async def test_a_version_from_before_the_bucket_was_followed(told: Told) -> None:
    """Both sites have it already; its first change that is told of goes along."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    stream = told.world.stream(route_over(bucket, SITES))
    version = await put(told, A, bucket, "k", Tagging="a=1&b=1")
    async with running(stream):
        await outcome(told, A, event(bucket, "k", version))
        await told.equal(bucket, count=1)
        await drained(told.world)
    for site in SITES:  # as if a sweep had brought it
        ground = told.world[site].ground
        named = {"id": (await ground.bucket(bucket)).id}
        async with ground.catalog.transaction() as transaction:
            await transaction.at_once(("DELETE FROM versions WHERE bucket_id = %(id)s", named))
    await retag(told, A, bucket, "k", {"a": "2", "b": "1"})
    async with running(told.world.stream(route_over(bucket, SITES))):
        assert await outcome(told, A, event(bucket, "k", version, kind=TAGGED)) == "altered"
        await agreed(told, bucket, "k", {"a": "2", "b": "1"})
        await drained(told.world)
        await retag(told, B, bucket, "k", {"a": "2"})
        assert await outcome(told, B, event(bucket, "k", version, kind=TAGGED)) == "altered"
        await agreed(told, bucket, "k", {"a": "2"})
        await drained(told.world)


async def test_what_the_rule_leaves_at_home_stays(told: Told) -> None:
    told.world.travels = Travels(tags=False, locks=False)
    bucket = await told.bucket(new_bucket_name(), locked=True)
    where = {"Bucket": bucket, "Key": "k"}
    async with running(told.world.stream(route_over(bucket, SITES))):
        await put(told, A, bucket, "k", Tagging="a=1")
        await told.quiet()
        await retag(told, A, bucket, "k", {"a": "2"})
        await told.does(A, "put_object_legal_hold", **where, LegalHold={"Status": "ON"})
        await until(lambda: is_known(told, bucket, {"a": "2"}), timeout_s=60)
        await told.quiet()
        await drained(told.world)
    [there] = await told.history(B, bucket)
    assert dict(there[6].tags) == {} and not there[-1].hold


async def is_known(told: Told, bucket: str, tags: Mapping[str, str]) -> bool:
    """Whether A's catalog has heard of these tags and a hold of the one version."""
    ground = told.world[A].ground
    bucket_id = (await ground.bucket(bucket)).id
    [row] = await history_of(ground.catalog, bucket_id=bucket_id, key="k")
    return row.attributes["tags"] == tags and row.attributes.get("lock", {}).get("hold", False)


# Pure

NAMES = st.sampled_from("abc")
TAGS = st.dictionaries(NAMES, st.sampled_from("123"))
CHANGES = st.lists(st.tuples(st.integers(0, 2), TAGS), max_size=8)


@given(CHANGES, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8), TAGS)
def test_sites_agree_whoever_hears_of_what_when(
    changes: list[tuple[int, dict[str, str]]], exchanges: list[tuple[int, int]], first: Any
) -> None:
    rows: list[dict[str, Any]] = [{"tags": first} for _ in range(3)]
    last: dict[str, str | None] = dict(first)
    for time_ms, (site, tags) in enumerate(changes, start=1):
        stamp = str(Stamp(time_ms, f"site-{site}", "w"))
        before = rows[site]["tags"]
        rows[site] = seen(rows[site], tags, lambda _, stamp=stamp: stamp)
        last |= {
            name: tags.get(name) for name in {*before, *tags} if before.get(name) != tags.get(name)
        }
        for source, target in exchanges[:time_ms]:
            rows[target] = united(rows[target], rows[source])
    for _ in range(2):
        for source in range(3):
            rows = [united(row, rows[source]) for row in rows]
    wanted = {name: value for name, value in last.items() if value is not None}
    assert [row["tags"] for row in rows] == [wanted] * 3
    assert [united(row, rows[0]) for row in rows] == rows


def test_what_is_about_to_come_is_no_news() -> None:
    has = {"tags": {"a": "1"}, COMING: {"a": "2"}}
    assert seen(has, {"a": "2"}, str) == seen(has, {"a": "1"}, str) == has
    assert seen(has, {"a": "3"}, str)[STAMPS] == {"a": "a"}


def test_of_what_was_never_seen_all_counts_or_nothing() -> None:
    assert seen({}, {"a": "1"}, str) == {"tags": {"a": "1"}, STAMPS: {"a": "a"}}
    assert seen({}, {"a": "1"}, str, is_told=False) == {"tags": {"a": "1"}}
