"""Streams of rules with a tag filter: what fits, what begins to fit, what stops to."""

from entrepot.catalog.conflicts import list_conflicts
from entrepot.objects.shipping import Travels
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.adopted import Told
from tests.replication.stream.test_conflicts import past
from tests.replication.stream.worlds import World, drained, route_over, running, until

A, B = "site-a", "site-b"
SITES = (A, B)
FILTER = {"class": "hot"}
HOT_ONLY = Travels(delete_markers=False, tag_filter=FILTER)


def tagged(**tags: str) -> Wish:
    return Wish(attributes=Attributes(tags=tags))


async def sizes(world: World, site: str, bucket: str) -> dict[str, list[int]]:
    """The sizes of the versions of each key, newest first."""
    found: dict[str, list[int]] = {}
    for row in await world[site].versions(bucket):
        found.setdefault(row.key, []).append(row.size_bytes)
    return found


async def test_managed_buckets(world: World) -> None:
    world.travels = HOT_ONLY
    bucket = await world.bucket(new_bucket_name())
    a, b = world[A], world[B]
    async with running(world.stream(route_over(bucket, SITES))):
        await a.put(bucket, "fits", b"1", wish=tagged(**FILTER, n="1"))
        await a.put(bucket, "fits", b"22", wish=tagged(n="2"))
        await a.put(bucket, "not", b"1")
        await b.put(bucket, "back", b"1", wish=tagged(**FILTER))
        await a.delete(bucket, "fits")
        await drained(world)
        assert await sizes(world, B, bucket) == {"fits": [1], "back": [1]}
        assert (await sizes(world, A, bucket))["back"] == [1]
        # What begins to fit goes along, and so does the change by which it stops, and no other.
        await a.tag(bucket, "not", FILTER)
        await drained(world)
        assert (await b.head(bucket, "not")).attributes["tags"] == FILTER
        await a.tag(bucket, "not", {"class": "cold"})
        await drained(world)
        assert (await b.head(bucket, "not")).attributes["tags"] == {"class": "cold"}
        await a.tag(bucket, "not", {"class": "own"})
        await drained(world)
        assert (await b.head(bucket, "not")).attributes["tags"] == {"class": "cold"}


async def test_conflicts_are_between_what_fits(world: World) -> None:
    """One write lies below another that the rule is not about, and one begins to fit later."""
    world.travels = HOT_ONLY
    bucket = await world.bucket(new_bucket_name())
    a, b = world[A], world[B]
    await b.put(bucket, "k", b"of b", wish=tagged(**FILTER))
    await b.put(bucket, "k", b"above", wish=tagged())
    await b.put(bucket, "none", b"above", wish=tagged())
    await until(lambda: past(world, bucket, B))
    stream = world.stream(route_over(bucket, SITES))
    async with running(stream):
        for key in ("k", "none"):
            await a.put(bucket, key, b"of a")
        await drained(world)
        for key in ("k", "none"):
            await a.tag(bucket, key, FILTER)
        await drained(world)
    [row] = [each for each in await list_conflicts(world.control) if each.bucket == bucket]
    assert (row.key, [each["size_bytes"] for each in row.contenders]) == ("k", [4, 4])
    assert [each["site"] for each in row.contenders] == [B, A]
    await drained(world)


async def test_adopted_buckets(told: Told) -> None:
    told.world.travels = HOT_ONLY
    bucket = await told.bucket(new_bucket_name())
    where = {"Bucket": bucket, "Key": "later"}
    async with running(told.world.stream(route_over(bucket, SITES))):
        await told.does(A, "put_object", Bucket=bucket, Key="fits", Body=b"1", Tagging="class=hot")
        await told.does(A, "put_object", Bucket=bucket, Key="not", Body=b"1", Tagging="class=warm")
        await told.does(A, "put_object", **where, Body=b"1")
        await told.quiet()
        await until(lambda: has(told, bucket, {"fits": FILTER}))
        hot = {"TagSet": [{"Key": "class", "Value": "hot"}]}
        await told.does(A, "put_object_tagging", **where, Tagging=hot)
        await until(lambda: has(told, bucket, {"fits": FILTER, "later": FILTER}))
        await told.does(A, "delete_object_tagging", **where)
        await until(lambda: has(told, bucket, {"fits": FILTER, "later": {}}))
        await told.quiet()


async def has(told: Told, bucket: str, wanted: dict[str, dict[str, str]]) -> bool:
    """Whether these objects are at B, with these tags."""
    found = await told.history(B, bucket)
    return {each[0]: dict(each[6].tags) for each in found} == wanted
