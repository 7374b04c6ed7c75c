"""A read that misses here is served by a peer: what is there, never what was deleted here."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from botocore.client import BaseClient
from sqlalchemy.engine import make_url

from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import Rule
from entrepot.clock import SYSTEM_CLOCK
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.process import HOST
from entrepot.errors import (
    BucketNotFound,
    DeleteMarker,
    EntrepotError,
    InvalidInput,
    NotFound,
    NotModified,
    Unavailable,
)
from entrepot.metrics import Metrics
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import Ground
from entrepot.objects.peers import Peers, peers_of
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes, Store
from entrepot.store.s3 import S3Store
from entrepot.testing.proxy import BreakableProxy
from tests.objects.conftest import KINDS
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import counted
from tests.replication.worlds import client

BODY = bytes(range(256)) * 9000
NOW = datetime.now(UTC)


def rule(bucket: str, **said: Any) -> Rule:
    told: dict[str, Any] = {"name": "r", "enabled": True, "created_at": NOW, "updated_at": NOW}
    told |= {"buckets": (bucket,), "sites": ("site-a", "site-b"), "peer_reads": True}
    return Rule(**(told | said))


@dataclass
class Near:
    """``here`` may ask ``there``, whose store is behind ``link``; ``rules`` are those that hold."""

    here: Objects
    there: Objects
    link: BreakableProxy
    store: Store
    metrics: Metrics = field(default_factory=Metrics)
    rules: list[Rule] = field(default_factory=list)
    peers: Peers = field(init=False)
    """Patient ones: a busy machine is no peer that is down."""

    async def bucket(self, **kind: bool) -> str:
        name = new_bucket_name()
        for each in (self.here, self.there):
            await each.create_bucket(name, tenant_id="acme", **kind)
        self.rules[:] = [rule(name)]
        return name

    def counts(self) -> dict[str, int]:
        found = self.metrics.peer_reads.collect()[0].samples
        return {
            each.labels["outcome"]: int(each.value)
            for each in found
            if each.name.endswith("_total") and each.value
        }

    async def reads(self, bucket: str, key: str, **how: Any) -> bytes:
        async with self.here.get(bucket, key, **how) as body:
            assert body.row.served_by == "site-b"
            return await body.read()

    async def misses(self, bucket: str, key: str, **how: Any) -> None:
        with pytest.raises(NotFound):
            await self.here.head(bucket, key, **how)


@pytest_asyncio.fixture
async def near(objects: Objects, there: Objects, minio_b: MinioServer) -> AsyncIterator[Near]:
    async with BreakableProxy(HOST, minio_b.port) as link:
        store = S3Store(
            endpoint=link.endpoint, access_key=minio_b.access_key, secret_key=minio_b.secret_key
        )
        found = Near(objects, there, link, store)

        @asynccontextmanager
        async def opener(name: str) -> AsyncGenerator[Ground, None]:
            assert name == "site-b"
            yield there.ground.through(store)

        async def rules() -> Sequence[Rule]:
            return found.rules

        peers = Peers(rules, opener, metrics=found.metrics, timeout_s=20, rest_s=600, rules_ttl_s=0)
        found.here, found.peers = Objects(objects.ground, peers=peers), peers
        try:
            yield found
        finally:
            await peers.aclose()
            await store.close()


@pytest.mark.parametrize("kind", list(KINDS))
async def test_what_is_not_here_yet_is_read_there(near: Near, kind: str) -> None:
    bucket = await near.bucket(**KINDS[kind])
    wish = Wish(attributes=Attributes("text/x", {"author": "ada"}, {}, {"a": "1"}))
    first = await near.there.put(bucket, "a b/ü", BODY, wish=wish)
    second = await near.there.put(bucket, "a b/ü", b"new")
    assert await near.reads(bucket, "a b/ü") == b"new"
    how = {"version_id": first.version_id}
    assert await near.reads(bucket, "a b/ü", **how) == BODY
    assert (
        await near.reads(bucket, "a b/ü", **how, start=70_000, stop=200_000)
        == (BODY[70_000:200_000])
    )
    row = await near.here.head(bucket, "a b/ü", **how)
    assert (row.served_by, row.etag, row.size_bytes) == ("site-b", first.etag, len(BODY))
    assert row.attributes["metadata"] == {"author": "ada"}
    with pytest.raises(NotModified):
        condition = Condition(if_none_match=(second.etag,))
        await near.reads(bucket, "a b/ü", condition=condition)
    with pytest.raises(InvalidInput, match="no byte"):
        await near.reads(bucket, "a b/ü", start=9)
    assert near.counts()["served"] == 3
    # Nothing was kept of it, and what is here is not asked for there.
    assert await near.here.list(bucket) == ()
    await near.here.put(bucket, "a b/ü", b"mine")
    async with near.here.get(bucket, "a b/ü") as body:
        assert (await body.read(), body.row.served_by) == (b"mine", "")


async def test_only_where_a_rule_says_so(near: Near) -> None:
    bucket = await near.bucket()
    await near.there.put(bucket, "in/k", b"x", wish=Wish(attributes=Attributes(tags={"t": "1"})))
    for said in (
        {"peer_reads": False},
        {"enabled": False},
        {"prefix": "other/"},
        {"buckets": ("other",)},
        {"sites": ("site-b", "site-c")},
        {"mode": "one-way", "source": "site-a"},
        {"tag_filter": {"t": "2"}, "travels": ()},
    ):
        near.rules[:] = [rule(bucket, **said)]
        await near.misses(bucket, "in/k")
    for said in (
        {"prefix": "in/"},
        {"mode": "one-way", "source": "site-b"},
        {"tag_filter": {"t": "1"}, "travels": ()},
        {"paused": True},
    ):
        near.rules[:] = [rule(bucket, **said)]
        assert await near.reads(bucket, "in/k") == b"x"


async def test_another_tenants_bucket_serves_nobody(near: Near) -> None:
    bucket = new_bucket_name()
    await near.here.create_bucket(bucket, tenant_id="acme")
    await near.there.create_bucket(bucket, tenant_id="other")
    near.rules[:] = [rule(bucket)]
    await near.there.put(bucket, "k", b"theirs")
    await near.misses(bucket, "k")


async def test_what_was_deleted_here_is_not_served(near: Near) -> None:
    bucket = await near.bucket()
    # Deleted here, though what is there is newer than what was here.
    await near.here.put(bucket, "marked", b"old")
    await near.here.delete(bucket, "marked")
    await near.there.put(bucket, "marked", b"newer")
    with pytest.raises(DeleteMarker):
        await near.here.head(bucket, "marked")
    # Deleted there, which has not come either.
    await near.there.put(bucket, "theirs", b"x")
    await near.there.delete(bucket, "theirs")
    await near.misses(bucket, "theirs")
    # Removed here for good; the removal has not come there.
    row = await near.there.put(bucket, "removed", b"x")
    await removed_here(near, bucket, row.key, row.version_id)
    await near.misses(bucket, "removed")
    await near.misses(bucket, "removed", version_id=row.version_id)
    assert near.counts() == {"missing": 1, "removed": 2}
    # Which says nothing of later writes.
    await near.there.put(bucket, "removed", b"again")
    assert await near.reads(bucket, "removed") == b"again"


async def removed_here(near: Near, bucket: str, key: str, version_id: str) -> None:
    found = await near.here.ground.bucket(bucket)
    async with near.here.ground.catalog.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO purges (bucket_id, key, version_id) VALUES (%s, %s, %s)",
            (found.id, key, version_id),
        )


async def test_a_removal_that_may_be_forgotten_counts_as_one(near: Near) -> None:
    """Removals are remembered for 30 days; of a bucket made since, all of them are."""
    bucket = await near.bucket()
    row = await near.there.put(bucket, "k", b"x")
    async with near.there.ground.catalog.begin() as connection:
        month_ms = 30 * 24 * 3600 * 1000
        await connection.exec_driver_sql(
            "UPDATE versions SET stamp_ms = stamp_ms - %s WHERE version_id = %s",
            (month_ms, row.version_id),
        )
    assert await near.reads(bucket, "k") == b"x"
    async with near.here.ground.catalog.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE buckets SET adopted_at = adopted_at - interval '40 days' WHERE name = %s",
            (bucket,),
        )
    near.here.ground.forget(bucket)
    await near.misses(bucket, "k")


async def test_a_peer_that_is_down_costs_little(near: Near) -> None:
    """One reader waits a second at most, the others not at all until it was left alone enough."""
    bucket = await near.bucket()
    await near.there.put(bucket, "k", BODY)
    assert await near.reads(bucket, "k") == BODY
    near.link.hang()
    near.peers._timeout_s = 0.5
    began = SYSTEM_CLOCK.monotonic()
    with pytest.raises(NotFound):
        await near.reads(bucket, "k")
    await asyncio.gather(*(near.misses(bucket, "k") for _ in range(20)))
    assert SYSTEM_CLOCK.monotonic() - began < 8  # the store's own patience is 60 s
    assert near.counts() == {"served": 1, "failed": 1, "resting": 20}
    await near.link.heal()
    near.peers._timeout_s = 20
    near.peers._rests["site-b"] = 0.0  # the time is over
    assert await near.reads(bucket, "k") == BODY
    assert await near.reads(bucket, "k") == BODY


async def test_a_peer_whose_catalog_hangs_costs_little(near: Near, other_dsn: str) -> None:
    """Its driver would wait for it for seconds, also where it is cancelled."""
    bucket = await near.bucket()
    await near.there.put(bucket, "k", b"x")
    dsn = make_url(other_dsn)
    assert dsn.port
    async with BreakableProxy(HOST, dsn.port) as link:
        behind = dsn.set(port=link.port).render_as_string(hide_password=False)

        @asynccontextmanager
        async def opener(_name: str) -> AsyncGenerator[Ground, None]:
            async with Catalog.open(behind, pool_size=2) as catalog:
                ground = near.there.ground.through(near.store)
                ground.catalog = catalog
                yield ground

        async def rules() -> Sequence[Rule]:
            return near.rules

        peers = Peers(rules, opener, metrics=near.metrics, timeout_s=20, rest_s=600)
        async with aclosing(peers):
            near.here = Objects(near.here.ground, peers=peers)
            assert await near.reads(bucket, "k") == b"x"
            link.hang()
            peers._timeout_s = 0.3
            began = SYSTEM_CLOCK.monotonic()
            await near.misses(bucket, "k")
            assert SYSTEM_CLOCK.monotonic() - began < 2.5
            await link.cut()
            assert near.counts() == {"served": 1, "failed": 1}


async def test_a_body_that_breaks_is_an_error(near: Near) -> None:
    bucket = await near.bucket()
    await near.there.put(bucket, "k", BODY * 4)
    near.link.reset_after(4_000_000)
    with pytest.raises(EntrepotError, match="cut short"):
        await near.reads(bucket, "k")


async def test_rules_that_cannot_be_read_stay_as_they_were(near: Near) -> None:
    calls = 0

    async def rules() -> Sequence[Rule]:
        nonlocal calls
        calls += 1
        if calls != 1:
            raise Unavailable("the control catalog is down (scripted)")
        return near.rules

    near.peers._read_rules = rules
    bucket = await near.bucket()
    await near.there.put(bucket, "k", b"x")
    for _ in range(2):
        assert await near.reads(bucket, "k") == b"x"
    assert calls == 2


@pytest.fixture
def users(minio_a: MinioServer, minio_b: MinioServer) -> list[BaseClient]:
    return [client(minio_a), client(minio_b)]


async def adopted(near: Near, users: list[Any]) -> str:
    name = new_bucket_name()
    for user, each in zip(users, (near.here, near.there), strict=True):
        user.create_bucket(Bucket=name)
        on = {"Status": "Enabled"}
        user.put_bucket_versioning(Bucket=name, VersioningConfiguration=on)
        await each.adopt_bucket(name, tenant_id="acme")
    near.rules[:] = [rule(name)]
    return name


async def test_adopted_buckets_too(near: Near, users: list[Any]) -> None:
    bucket = await adopted(near, users)
    there = users[1]
    first = there.put_object(Bucket=bucket, Key="k", Body=BODY, Metadata={"author": "ada"})
    there.put_object(Bucket=bucket, Key="k", Body=b"new", Tagging="t=1")
    there.put_object(Bucket=bucket, Key="k/below", Body=b"hidden from listings")
    assert await near.reads(bucket, "k") == b"new"
    how = {"version_id": first["VersionId"]}
    assert await near.reads(bucket, "k", **how, start=5, stop=70_000) == BODY[5:70_000]
    row = await near.here.head(bucket, "k", **how)
    assert row.attributes["metadata"] == {"author": "ada"}
    near.rules[:] = [rule(bucket, tag_filter={"t": "2"}, travels=())]
    await near.misses(bucket, "k")
    near.rules[:] = [rule(bucket, tag_filter={"t": "1"}, travels=())]
    assert await near.reads(bucket, "k") == b"new"
    await near.misses(bucket, "never")


async def test_what_was_deleted_in_an_adopted_bucket(near: Near, users: list[Any]) -> None:
    bucket = await adopted(near, users)
    here, there = users
    here.put_object(Bucket=bucket, Key="marked", Body=b"old")
    here.delete_object(Bucket=bucket, Key="marked")
    there.put_object(Bucket=bucket, Key="marked", Body=b"newer")
    with pytest.raises(DeleteMarker):
        await near.here.head(bucket, "marked")
    there.put_object(Bucket=bucket, Key="theirs", Body=b"x")
    there.delete_object(Bucket=bucket, Key="theirs")
    await near.misses(bucket, "theirs")
    gone = there.put_object(Bucket=bucket, Key="removed", Body=b"x")["VersionId"]
    await near.here.delete(bucket, "removed", version_id=gone)
    assert await counted(near.here.ground.catalog, f"purges WHERE version_id = '{gone}'") == 1
    await near.misses(bucket, "removed")
    # A lifecycle of here would take it at once.
    there.put_object(Bucket=bucket, Key="old/k", Body=b"x")
    assert await near.reads(bucket, "old/k") == b"x"
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    expiry = {"ID": "e", "Status": "Enabled", "Filter": {"Prefix": "old/"}}
    expiry |= {"Expiration": {"Date": yesterday - timedelta(days=1)}}
    here.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [expiry]}
    )
    await near.misses(bucket, "old/k")


async def test_a_bucket_that_is_not_here_is_no_miss(near: Near) -> None:
    bucket = new_bucket_name()
    await near.there.create_bucket(bucket, tenant_id="acme")
    near.rules[:] = [rule(bucket)]
    with pytest.raises(BucketNotFound):
        await near.here.head(bucket, "k")


def test_whose_writes_do_not_come_here_is_no_peer() -> None:
    three = ("site-a", "site-b", "site-c")
    one_way = rule("xxx", sites=three, mode="one-way", source="site-c")
    asked = {"bucket": "xxx", "key": "k"}
    assert set(peers_of([rule("xxx", sites=three)], site="site-a", **asked)) == {
        "site-b",
        "site-c",
    }
    assert set(peers_of([one_way], site="site-a", **asked)) == {"site-c"}
    assert peers_of([one_way], site="site-c", **asked) == {}
