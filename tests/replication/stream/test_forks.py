"""Conflicts in adopted buckets, met by a stream."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from entrepot.catalog.lag import lag_of
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.adopted import Told
from tests.replication.stream.test_conflicts import apart, as_a_sweep_sees_it, ledger
from tests.replication.stream.test_notices import event, outcome
from tests.replication.stream.worlds import drained, route_over, running, until

A, B = "site-a", "site-b"
SITES = (A, B)


@pytest.mark.parametrize("first", SITES)
async def test_a_conflict_is_recorded_whichever_copy_comes_first(told: Told, first: str) -> None:
    """As a sweep would see it, once; what follows is none, whoever writes it."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    await apart(told.world, bucket)

    async def write(site: str, verb: str = "put_object", **what: Any) -> None:
        made = await told.does(site, verb, Bucket=bucket, Key="k", **what)
        assert await outcome(told, site, event(bucket, "k", made["VersionId"])) == "new"
        await asyncio.sleep(0.002)  # else the next may have the same time

    await write(A, Body=b"of a")
    await write(B, Body=b"early")
    await write(B, "delete_object")
    expected = await as_a_sweep_sees_it(told.world, bucket, "k")
    catalogs = {first: told.world[first].ground.catalog}

    async def brought() -> bool:
        return not any(lag.depth for lag in await lag_of(catalogs, rule=bucket))

    route = route_over(bucket, SITES)
    async with running(told.world.stream(replace(route, sources=(first,)))):
        await until(brought)
    async with running(told.world.stream(route)):
        await told.equal(bucket, count=3)
        await write(A, Body=b"later")
        await told.equal(bucket, count=4)
        await write(B, Body=b"later still")
        await told.equal(bucket, count=5)
        await drained(told.world)
    [row] = await ledger(told.world, bucket)
    assert expected is not None and [*map(dict, row.contenders)] == expected.contenders
    assert (row.winner, row.serves) == (expected.winner, expected.serves)
    assert row.contenders[row.winner]["site"] == B
