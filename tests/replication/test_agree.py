"""Changes of tags and locks of versions that sites hold already, over real servers.

What is compared is read through boto3 only.
"""

import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entrepot.catalog import jobs
from entrepot.clock import SYSTEM_CLOCK, new_bytes
from entrepot.errors import AccessDenied, InvalidInput
from entrepot.replication.policy import Policy
from entrepot.replication.resolve import resolve
from entrepot.replication.run import KIND, Force
from entrepot.store.protocol import Capability, Origin, Page, Version
from entrepot.store.wrapper import StoreWrapper
from entrepot.terms import Mode, Travel
from entrepot.testing.faulty import FaultyStore, Refuse
from tests.replication.ruled import Ruled
from tests.replication.worlds import ALL, World

NOW = Force(traits=True)
Make = Callable[..., Ruled]


def retag(world: World, site: int, key: str, tags: Mapping[str, str], version: str = "") -> None:
    pairs = [{"Key": name, "Value": value} for name, value in tags.items()]
    which = {"VersionId": version} if version else {}
    world.s3[site].put_object_tagging(
        Bucket=world.bucket, Key=key, Tagging={"TagSet": pairs}, **which
    )


def tags_at(world: World, site: int, key: str, version: str = "") -> dict[str, str]:
    which = {"VersionId": version} if version else {}
    found = world.s3[site].get_object_tagging(Bucket=world.bucket, Key=key, **which)["TagSet"]
    return {pair["Key"]: pair["Value"] for pair in found}


def tags(world: World, key: str, version: str = "") -> list[dict[str, str]]:
    return [tags_at(world, site, key, version) for site in range(len(world.s3))]


def locks(world: World, key: str, version: str = "") -> list[tuple[str, str, bool]]:
    """Mode, end and hold of the current or the given version, by site."""
    which = {"VersionId": version} if version else {}
    found = []
    for s3 in world.s3:
        head = s3.head_object(Bucket=world.bucket, Key=key, **which)
        until = head.get("ObjectLockRetainUntilDate")
        found.append(
            (
                head.get("ObjectLockMode", ""),
                f"{until:%Y-%m-%d}" if until else "",
                head.get("ObjectLockLegalHoldStatus") == "ON",
            )
        )
    return found


async def settled(work: Ruled) -> bool:
    """Whether another sweep finds nothing to do."""
    _, outcome = await work.run(force=NOW)
    rest = {name: count for name, count in outcome.totals.items() if count and "@" not in name}
    return set(rest) <= {"listed", "shared"}


async def test_the_change_of_one_site_goes_to_the_others(ruled: Make) -> None:
    work = ruled(sites=3)
    world = work.world
    world.put(0, "changed", Tagging="s=1&stays=x")
    world.put(1, "removed", Tagging="s=1")
    world.put(2, "added")
    world.put(0, "both", Tagging="a=1&b=1")
    world.put(0, "quiet", Tagging="a=1")
    await work.run()
    retag(world, 2, "changed", {"s": "2", "stays": "x"})
    retag(world, 0, "removed", {})
    retag(world, 1, "added", {"s": "1"})
    retag(world, 0, "both", {"a": "2", "b": "1"})
    retag(world, 2, "both", {"a": "1", "b": "2"})
    job, outcome = await work.run()
    assert not job.compares
    assert outcome.totals["altered"] == 0  # it costs more than a listing, so not every time
    _, outcome = await work.run(force=NOW)
    assert (outcome.totals["altered"], outcome.totals["conflicts"]) == (2 + 2 + 2 + 3, 0)
    assert outcome.totals["failed"] == 0, outcome.findings
    for key, wanted in {
        "changed": {"s": "2", "stays": "x"},
        "removed": {},
        "added": {"s": "1"},
        "both": {"a": "2", "b": "2"},
        "quiet": {"a": "1"},
    }.items():
        assert tags(world, key) == [wanted] * 3, key
    assert await settled(work)


async def test_versions_of_all_ages_are_compared(ruled: Make) -> None:
    work = ruled(locked=True)
    world = work.world
    world.put(0, "k", b"old", Tagging="s=1")
    world.put(0, "k", b"new", Tagging="s=1")
    await work.run()
    old = next(entry.version_id for entry in world.history(0) if not entry.is_current)
    retag(world, 1, "k", {"s": "2"}, old)
    where = {"Bucket": world.bucket, "Key": "k", "VersionId": old}
    world.s3[0].put_object_legal_hold(**where, LegalHold={"Status": "ON"})
    _, outcome = await work.run(force=NOW)
    assert outcome.totals["altered"] == 2
    assert tags(world, "k", old) == [{"s": "2"}] * 2
    assert tags(world, "k") == [{"s": "1"}] * 2
    assert [lock[2] for lock in locks(world, "k", old)] == [True, True]
    assert await settled(work)


async def test_what_cannot_be_decided_is_in_the_ledger_with_what_lost(ruled: Make) -> None:
    work = ruled()
    world = work.world
    world.put(0, "k", Tagging="s=1&a=x")
    await work.run()
    retag(world, 0, "k", {"s": "2", "a": "x"})
    retag(world, 1, "k", {"s": "3", "a": "x", "b": "y"})
    _, outcome = await work.run(force=NOW)
    assert tags(world, "k") == [{"s": "2", "a": "x", "b": "y"}] * 2
    assert outcome.totals["conflicts"] == 1
    assert [row["what"] for row in outcome.findings] == ["conflict"]
    [found] = await work.ledger()
    assert (found.policy, found.winner) == ("tags", 0)
    assert [each["tags"] for each in found.contenders] == [
        {"s": "2", "a": "x"},
        {"s": "3", "a": "x", "b": "y"},
    ]
    assert await settled(work)
    assert len(await work.ledger()) == 1
    with pytest.raises(InvalidInput, match="about tags"):
        await resolve(work.catalog, world.sites, conflict=found, taken=1, by="t")


async def test_buckets_that_were_filled_apart_lose_nothing(ruled: Make) -> None:
    """Nothing is known of what was there before: the same version, as another tool copied it."""
    work = ruled()
    world = work.world
    at_ms = round(SYSTEM_CLOCK.now().timestamp() * 1000) - 5_000
    version = await world.put_at(0, "k", b"x", mtime_ms=at_ms)
    await world.stores[1].put(world.bucket, "k", b"x", origin=Origin(version, at_ms))
    retag(world, 0, "k", {"s": "1", "a": "x"})
    retag(world, 1, "k", {"s": "2", "b": "y"})
    _, outcome = await work.run()
    assert (outcome.totals["copied"], outcome.totals["altered"]) == (0, 2)
    assert tags(world, "k") == [{"s": "1", "a": "x", "b": "y"}] * 2
    [found] = await work.ledger()
    assert found.contenders[1]["tags"] == {"s": "2", "b": "y"}
    assert await settled(work)


async def test_locks_become_the_strictest_everywhere(ruled: Make) -> None:
    work = ruled(sites=3, locked=True)
    world = work.world
    for key in ("longer", "stricter", "held", "free"):
        world.put(0, key)
    await work.run()

    def retain(site: int, key: str, mode: str, year: int) -> None:
        world.s3[site].put_object_retention(
            Bucket=world.bucket,
            Key=key,
            Retention={"Mode": mode, "RetainUntilDate": datetime(year, 1, 1, tzinfo=UTC)},
        )

    def hold(site: int, key: str, status: str) -> None:
        world.s3[site].put_object_legal_hold(
            Bucket=world.bucket, Key=key, LegalHold={"Status": status}
        )

    retain(0, "longer", "GOVERNANCE", 2090)
    retain(1, "longer", "GOVERNANCE", 2092)
    retain(1, "stricter", "COMPLIANCE", 2090)
    retain(2, "stricter", "GOVERNANCE", 2091)
    hold(2, "held", "ON")
    _, outcome = await work.run(force=NOW)
    assert outcome.totals["failed"] == 0, outcome.findings
    assert locks(world, "longer") == [("GOVERNANCE", "2092-01-01", False)] * 3
    assert locks(world, "stricter") == [("COMPLIANCE", "2091-01-01", False)] * 3
    assert [lock[2] for lock in locks(world, "held")] == [True] * 3
    assert locks(world, "free") == [("", "", False)] * 3
    assert await settled(work)
    hold(0, "held", "OFF")  # nothing says that this is a release, and not a copy without its hold
    world.s3[1].put_object_retention(
        Bucket=world.bucket, Key="longer", Retention={}, BypassGovernanceRetention=True
    )
    await work.run(force=NOW)
    assert [lock[2] for lock in locks(world, "held")] == [True] * 3
    assert locks(world, "longer") == [("GOVERNANCE", "2092-01-01", False)] * 3


async def test_a_retention_that_has_passed_is_not_set_again(ruled: Make) -> None:
    work = ruled(locked=True)
    world = work.world
    world.put(0, "k")
    await work.run()
    soon = SYSTEM_CLOCK.now() + timedelta(seconds=4)
    world.s3[1].put_object_retention(
        Bucket=world.bucket,
        Key="k",
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": soon},
    )
    assert await settled(work)  # it ends before a request could arrive
    assert [lock[0] for lock in locks(world, "k")] == ["", "GOVERNANCE"]


async def test_only_what_the_rule_lets_travel(ruled: Make) -> None:
    work = ruled(locked=True)
    world = work.world
    world.put(0, "k", Tagging="s=1")
    await work.run()
    retag(world, 1, "k", {"s": "2"})
    world.s3[1].put_object_legal_hold(Bucket=world.bucket, Key="k", LegalHold={"Status": "ON"})
    for left, found in (
        ({Travel.TAGS, Travel.LOCKS}, ("1", False)),
        ({Travel.TAGS}, ("1", True)),
        ({Travel.LOCKS}, ("2", True)),
    ):
        work.policy = Policy(travels=frozenset(Travel) - left)
        await work.run(force=NOW)
        assert (tags_at(world, 0, "k")["s"], locks(world, "k")[0][2]) == found


async def test_a_one_way_rule_changes_nothing_at_its_source(ruled: Make) -> None:
    work = ruled(Policy(mode=Mode.ONE_WAY, source_site="site-1"))
    world = work.world
    world.put(1, "k", Tagging="s=1")
    world.put(1, "j", Tagging="s=1")
    await work.run()
    retag(world, 1, "k", {"s": "2"})
    retag(world, 0, "k", {"s": "3", "own": "x"})
    retag(world, 0, "j", {"own": "x"})
    _, outcome = await work.run(force=NOW)
    assert tags(world, "k") == [{"s": "2", "own": "x"}, {"s": "2"}]
    assert tags(world, "j") == [{"own": "x"}, {"s": "1"}]
    assert (outcome.totals["altered"], outcome.totals["drifted"]) == (1, 2)
    again = (await work.run(force=NOW))[1].totals
    assert (again["altered"], again["drifted"]) == (0, 2)


async def test_a_one_way_rule_that_overwrites_leaves_no_tags_of_others(ruled: Make) -> None:
    work = ruled(Policy(mode=Mode.ONE_WAY, source_site="site-1", overwrites=True))
    work.world.put(1, "k", Tagging="s=1")
    await work.run()
    retag(work.world, 0, "k", {"own": "x"})
    await work.run(force=NOW)
    assert tags(work.world, "k") == [{"s": "1"}] * 2
    assert await settled(work)


async def test_a_dry_run_says_it_and_does_nothing(ruled: Make) -> None:
    work = ruled()
    work.world.put(0, "k", Tagging="s=1")
    await work.run()
    retag(work.world, 1, "k", {"s": "2"})
    _, outcome = await work.run(force=NOW, dry_run=True)
    assert [row["what"] for row in outcome.findings] == ["alter"]
    assert tags(work.world, "k") == [{"s": "1"}, {"s": "2"}]
    await work.run(force=NOW)
    assert tags(work.world, "k") == [{"s": "2"}] * 2


async def test_a_bucket_that_cannot_lock_is_said_and_nothing_is_done_twice(ruled: Make) -> None:
    work = ruled(locked=True)
    world = work.world
    world.s3[1].delete_bucket(Bucket=world.bucket)
    world.s3[1].create_bucket(Bucket=world.bucket)
    world.enable_versioning_at(1)
    world.put(0, "k")
    await work.run()
    world.s3[0].put_object_legal_hold(Bucket=world.bucket, Key="k", LegalHold={"Status": "ON"})
    _, outcome = await work.run(force=NOW)
    assert [row["what"] for row in outcome.findings] == ["unlocked"]
    assert await settled(work)


async def test_where_ids_are_minted_what_is_served_is_compared(ruled: Make) -> None:
    work = ruled(capabilities={1: ALL - {Capability.ORIGIN}})
    world = work.world
    world.put(0, "k", Tagging="s=1")
    world.put(1, "j", Tagging="s=1")
    await work.run()
    retag(world, 1, "k", {"s": "2"})
    retag(world, 0, "j", {"s": "2"})
    _, outcome = await work.run(force=NOW)
    assert outcome.totals["altered"] == 2
    assert [tags(world, key) for key in "kj"] == [[{"s": "2"}] * 2] * 2
    assert await settled(work)


class Plain(StoreWrapper):
    """An endpoint whose listing tells no details."""

    def versions(self, bucket: str, **how: Any) -> Any:
        return self._store.versions(bucket, **{**how, "details": False})


class Hiding(StoreWrapper):
    """A user who may not read tags: MinIO's listing leaves them out without a word."""

    async def versions(self, bucket: str, **how: Any) -> Any:
        async for page in self._store.versions(bucket, **how):

            def decode(token: bytes, page: Page = page) -> Version:
                version = page.decode(token)
                if version.attributes is None:
                    return version
                return replace(version, attributes=replace(version.attributes, tags={}))

            yield replace(page, decode=decode)


@pytest.mark.parametrize("listing", [Plain, Hiding])
async def test_what_a_listing_does_not_tell_is_asked(ruled: Make, listing: Any) -> None:
    work = ruled(wraps={1: listing}, locked=True)
    world = work.world
    world.put(0, "a")  # of which nothing is hidden
    world.put(0, "k", Tagging="s=1")
    await work.run()
    retag(world, 0, "k", {"s": "2"})
    world.s3[1].put_object_legal_hold(Bucket=world.bucket, Key="k", LegalHold={"Status": "ON"})
    await work.run(force=NOW)
    assert tags(world, "k") == [{"s": "2"}] * 2
    assert [lock[2] for lock in locks(world, "k")] == [True, True]
    assert await settled(work)


async def test_one_that_is_refused_is_counted_and_the_others_are_done(ruled: Make) -> None:
    refused = Refuse(AccessDenied("no"))
    work = ruled(wraps={1: lambda store: FaultyStore(store, {"tag": [refused]})})
    world = work.world
    for key in "abc":
        world.put(0, key, Tagging="s=1")
    await work.run()
    for key in "abc":
        retag(world, 0, key, {"s": "2"})
    _, outcome = await work.run(force=NOW)
    assert (outcome.totals["failed"], outcome.totals["altered"]) == (1, 2)
    assert sorted(tags_at(world, 1, key)["s"] for key in "abc") == ["1", "2", "2"]
    await work.run(force=NOW)
    assert [tags(world, key) for key in "abc"] == [[{"s": "2"}] * 2] * 3
    assert await settled(work)


async def test_comparing_is_due_once_a_day(ruled: Make) -> None:
    work = ruled()
    world = work.world
    world.put(0, "k")
    job, _ = await work.run()
    assert job.compares
    job, _ = await work.run()
    assert not job.compares
    last = await jobs.last_completed(work.catalog, kind=KIND, subject=job.claim.subject)
    assert last
    kept = datetime.fromisoformat(last.report["compared_at"])

    class Tomorrow:
        def __getattr__(self, name: str) -> Any:
            return getattr(SYSTEM_CLOCK, name)

        def now(self) -> datetime:
            return kept + timedelta(days=1)

    assert (await work.begin(policy=work.policy, clock=Tomorrow())).compares


async def test_what_was_copied_just_now_is_not_compared(ruled: Make) -> None:
    asked: list[bool] = []

    class Noting(StoreWrapper):
        def versions(
            self, bucket: str, *, details: bool = False, **more: Any
        ) -> AsyncIterator[Page]:
            asked.append(details)
            return self._store.versions(bucket, details=details, **more)

    work = ruled(wraps={0: Noting})
    for key in "abc":
        work.world.put(0, key, Tagging=f"is={key}")
    job, _ = await work.run()
    assert job.compares
    assert asked and not any(asked)
    assert [tags(work.world, key) for key in "abc"] == [[{"is": key}] * 2 for key in "abc"]
    retag(work.world, 1, "b", {"is": "other"})
    _, outcome = await work.run(force=NOW)  # what was agreed on is known all the same
    assert any(asked)
    assert (outcome.totals["altered"], outcome.totals["conflicts"]) == (1, 0)
    assert tags(work.world, "b") == [{"is": "other"}] * 2


async def test_whatever_happens_at_three_sites_one_sweep_ends_it(ruled: Make) -> None:
    seed = int.from_bytes(new_bytes(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    work = ruled(sites=3, locked=True)
    world = work.world
    keys = [f"k{number}" for number in range(12)]
    for key in keys:
        world.put(chance.randrange(3), key, Tagging="a=0&b=0")
    await work.run()
    for _ in range(3):
        for _ in range(20):
            site, key = chance.randrange(3), chance.choice(keys)
            names = chance.sample("abc", chance.randrange(3))
            retag(world, site, key, {name: str(chance.randrange(4)) for name in names})
            if chance.random() < 0.2:
                world.s3[chance.randrange(3)].put_object_legal_hold(
                    Bucket=world.bucket, Key=key, LegalHold={"Status": "ON"}
                )
            if chance.random() < 0.2:
                world.put(site, key, Tagging="a=9")
        _, outcome = await work.run(force=NOW)
        assert outcome.totals["failed"] == 0, outcome.findings
        for entry in world.history(0):
            where = entry.key, entry.version_id
            assert len({json.dumps(each, sort_keys=True) for each in tags(world, *where)}) == 1
            assert len(set(locks(world, *where))) == 1
        assert await settled(work)
