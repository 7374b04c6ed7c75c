"""Sweeps over real servers: what differs becomes equal, and nothing else moves."""

import pytest

from entrepot.clock import new_bytes
from entrepot.replication.sweep import Range
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import World, now_ms, same

MIB = 1024 * 1024
ODD_KEYS = (
    "x y+z%&=",
    "ünï/日本/😀",
    "tab\tkey",
    "new\nline",
    "\x01control",
    "q?x#y",
    "back\\slash",
    "a:b*c|d\"e<f>g'",
    "..a",
    "a/..b",
    "%2F",
    "a%20b",
    " start",
    "end ",
    "folder/",
    "k" * 250,
)


def write_differences(world: World) -> None:
    """One key of each kind of difference, on any of the sites."""
    last = len(world.s3) - 1
    world.put(0, "new-on-first")
    world.put(last, "new-on-last", b"last")
    world.put(0, "empty", b"")
    world.put(last, "streamed", new_bytes(3 * MIB + 17))
    world.put(0, "limit", new_bytes(MIB))
    world.put(
        0,
        "dressed",
        b"d",
        ContentType="text/html; charset=utf-8",
        CacheControl="max-age=5",
        ContentDisposition='attachment; filename="a b"',
        ContentEncoding="identity",
        ContentLanguage="de",
        Metadata={"plain": "a  b", "looks": "=?x?q?y?=", "coded": "=?UTF-8?q?abc?="},
        Tagging="a=1&b+c=d%3De%40%3A%2F",
    )
    world.put_parts(0, "two-parts", new_bytes(5 * MIB), b"tail")
    world.put_parts(last, "three-parts", new_bytes(5 * MIB), new_bytes(6 * MIB), b"")
    for key in ODD_KEYS:
        world.put(0, key, key.encode())


async def put_unicode(world: World) -> None:
    """boto3 refuses metadata outside ASCII."""
    from entrepot.store.protocol import Attributes

    for key, value in (("u1", "ünï"), ("u2", "日本 " * 30 + "!"), ("u3", "a ü  b")):
        await world.stores[0].put(
            world.bucket, key, b"u", attributes=Attributes(metadata={"said": value})
        )


@pytest.mark.parametrize("sites", [2, 3])
async def test_all_kinds_of_differences(worlds: MakeWorld, sites: int) -> None:
    world = worlds(sites=sites)
    write_differences(world)
    await put_unicode(world)
    first, findings = await world.sweep_with_findings()
    assert (first.failed, first.moved, first.quarantined) == (0, 0, 0), findings.rows
    assert first.copied == first.verified == first.differing * (sites - 1)
    assert same(world.views())
    assert len(world.view(0)) == first.differing == 11 + len(ODD_KEYS)

    settled = world.histories()
    again = (await world.sweep()).as_dict()
    assert {name for name, count in again.items() if count and "@" not in name} == {
        "listed",
        "shared",
    }
    assert world.histories() == settled

    change_again(world)
    second = await world.sweep()
    assert (second.failed, second.moved) == (0, 0)
    assert (second.copied, second.marked) == (4 * (sites - 1), 3 * (sites - 1))
    assert same(world.views())
    assert "empty" not in world.view(0)
    assert world.view(1)["dressed"]["metadata"] == {"only": "this"}
    settled = world.histories()
    # MinIO keeps folders as null versions where they are written.
    assert same([[e for e in history if e.key != "folder/"] for history in settled])
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled


def change_again(world: World) -> None:
    """Overwrite, delete, change metadata alone, and bring one back."""
    bucket, last = world.bucket, len(world.s3) - 1
    world.put(last, "new-on-first", b"changed")
    world.delete(last, "empty")
    world.delete(0, "new-on-last")
    world.delete(0, "limit")
    world.put(0, "limit", b"back")
    for key in ("dressed", "two-parts"):
        world.s3[0].copy_object(
            Bucket=bucket,
            Key=key,
            CopySource={"Bucket": bucket, "Key": key},
            MetadataDirective="REPLACE",
            Metadata={"only": "this"},
        )


async def test_versions_and_ids_are_the_same_afterwards(worlds: MakeWorld) -> None:
    world = worlds(sites=3)
    world.put(0, "a", b"1")
    await world.sweep()
    world.put(1, "a", b"2")
    await world.sweep()
    world.delete(2, "a")
    await world.sweep()
    assert same(world.histories())
    assert [entry.is_marker for entry in world.history(0)] == [False, False, True]


async def test_what_was_written_before_versioning_gets_one_derived_id(worlds: MakeWorld) -> None:
    world = worlds(versioned=False)
    world.put(0, "old", b"old")
    world.put(1, "other", b"other")
    world.enable_versioning()
    assert (await world.sweep()).copied == 2
    assert same(world.views())
    assert {entry.version_id for entry in world.history(0, "old")} == {"null"}
    (copy,) = world.history(1, "old")
    assert copy.version_id != "null"
    settled = world.histories()
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled


async def test_the_newer_of_two_writes_wins_and_the_other_stays(worlds: MakeWorld) -> None:
    world = worlds()
    world.put(1, "k", b"older")
    world.put(0, "k", b"newer!")
    await world.sweep()
    assert world.body(0, "k") == world.body(1, "k") == b"newer!"
    sizes = [(entry.size_bytes, entry.is_current) for entry in world.history(1)]
    assert sizes == [(5, False), (6, True)]
    assert same(world.histories())


@pytest.mark.parametrize("sites", [2, 3])
async def test_a_tie_is_settled_at_every_site(worlds: MakeWorld, sites: int) -> None:
    world = worlds(sites=sites)
    then = now_ms() - 5_000
    await world.put_at(0, "k", b"by rank", mtime_ms=then)
    await world.put_at(sites - 1, "k", b"loses", mtime_ms=then)
    totals = await world.sweep()
    # The winner anew at each site, and each of the two where it was not.
    assert (totals.failed, totals.verified) == (0, sites + 2 * (sites - 1))
    for site in range(sites):
        assert world.body(site, "k") == b"by rank"
    settled = world.histories()
    assert same(settled)
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled
    assert b"loses" in [
        world.s3[-1]
        .get_object(Bucket=world.bucket, Key="k", VersionId=entry.version_id)["Body"]
        .read()
        for entry in world.history(sites - 1)
    ]


async def test_a_tie_of_an_object_and_a_marker(worlds: MakeWorld) -> None:
    world = worlds()
    then = now_ms() - 5_000
    for key, deleted in (("first", 0), ("second", 1)):
        await world.put_at(1 - deleted, key, b"body", mtime_ms=then)
        await world.delete_at(deleted, key, mtime_ms=then)
    assert (await world.sweep()).failed == 0
    assert same(world.views())
    assert set(world.view(0)) == {"second"}
    settled = world.histories()
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled


async def test_scenario_11_deleted_on_both_sides_is_one_delete(worlds: MakeWorld) -> None:
    """Each site gets the other's marker once, and nothing goes back and forth."""
    world = worlds()
    world.put(0, "k")
    await world.sweep()
    world.delete(0, "k")
    world.delete(1, "k")
    totals = await world.sweep()
    assert (totals.copied, totals.marked, totals.conflicts) == (0, 2, 0)
    settled = world.histories()
    assert same(settled)
    assert [entry.is_marker for entry in settled[0]] == [False, True, True]
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled


async def test_absence_deletes_nothing(worlds: MakeWorld) -> None:
    world = worlds()
    for key in ("a", "b"):
        world.put(0, key)
    await world.sweep()
    for entry in world.history(1):
        world.s3[1].delete_object(Bucket=world.bucket, Key=entry.key, VersionId=entry.version_id)
    assert world.history(1) == []
    assert (await world.sweep()).copied == 2
    assert same(world.histories())


async def test_a_version_from_the_future_is_left_alone(worlds: MakeWorld) -> None:
    world = worlds()
    await world.put_at(0, "k", b"future", mtime_ms=now_ms() + 3_600_000)
    world.put(1, "k", b"present")
    totals, findings = await world.sweep_with_findings()
    assert (totals.quarantined, totals.copied) == (1, 0)
    assert findings.rows[0]["what"] == "quarantined"
    world.put(1, "k", b"later")
    assert world.body(1, "k") == b"later"  # not swallowed
    await world.sweep()
    assert world.body(1, "k") == b"later"


async def test_a_long_sweep_does_not_quarantine_what_is_written_during_it(
    worlds: MakeWorld,
) -> None:
    """The present moves on; a horizon that was fixed at the start would not."""
    world = worlds()
    world.put(0, "k", b"now")
    times = iter([now_ms() + 60_000])
    assert (await world.sweep(horizon_ms=lambda: next(times))).copied == 1


async def test_a_dry_run_changes_nothing_and_says_what_it_would_do(worlds: MakeWorld) -> None:
    world = worlds()
    world.put(0, "copied")
    world.put(0, "marked")
    await world.sweep()
    world.delete(0, "marked")
    world.put(1, "copied", b"2")
    before = world.histories()
    totals, findings = await world.sweep_with_findings(dry_run=True)
    assert world.histories() == before
    assert (totals.differing, totals.copied, totals.marked) == (2, 0, 0)
    assert {(row["key"], row["what"]) for row in findings.rows} == {
        ("copied", "copy"),
        ("marked", "mark"),
    }


async def test_a_prefix_limits_the_sweep(worlds: MakeWorld) -> None:
    world = worlds()
    inside, outside = ["logs/a", "logs/b/c", "logs/"], ["log", "logs-0", "logs0", "zzz", "a"]
    for key in [*inside, *outside]:
        world.put(0, key)
    totals = await world.sweep(keys=Range(prefix="logs/"))
    assert (totals.copied, totals.verified) == (3, 3)
    assert sorted(world.view(1)) == sorted(inside)


async def test_a_range_has_an_open_and_a_closed_end(worlds: MakeWorld) -> None:
    world = worlds()
    for key in ("a", "b", "b/1", "c", "c/1", "d"):
        world.put(0, key.replace("b/", "bb/").replace("c/", "cc/"))
    await world.sweep(keys=Range(after="b", stop_at="cc/1"))
    assert sorted(world.view(1)) == ["bb/1", "c", "cc/1"]


async def test_many_keys_in_many_batches(worlds: MakeWorld) -> None:
    """Pages, batches and windows end at different keys at either site."""
    world = worlds()
    for number in range(60):
        world.put(number % 2, f"k{number:03}", str(number).encode())
    for version in range(25):  # many versions of one key
        world.put(0, "k030", f"v{version}".encode())
    totals = await world.sweep(batch_size=7)
    assert totals.failed == 0
    assert same(world.views())
    assert (await world.sweep()).differing == 0


async def test_a_multipart_object_with_gaps_in_its_numbers(worlds: MakeWorld) -> None:
    """Its parts cannot be asked for by number; bytes and ETag are the same nevertheless."""
    world = worlds()
    etag = world.put_parts(0, "gaps", new_bytes(5 * MIB), new_bytes(5 * MIB), b"end", step=4)
    world.put_parts(0, "high", new_bytes(5 * MIB), b"end", first=7)
    totals = await world.sweep()
    assert (totals.failed, totals.copied) == (0, 2)
    assert same(world.views())
    assert world.view(1)["gaps"]["etag"] == etag
    assert world.uploads(1) == []


async def test_a_key_below_a_key_is_reported_not_lost(worlds: MakeWorld) -> None:
    """MinIO lists nothing below an object, so such a copy cannot be seen to have arrived."""
    world = worlds()
    world.put(0, "a", b"object")
    world.put(1, "a/b", b"below")
    totals = await world.sweep()
    assert totals.failed == 1
    assert world.body(1, "a/b") == b"below"
    assert world.body(0, "a/b") == b"below"


async def test_sites_are_swept_by_name_of_bucket_only(worlds: MakeWorld) -> None:
    """Nothing outside of the bucket is touched."""
    world, other = worlds(), worlds()
    other.put(0, "k")
    world.put(0, "k")
    await world.sweep()
    assert other.history(1) == []
