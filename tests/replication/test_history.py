"""Histories over real servers: all versions, markers, tags and locks, the same everywhere."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entrepot.clock import new_bytes
from entrepot.replication.policy import Policy
from entrepot.store.protocol import Capability, Version
from entrepot.terms import Mode, Travel
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import ALL, World, now_ms, same

DAY_MS = 24 * 3600 * 1000
MIB = 1024 * 1024


def write_history(world: World, site: int, key: str) -> None:
    """Two versions, a delete, and a third version over it."""
    world.put(site, key, b"first", Metadata={"n": "1"}, Tagging="state=old")
    world.put(site, key, b"second!")
    world.delete(site, key)
    world.put(site, key, b"third", Tagging="state=new")


@pytest.mark.parametrize("sites", [2, 3])
async def test_all_versions_and_markers_come_across(worlds: MakeWorld, sites: int) -> None:
    """Scenario 7: what is there before the first sweep is brought along, history included."""
    world = worlds(sites=sites)
    for number in range(5):
        write_history(world, number % sites, f"k{number}")
    world.put_parts(0, "parts", new_bytes(5 * MIB), b"old tail")
    world.put_parts(0, "parts", new_bytes(5 * MIB), b"new tail")
    world.put(1, "gone", b"x")
    world.delete(1, "gone")
    totals, findings = await world.sweep_with_findings()
    assert (totals.failed, totals.moved, totals.conflicts) == (0, 0, 0), findings.rows
    settled = world.histories()
    assert same(settled)
    assert len(settled[0]) == 5 * 4 + 2 + 2
    assert same(world.views())
    for site in range(sites):
        for entry in world.history(site, "k0"):
            if not entry.is_marker:
                where = {"Bucket": world.bucket, "Key": "k0", "VersionId": entry.version_id}
                tags = world.s3[site].get_object_tagging(**where)["TagSet"]
                body = world.s3[site].get_object(**where)["Body"].read()
                assert (body == b"second!") == (tags == [])
    assert (await world.sweep()).differing == 0
    assert world.histories() == settled


async def test_an_older_version_or_marker_that_comes_later_is_not_served(
    worlds: MakeWorld,
) -> None:
    world = worlds()
    then = now_ms() - 60_000
    await world.put_at(0, "k", b"newest", mtime_ms=then + 5)
    await world.put_at(1, "k", b"oldest", mtime_ms=then)
    await world.delete_at(1, "k", mtime_ms=then + 1)
    await world.put_at(1, "k", b"middle", mtime_ms=then + 2)
    await world.sweep()
    assert same(world.histories())
    assert [world.body(site, "k") for site in range(2)] == [b"newest"] * 2
    assert [entry.is_current for entry in world.history(1)] == [False, False, False, True]


async def test_histories_that_grew_on_both_sides_become_one(worlds: MakeWorld) -> None:
    """Scenario 2: the older write is kept, and everybody serves the newer."""
    world = worlds()
    world.put(0, "k", b"common")
    await world.sweep()
    world.put(1, "k", b"V1, during the outage of the first")
    world.put(0, "k", b"V2, right after it")
    totals = await world.sweep()
    assert (totals.failed, totals.conflicts) == (0, 1)
    assert same(world.histories())
    assert world.body(1, "k") == b"V2, right after it"
    assert len(world.history(1)) == 3


async def test_scenario_3_a_delete_survives_the_outage_of_a_peer(worlds: MakeWorld) -> None:
    world = worlds()
    world.put(0, "k", b"x")
    await world.sweep()
    world.delete(0, "k")  # while the other is away
    for _ in range(2):
        await world.sweep()
        assert world.views() == [{}, {}]
    assert same(world.histories())


async def test_a_history_over_many_pages(worlds: MakeWorld) -> None:
    world = worlds()
    for number in range(30):
        await world.stores[0].put(world.bucket, "many", f"{number}".encode())
        if number % 3 == 0:
            world.put(1, f"other{number:02}")
    for store in world.stores:
        store.versions = paged(store.versions)  # type: ignore[method-assign]
    totals = await world.sweep(batch_size=4)
    assert totals.failed == 0
    assert same(world.histories())
    assert (await world.sweep()).differing == 0


def paged(versions: Any) -> Any:
    return lambda *args, **more: versions(*args, **{**more, "page_size": 7})


# --- Locks ------------------------------------------------------------------------------------


def lock_of(world: World, site: int, key: str, version_id: str) -> tuple[Any, ...]:
    where = {"Bucket": world.bucket, "Key": key, "VersionId": version_id}
    head = world.s3[site].head_object(**where)
    names = ("ObjectLockMode", "ObjectLockRetainUntilDate", "ObjectLockLegalHoldStatus")
    return tuple(head.get(name) for name in names)


async def test_retention_and_hold_travel_with_every_version(worlds: MakeWorld) -> None:
    world = worlds(locked=True)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    world.put(0, "k", b"old", **lock)
    world.put(0, "k", b"new", ObjectLockLegalHoldStatus="ON")
    world.put(0, "plain", b"x")
    upload = world.s3[0].create_multipart_upload(Bucket=world.bucket, Key="parts", **lock)
    part = {"Bucket": world.bucket, "Key": "parts", "UploadId": upload["UploadId"]}
    sent = world.s3[0].upload_part(**part, PartNumber=1, Body=new_bytes(5 * MIB))
    world.s3[0].complete_multipart_upload(
        **part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
    )
    totals, findings = await world.sweep_with_findings()
    assert totals.failed == 0, findings.rows
    assert same(world.histories())
    for entry in world.history(0):
        locks = [lock_of(world, site, entry.key, entry.version_id) for site in range(2)]
        assert same(locks)
        assert any(locks[0]) == (entry.key != "plain")


async def test_a_bucket_that_cannot_lock_gets_the_object_and_it_is_said(
    worlds: MakeWorld,
) -> None:
    world = worlds(locked=True)
    world.s3[1].delete_bucket(Bucket=world.bucket)
    world.s3[1].create_bucket(Bucket=world.bucket)
    world.enable_versioning_at(1)
    world.put(0, "k", b"held", ObjectLockLegalHoldStatus="ON")
    totals, findings = await world.sweep_with_findings()
    assert (totals.copied, totals.failed) == (1, 0)
    assert [row["what"] for row in findings.rows] == ["unlocked"]
    assert world.body(1, "k") == b"held"
    policy = Policy(travels=frozenset(Travel) - {Travel.LOCKS})
    world.put(0, "k2", b"held", ObjectLockLegalHoldStatus="ON")
    totals, findings = await world.sweep_with_findings(policy=policy)
    assert (totals.copied, findings.rows) == (1, [])


async def test_where_ids_are_minted_a_lock_is_set_after_the_bytes(worlds: MakeWorld) -> None:
    world = worlds(locked=True, capabilities={1: ALL - {Capability.ORIGIN}})
    world.put(0, "k", b"held", ObjectLockLegalHoldStatus="ON")
    await world.sweep()
    (entry,) = world.history(1)
    assert lock_of(world, 1, "k", entry.version_id)[2] == "ON"


# --- Removals and lifecycles ------------------------------------------------------------------


class Removals:
    """A ledger that knows of removals."""

    def __init__(self, known: dict[str, dict[str, frozenset[str]]]) -> None:
        self.known = known

    async def removed(self, keys: Any) -> Any:
        return {key: self.known[key] for key in keys if key in self.known}

    async def conflicts(self, found: Any) -> None:
        del found

    async def allow(self, batch: Any, *, since: Any) -> None:
        del batch, since

    async def keep(self, batch: Any) -> None:
        del batch


async def test_a_removal_travels_only_where_it_was_recorded(worlds: MakeWorld) -> None:
    world = worlds()
    world.put(0, "k", b"old")
    world.put(0, "k", b"new")
    await world.sweep()
    old = next(entry for entry in world.history(0) if not entry.is_current)
    where = {"Bucket": world.bucket, "Key": "k", "VersionId": old.version_id}
    world.s3[0].delete_object(**where)
    known = Removals({"k": {old.version_id: frozenset({"site-0"})}})
    assert (await world.sweep(ledger=known)).differing == 0
    assert len(world.history(1)) == 2  # neither brought back nor taken away
    policy = Policy(travels=frozenset(Travel))
    totals = await world.sweep(ledger=known, policy=policy)
    assert (totals.removed, totals.deletes) == (1, 1)
    assert same(world.histories())
    assert len(world.history(1)) == 1
    assert (await world.sweep(ledger=known, policy=policy)).differing == 0
    world.put(1, "j", b"x")
    await world.sweep()
    (only,) = world.history(0, "j")
    world.s3[0].delete_object(Bucket=world.bucket, Key="j", VersionId=only.version_id)
    assert (await world.sweep()).copied == 1  # absence alone removes nothing


async def test_a_held_version_outlives_a_removal(worlds: MakeWorld) -> None:
    world = worlds(locked=True)
    world.put(0, "k", b"old")
    world.put(0, "k", b"new")
    await world.sweep()
    old = next(entry for entry in world.history(0) if not entry.is_current)
    where = {"Bucket": world.bucket, "Key": "k", "VersionId": old.version_id}
    world.s3[1].put_object_legal_hold(**where, LegalHold={"Status": "ON"})
    world.s3[0].delete_object(**where)
    known = Removals({"k": {old.version_id: frozenset({"site-0"})}})
    policy = Policy(travels=frozenset(Travel))
    totals, findings = await world.sweep_with_findings(ledger=known, policy=policy)
    assert (totals.held, totals.removed, totals.failed) == (1, 0, 0)
    assert [row["what"] for row in findings.rows] == ["held"]
    assert len(world.history(1)) == 2


def set_lifecycle(world: World, site: int, **rule: Any) -> None:
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, **rule}
    world.s3[site].put_bucket_lifecycle_configuration(
        Bucket=world.bucket, LifecycleConfiguration={"Rules": [rule]}
    )


async def test_scenario_4_what_a_lifecycle_took_stays_gone_there_and_only_there(
    worlds: MakeWorld,
) -> None:
    """A noncurrent version that expired at one site removes nothing at the other."""
    world = worlds()
    old_ms = now_ms() - 40 * DAY_MS
    await world.put_at(0, "k", b"old", mtime_ms=old_ms)
    await world.put_at(0, "k", b"new", mtime_ms=old_ms + DAY_MS)
    await world.sweep()
    set_lifecycle(world, 0, NoncurrentVersionExpiration={"NoncurrentDays": 30})
    old = next(entry for entry in world.history(0) if not entry.is_current)
    world.s3[0].delete_object(Bucket=world.bucket, Key="k", VersionId=old.version_id)
    for _ in range(2):
        totals = await world.sweep()
        assert (totals.copied, totals.marked, totals.removed, totals.deletes) == (0, 0, 0, 0)
    assert [len(world.history(site)) for site in range(2)] == [1, 2]
    assert [world.body(site, "k") for site in range(2)] == [b"new", b"new"]


async def test_an_object_that_would_expire_at_once_is_not_brought_back(
    worlds: MakeWorld,
) -> None:
    """Its expiry would then hide it at the other site as well."""
    world = worlds()
    await world.put_at(1, "logs/old", b"x", mtime_ms=now_ms() - 40 * DAY_MS)
    await world.put_at(1, "logs/new", b"x", mtime_ms=now_ms() - DAY_MS)
    set_lifecycle(world, 0, Expiration={"Days": 30}, Filter={"Prefix": "logs/"})
    assert (await world.sweep()).copied == 1
    assert sorted(world.view(0)) == ["logs/new"]
    assert sorted(world.view(1)) == ["logs/new", "logs/old"]


# --- One way, and who is told -----------------------------------------------------------------


async def test_one_way(worlds: MakeWorld) -> None:
    world = worlds(sites=3)
    world.put(0, "k", b"source")
    world.put(2, "own", b"stays")
    policy = Policy(mode=Mode.ONE_WAY, source_site="site-0")
    totals, findings = await world.sweep_with_findings(policy=policy)
    assert (totals.copied, totals.drifted) == (2, 1)
    assert [row["key"] for row in findings.rows] == ["own"]
    assert [sorted(world.view(site)) for site in range(3)] == [["k"], ["k"], ["k", "own"]]


async def test_one_way_over_whatever_was_written_elsewhere(worlds: MakeWorld) -> None:
    world = worlds(sites=3, capabilities={2: ALL - {Capability.ORIGIN}})
    policy = Policy(mode=Mode.ONE_WAY, source_site="site-0", overwrites=True)
    for key in ("changed", "deleted", "gone"):
        world.put(0, key, b"source")
    await world.sweep(policy=policy)
    for site in (1, 2):
        world.put(site, "changed", b"drift")
        world.delete(site, "deleted")
        world.put(site, "own", b"drift")
        world.put(site, "gone", b"drift")
    world.delete(0, "gone")
    totals, findings = await world.sweep_with_findings(policy=policy)
    assert (totals.failed, totals.drifted) == (0, 2), findings.rows
    assert {row["key"] for row in findings.rows} == {"own"}  # the source may have had it once
    for site in (1, 2):
        assert sorted(world.view(site)) == ["changed", "deleted", "own"]
        assert [world.body(site, key) for key in ("changed", "deleted")] == [b"source"] * 2
    assert [entry.is_current for entry in world.history(1, "changed")] == [False, False, True]
    assert len(world.history(0)) == 4
    again = await world.sweep(policy=policy)
    assert (again.copied, again.marked, again.failed) == (0, 0, 0)
    world.put(0, "changed", b"new")
    await world.sweep(policy=policy)
    assert [world.body(site, "changed") for site in range(3)] == [b"new"] * 3


async def test_a_catalog_beside_a_site_is_told_what_came(worlds: MakeWorld) -> None:
    told: list[tuple[str, str, list[Version]]] = []

    async def took(bucket: str, key: str, versions: Any) -> None:
        told.append((bucket, key, list(versions)))

    world = worlds(took={1: took})
    write_history(world, 0, "k")
    world.put(1, "own", b"x")
    await world.sweep()
    ((bucket, key, versions),) = told
    assert (bucket, key) == (world.bucket, "k")
    listed = [page async for page in world.stores[1].versions(world.bucket, prefix="k")]
    there = {(v.version_id, v.mtime_ms, v.etag, v.is_delete_marker) for v in listed[0].versions}
    assert {(v.version_id, v.mtime_ms, v.etag, v.is_delete_marker) for v in versions} == there
