"""A rule's stream between real sites: what is written at one is soon at the others, and once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from entrepot.objects.writes import Wish
from entrepot.replication.stream.engine import Stream, subscribe_site
from entrepot.store.protocol import Attributes
from tests.objects.conftest import KINDS
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import World, counted, history, rule_over

SITES = ("site-a", "site-b", "site-c")


@asynccontextmanager
async def running(stream: Stream) -> AsyncIterator[Stream]:
    """The stream at work, subscribed."""
    for site in stream.rule.sites:
        await subscribe_site(await stream.open_catalog(site), stream.rule, site)
    async with asyncio.TaskGroup() as tasks:  # an error of the stream's ends the test
        task = tasks.create_task(stream.run(holder="test"))
        yield stream
        task.cancel()


async def drained(world: World, *, timeout_s: float = 20.0) -> None:
    """Wait until nothing waits."""
    async with asyncio.timeout(timeout_s):
        while await world.backlog():  # noqa: ASYNC110 - it is another's commit
            await asyncio.sleep(0.02)


async def assert_equal(world: World, bucket: str, *, count: int) -> None:
    """Every site tells the same history, and its books hold."""
    told = [await history(each, bucket) for each in world.sites.values()]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == count
    for each in world.sites.values():
        assert await each.usage(bucket) == await each.usage(bucket, recount=True)
        assert await counted(each.ground.catalog, "intents") == 0
        assert await counted(each.ground.catalog, "effects") == 0


@pytest.mark.parametrize("kind", list(KINDS))
async def test_what_is_written_anywhere_comes_everywhere(world: World, kind: str) -> None:
    bucket = await world.bucket(new_bucket_name(), **KINDS[kind])
    big = b"something that compresses " * 90_000
    async with running(world.stream(rule_over(bucket, SITES))):
        wish = Wish(attributes=Attributes("text/plain", {"author": "ada"}, tags={"a": "1"}))
        await world["site-a"].put(bucket, "k", b"one", wish=wish)
        await world["site-b"].put(bucket, "b/empty", b"")
        await world["site-c"].put(bucket, "b/big", big)
        await drained(world)
        await world["site-b"].put(bucket, "k", b"two")
        await world["site-c"].delete(bucket, "b/empty")
        await drained(world)
    await assert_equal(world, bucket, count=5)
    newest = await world["site-a"].head(bucket, "k")
    assert newest.parent and newest.parent.site == "site-a"
