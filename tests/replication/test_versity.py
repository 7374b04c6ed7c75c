"""A rule between MinIO and a server that is not: versitygw, with ids and times of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from entrepot.embedded.minio import MinioServer
from entrepot.embedded.versity import VersityServer
from entrepot.replication.origins import ORIGIN_NAME
from entrepot.replication.probe import probe
from entrepot.store.protocol import Capability
from tests.replication.worlds import ALL, World, now_ms, same

MIB = 1024 * 1024
MINTED = ALL - {Capability.ORIGIN, Capability.BATCH, Capability.TRAILER}


@pytest.fixture
async def world(minio_a: MinioServer, versity: VersityServer) -> AsyncIterator[World]:
    made = World((minio_a, versity), capabilities={0: ALL, 1: MINTED})
    yield made
    await made.close()


def read(world: World) -> list[dict[str, dict[str, Any]]]:
    """What readers get, without what such an endpoint cannot keep."""
    found = world.views()
    for view in found:
        for entry in view.values():
            entry.pop("mtime")
            entry["metadata"].pop(ORIGIN_NAME, None)
    return found


async def test_what_it_was_probed_to_do(world: World) -> None:
    found = await probe(world.stores[1])
    assert found.capabilities == MINTED
    assert found.findings["origin"].saw == (
        "a write keeps neither the id nor the time that it was given"
    )
    assert "aws-chunked" in found.findings["trailer"].saw
    assert found.findings["batch"].saw.startswith("not tried")
    assert all(found.findings[name].can for name in ("write", "list", "remove"))
    assert not [
        bucket
        for bucket in world.s3[1].list_buckets()["Buckets"]
        if bucket["Name"].startswith("entrepot-probe-")
    ]


async def test_a_rule_makes_both_equal_and_keeps_them_so(world: World) -> None:
    for site in (0, 1):
        world.put(site, f"plain/{site}", b"a" * 100, Metadata={"own": "1"}, Tagging="t=1")
        world.put(site, f"empty/{site}", b"")
        world.put(site, f"blank here/ünï {site}", b"text", ContentType="text/plain")
        world.put_parts(site, f"parts/{site}", b"p" * 5 * MIB, b"q")
    world.put(0, "both", b"older")
    await asyncio.sleep(1.1)  # it lists whole seconds: what it got later in one looks earlier
    world.put(1, "both", b"newer")
    totals = await world.sweep()
    assert totals.failed == 0
    first, second = read(world)
    assert first == second
    assert len(first) == 9
    assert world.body(0, "both") == b"newer"
    settled = world.histories()
    again = await world.sweep()
    assert (again.copied, again.marked, again.failed) == (0, 0, 0)
    assert world.histories() == settled


async def test_it_lists_whole_seconds(world: World) -> None:
    """The reason why within a second rank decides, not time."""
    for number in range(3):
        world.put(1, f"k{number}")
        await asyncio.sleep(0.1)
    assert {entry.mtime_ms % 1000 for entry in world.history(1)} == {0}
    await world.sweep()
    assert same([sorted(view) for view in world.views()])


async def test_a_second_write_within_a_second_is_not_undone(world: World) -> None:
    """Both look as old as each other, and the first one is also at the site of lower rank."""
    await asyncio.sleep(1 - now_ms() % 1000 / 1000)
    world.put(1, "k", b"first")
    await world.sweep()
    world.put(1, "k", b"second")
    totals = await world.sweep()
    assert (totals.failed, totals.conflicts) == (0, 0)
    assert [world.body(site, "k") for site in (0, 1)] == [b"second"] * 2
    assert (await world.sweep()).copied == 0


async def test_a_file_lies_where_no_folder_is(world: World) -> None:
    world.put(1, "a")
    with pytest.raises(ClientError, match="ObjectParentIsFile"):
        world.put(1, "a/b")
    world.put(0, "a/b")
    totals, findings = await world.sweep_with_findings()
    assert (totals.failed, [row["key"] for row in findings.rows]) == (1, ["a/b"])


async def test_deletes_and_later_writes_travel_both_ways(world: World) -> None:
    for key in ("gone-at-0", "gone-at-1", "changed"):
        world.put(0, key, b"first")
    await world.sweep()
    await asyncio.sleep(1.1)
    world.delete(0, "gone-at-0")
    world.delete(1, "gone-at-1")
    world.put(1, "changed", b"second")
    totals = await world.sweep()
    assert (totals.failed, totals.marked) == (0, 2)
    assert same([sorted(view) for view in world.views()])
    assert sorted(world.view(0)) == ["changed"]
    assert (world.body(0, "changed"), world.body(1, "changed")) == (b"second", b"second")
    # Nothing is gone: what lost lies below, at either site.
    assert [len(world.history(site, "gone-at-")) for site in (0, 1)] == [4, 4]
