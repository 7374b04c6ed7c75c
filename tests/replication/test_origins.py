"""Endpoints that mint ids and times: copies there never pass for newer than they are."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.replication.origins import ORIGIN_NAME, marked, marked_time, unmarked
from entrepot.replication.plan import Copy
from entrepot.store.protocol import Attributes, Capability, Version
from entrepot.testing.faulty import FaultyStore, Stale
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import MINTS, World, now_ms, same

COPY = Copy(
    key="k",
    source=0,
    source_version="an-id",
    targets=(),
    version_id="other",
    mtime_ms=1_700_000_000_123,
    size_bytes=1,
    etag="e" * 32,
)
LISTED = Version(key="k", version_id="minted", mtime_ms=1_800_000_000_000, etag=COPY.etag)


def with_mark(**changes: Any) -> Version:
    attributes = marked(Attributes(metadata={"own": "1"}), bucket="b", action=COPY)
    return replace(LISTED, attributes=attributes, **changes)


def test_a_mark_tells_the_time_of_the_origin() -> None:
    assert marked_time(with_mark(), bucket="b") == COPY.mtime_ms
    assert marked_time(LISTED, bucket="b") == LISTED.mtime_ms


def test_a_mark_counts_only_where_it_was_made() -> None:
    """A server-side copy carries it to another key or bucket, and a rewrite to other bytes."""
    for moved in (with_mark(key="k2"), with_mark(etag="f" * 32)):
        assert marked_time(moved, bucket="b") == moved.mtime_ms
    assert marked_time(with_mark(), bucket="b2") == LISTED.mtime_ms


@given(st.text(max_size=60))
def test_a_mark_that_somebody_wrote_is_no_mark(text: str) -> None:
    found = replace(LISTED, attributes=Attributes(metadata={ORIGIN_NAME: text}))
    assert marked_time(found, bucket="b") == LISTED.mtime_ms


def test_a_mark_is_taken_off() -> None:
    found = with_mark().attributes
    assert found is not None
    assert unmarked(found) == Attributes(metadata={"own": "1"})


# --- Against real servers ---------------------------------------------------------------------

MIXES = [{1: MINTS}, {0: MINTS}, {0: MINTS, 1: MINTS}, {1: MINTS, 2: MINTS}, {2: MINTS}]


def bodies(world: World) -> list[dict[str, Any]]:
    """What readers get, without what such endpoints cannot keep."""
    found = []
    for view in world.views():
        for entry in view.values():
            entry.pop("mtime")
            entry["metadata"].pop(ORIGIN_NAME, None)
        found.append(view)
    return found


async def settles(world: World) -> None:
    """Nothing is left to do, and looking again does nothing."""
    settled = world.histories()
    totals = await world.sweep()
    assert (totals.copied, totals.marked, totals.failed) == (0, 0, 0)
    assert world.histories() == settled


@pytest.mark.parametrize("mix", MIXES)
async def test_it_converges_and_does_not_go_round(
    worlds: MakeWorld, mix: dict[int, frozenset[Capability]]
) -> None:
    world = worlds(sites=3, capabilities=mix)
    for site in range(3):
        world.put(site, f"new-at-{site}", b"new", Metadata={"from": str(site)}, Tagging="a=b")
        world.put(site, "same-key", f"by {site}".encode())
    world.put_parts(1, "parts", bytes(5 * 1024 * 1024), b"tail")
    totals = await world.sweep()
    assert (totals.failed, totals.moved) == (0, 0)
    assert same(bodies(world))
    assert world.body(0, "same-key") == b"by 2"
    await settles(world)

    for site in range(3):  # changes at every site, known everywhere
        world.put(site, f"new-at-{(site + 1) % 3}", f"changed at {site}".encode())
    world.delete(2, "same-key")
    world.delete(0, "parts")
    totals = await world.sweep()
    assert (totals.failed, totals.moved) == (0, 0)
    assert same(bodies(world))
    assert sorted(world.view(0)) == ["new-at-0", "new-at-1", "new-at-2"]
    await settles(world)


async def test_a_copy_never_beats_a_newer_original(worlds: MakeWorld) -> None:
    """The copy is younger than the original that was written while it was made."""
    world = worlds(capabilities={1: MINTS})
    world.put(0, "k", b"first")
    await world.sweep()
    (first,) = world.history(0)
    await world.put_at(0, "k", b"second", mtime_ms=first.mtime_ms + 1)
    assert world.currents(1)["k"].mtime_ms > first.mtime_ms + 1
    assert (await world.sweep()).copied == 1
    assert [world.body(site, "k") for site in range(2)] == [b"second"] * 2
    await settles(world)


async def test_a_marker_never_hides_a_write_that_it_did_not_know(worlds: MakeWorld) -> None:
    """A marker is made when the sweep comes by, maybe by a clock that is ahead."""
    world = worlds(capabilities={1: MINTS})
    world.put(0, "k", b"first")
    await world.sweep()
    world.delete(0, "k")
    await world.sweep()
    assert world.view(1) == {}
    # As if the marker there were written later than this: its own time says so.
    marker_ms = world.currents(1)["k"].mtime_ms
    await world.put_at(0, "k", b"again", mtime_ms=marker_ms - 1)
    assert world.body(0, "k") == b"again"
    totals = await world.sweep()
    assert (totals.copied, totals.marked) == (1, 0)
    assert [world.body(site, "k") for site in range(2)] == [b"again", b"again"]
    await settles(world)


async def test_a_delete_there_is_a_delete(worlds: MakeWorld) -> None:
    world = worlds(sites=3, capabilities={1: MINTS})
    world.put(0, "k", b"first")
    await world.sweep()
    world.delete(1, "k")
    assert (await world.sweep()).marked == 2
    assert world.views() == [{}, {}, {}]
    await settles(world)


async def test_a_change_of_metadata_reaches_it(worlds: MakeWorld) -> None:
    world = worlds(capabilities={1: MINTS})
    world.put(0, "k", b"same bytes")
    await world.sweep()
    world.put(0, "k", b"same bytes", Metadata={"new": "yes"})
    await world.sweep()
    assert same(bodies(world))
    assert world.view(1)["k"]["metadata"]["new"] == "yes"
    await settles(world)


async def test_a_server_side_copy_there_is_a_new_write(worlds: MakeWorld) -> None:
    """It brings the mark of its source along, whose time is older than what it replaces."""
    world = worlds(capabilities={1: MINTS})
    world.put(0, "backup", b"old config")
    await world.sweep()
    world.put(0, "live", b"new config")
    await world.sweep()
    world.s3[1].copy_object(
        Bucket=world.bucket, Key="live", CopySource={"Bucket": world.bucket, "Key": "backup"}
    )
    await world.sweep()
    assert [world.body(site, "live") for site in range(2)] == [b"old config"] * 2
    await settles(world)


@pytest.mark.parametrize("capabilities", [MINTS, MINTS - {Capability.CONDITIONAL_WRITE}])
async def test_a_write_meanwhile_is_not_overwritten(
    worlds: MakeWorld, capabilities: frozenset[Capability]
) -> None:
    """Conditionally where the endpoint can, else by a look just before."""
    world = worlds(capabilities={1: capabilities})
    for key in ("small", "parts", "deleted", "absent"):
        world.put(1, key, b"listed") if key != "absent" else None
    await world.sweep()
    world.put(0, "small", b"newer")
    world.put_parts(0, "parts", bytes(5 * 1024 * 1024), b"tail")
    world.delete(0, "deleted")
    world.put(0, "absent", b"newer")

    class Meanwhile(FaultyStore):
        """Somebody writes each key at the target as soon as the source's bytes are asked for."""

        def get(self, bucket: str, key: str, **more: Any) -> Any:
            if more.get("part") in (None, 1):
                world.put(1, key, b"meanwhile")
            return super().get(bucket, key, **more)

    store = Meanwhile(world.stores[0], {})
    world.sites[0] = replace(world.sites[0], store=store)
    totals = await world.sweep()
    assert (totals.moved, totals.copied, totals.marked) == (3, 0, 1)
    world.sites[0] = replace(world.sites[0], store=world.stores[0])
    await world.sweep()
    for key in ("small", "parts", "absent"):
        assert [world.body(site, key) for site in range(2)] == [b"meanwhile"] * 2
    assert world.uploads(1) == []
    await settles(world)


async def test_a_version_that_went_since_it_was_listed_stops_nobody(worlds: MakeWorld) -> None:
    world = worlds(capabilities={1: MINTS})
    world.put(1, "k", b"x")
    world.put(0, "other", b"y")
    (entry,) = world.history(1)
    pages = [page async for page in world.stores[1].versions(world.bucket)]
    world.s3[1].delete_object(Bucket=world.bucket, Key="k", VersionId=entry.version_id)
    stale = FaultyStore(world.stores[1], {"versions": [Stale(pages)]})
    world.sites[1] = replace(world.sites[1], store=stale)
    totals = await world.sweep()
    assert (totals.moved, totals.copied, totals.failed) == (1, 1, 0)
    await settles(world)


async def test_ties_with_such_an_endpoint_settle(worlds: MakeWorld) -> None:
    world = worlds(sites=3, capabilities={2: MINTS})
    then = now_ms() - 5_000
    for site in range(3):
        await world.put_at(site, "k", f"by {site}".encode(), mtime_ms=then)
    await world.sweep()
    assert [world.body(site, "k") for site in range(3)] == [b"by 0"] * 3
    await settles(world)
