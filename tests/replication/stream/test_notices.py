"""What stores tell of adopted buckets: twice, late, in any order, about us; and who is no store."""

import json
from itertools import permutations
from typing import Any
from urllib.parse import quote_plus

import pytest
from pydantic import SecretStr

from entrepot.catalog.objects import outbox
from entrepot.embedded.minio import KEPT
from entrepot.errors import Unsupported
from entrepot.gateway.notifications import Sender
from entrepot.gateway.webhooks import BODY_MAX_BYTES
from entrepot.objects.adopted import follow
from entrepot.replication.stream.engine import subscribe_site
from entrepot.store.notification import TARGETS, arn, missing
from entrepot.store.protocol import Version
from entrepot.store.settings import Setting
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.adopted import Told
from tests.replication.stream.worlds import counted, drained, route_over, running, until

A, B = "site-a", "site-b"
SITES = (A, B)
TAGGED = "s3:ObjectCreated:PutTagging"
CREATED, MARKED, REMOVED = (
    *("s3:ObjectCreated:Put", "s3:ObjectRemoved:DeleteMarkerCreated"),
    "s3:ObjectRemoved:Delete",
)


def event(
    bucket: str, key: str, version_id: str, *, kind: str = CREATED, agent: str = "MinIO"
) -> bytes:
    """What MinIO sends, without what nobody reads."""
    about = {"key": quote_plus(key), "versionId": version_id, "sequencer": "18BB"}
    record = {
        "eventName": kind,
        "eventTime": "2026-11-25T10:00:00.000Z",
        "s3": {"bucket": {"name": bucket}, "object": about},
        "source": {"userAgent": agent},
    }
    whole = {"EventName": kind, "Key": f"{bucket}/{key}", "Records": [record]}
    return json.dumps(whole).encode()


async def outcome(told: Told, site: str, body: bytes) -> str:
    answer = await told.post(site, body)
    assert answer.status_code == 200, answer.text
    [found] = answer.json()
    return str(found)


async def test_twice_and_in_any_order(told: Told) -> None:
    for number, order in enumerate(permutations(range(3))):
        bucket = await told.bucket(f"{new_bucket_name()}-{number}", followed=False)
        where = {"Bucket": bucket, "Key": "k"}
        async with running(told.world.stream(route_over(bucket, SITES))):
            first = (await told.does(A, "put_object", **where, Body=b"1"))["VersionId"]
            second = (await told.does(A, "put_object", **where, Body=b"2"))["VersionId"]
            marker = (await told.does(A, "delete_object", **where))["VersionId"]
            await told.does(A, "delete_object", **where, VersionId=first)
            bodies = [
                event(bucket, "k", first) + b" ",
                event(bucket, "k", second),
                event(bucket, "k", marker, kind=MARKED),
                event(bucket, "k", first, kind=REMOVED),
            ]
            for each in order:
                await outcome(told, A, bodies[each])
            assert await outcome(told, A, bodies[3]) == "removed"
            assert {await outcome(told, A, body) for body in bodies} == {"known"}
            await told.equal(bucket, count=2)
            await drained(told.world)
        assert await told.shipped(bucket) == {A: 3, B: 0}


async def test_what_we_bring_ourselves_is_no_news(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store tells of a copy before its row is there, of a removal before its row is gone."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    store = told.world[B].ground.store
    put, delete = store.put, store.delete
    heard: list[str] = []

    async def putting(bucket: str, key: str, source: Any, **how: Any) -> Version:
        stored = await put(bucket, key, source, **how)
        heard.append(await outcome(told, B, event(bucket, key, stored.version_id)))
        return stored

    async def deleting(bucket: str, key: str, **how: Any) -> Version | None:
        stored = await delete(bucket, key, **how)
        version_id = stored.version_id if stored else how["version_id"]
        kind = MARKED if stored else REMOVED
        heard.append(await outcome(told, B, event(bucket, key, version_id, kind=kind)))
        return stored

    monkeypatch.setattr(store, "put", putting)
    monkeypatch.setattr(store, "delete", deleting)
    where = {"Bucket": bucket, "Key": "k"}
    async with running(told.world.stream(route_over(bucket, SITES))):
        version = (await told.does(A, "put_object", **where, Body=b"1"))["VersionId"]
        await outcome(told, A, event(bucket, "k", version))
        await drained(told.world)
        marker = (await told.does(A, "delete_object", **where))["VersionId"]
        await outcome(told, A, event(bucket, "k", marker, kind=MARKED))
        await drained(told.world)
        await told.does(A, "delete_object", **where, VersionId=version)
        await outcome(told, A, event(bucket, "k", version, kind=REMOVED))
        await told.equal(bucket, count=1)
        await drained(told.world)
        # Late, when all is done: still no news.
        assert await outcome(told, B, event(bucket, "k", marker, kind=MARKED)) == "known"
        assert await outcome(told, B, event(bucket, "k", version, kind=REMOVED)) == "known"
        await drained(told.world)
    # The removal's own is counted as such, and goes nowhere.
    assert heard == ["known", "known", "removed"]
    assert await told.shipped(bucket) == {A: 3, B: 0}


async def test_what_a_sweep_brought_is_not_sent_again(told: Told) -> None:
    """Its catalog knows nothing of it; a look at the target does."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1" * 1000)
    [(_, version_id, *_)] = await told.history(A, bucket)
    async with running(told.world.stream(route_over(bucket, SITES))):
        await outcome(told, A, event(bucket, "k", version_id))
        await told.equal(bucket, count=1)
        await drained(told.world)
        # As after a sweep of tars, of which MinIO tells as of any write.
        for site in SITES:
            found = await told.world[site].ground.bucket(bucket)
            async with told.world[site].ground.catalog.transaction() as transaction:
                named = {"id": found.id}
                await transaction.at_once(("DELETE FROM versions WHERE bucket_id = %(id)s", named))
        assert await outcome(told, B, event(bucket, "k", version_id)) == "new"
        await drained(told.world)
    catalogs = told.world[B].ground.catalog
    [(shipped_bytes,)] = await catalogs.ask(
        "SELECT shipped_bytes FROM outbox_progress WHERE consumer = %(name)s",
        {"name": outbox.consumer_name(bucket, A)},
    )
    assert shipped_bytes == 0


async def test_expiry_takes_nothing_elsewhere(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name(), followed=False)
    where = {"Bucket": bucket, "Key": "k"}
    async with running(told.world.stream(route_over(bucket, SITES))):
        old = (await told.does(A, "put_object", **where, Body=b"1"))["VersionId"]
        assert await outcome(told, A, event(bucket, "k", old)) == "new"
        await told.equal(bucket, count=1)
        await told.does(A, "delete_object", **where, VersionId=old)
        gone = event(bucket, "k", old, kind=REMOVED, agent="Internal: [ILM-Expiry]")
        assert await outcome(told, A, gone) == "removed"
        await drained(told.world)
    assert [len(await told.history(site, bucket)) for site in SITES] == [0, 1]
    assert await told.shipped(bucket) == {A: 1, B: 0}


async def test_a_catalog_that_is_away_loses_nothing(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name())
    async with running(told.world.stream(route_over(bucket, SITES))):
        await told.catalogs[A].refuse()
        await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1")

        async def was_refused() -> bool:
            return told.heard(A, "unavailable") > 1  # each of the two targets

        await until(was_refused, timeout_s=60)
        assert len(await told.history(B, bucket)) == 0
        await told.catalogs[A].heal()
        await told.equal(bucket, count=1)
        await told.quiet()


async def test_who_is_not_the_store(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name(), followed=False)
    put = await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1")
    body = event(bucket, "k", put["VersionId"])
    for token in (None, "", "wrong", "a-token-of-tests-onl", "a-token-of-tests-onlyy"):
        assert (await told.post(A, body, token=token)).status_code == 401
    assert (await told.post(A, b"x" * (BODY_MAX_BYTES + 1), token="wrong")).status_code == 401
    assert (await told.post("site-z", body)).status_code == 404
    assert (await told.post("..%2fsite-a", body)).status_code == 404
    assert await counted(told.world[A].ground.catalog, f"versions WHERE key = '{bucket}'") == 0
    assert await outcome(told, A, body) == "new"


def test_two_tokens_are_none() -> None:
    sender = Sender(SecretStr("x" * 20), lambda: None)  # type: ignore[arg-type,return-value]
    right = (b"authorization", b"Bearer " + b"x" * 20)
    assert sender.sent([right])
    assert not sender.sent([right, right])
    assert not sender.sent([])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"x" * (BODY_MAX_BYTES + 1), 413),
        (b"", 400),
        (b"[]", 400),
        (b"[" * 50_000, 400),
        (b'{"Records": {}}', 400),
        (b'{"Records": [{}]}', 400),
        (b'{"Records": [7]}', 400),
        (b'{"Records": [%s]}' % b",".join([b"7"] * 101), 400),
        (event("../other", "k", "v"), 400),
        (event("site-a", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "v"), 200),
        (b'{"Records": []}', 200),
        (event("no-such-bucket", "k", "v"), 200),
        (event("no-such-bucket", "../../etc/passwd", "v"), 200),
        (event("no-such-bucket", "a\0b", "v"), 400),
        (event("no-such-bucket", "k" * 1025, "v"), 400),
        (event("no-such-bucket", "k", "v", kind="s3:ObjectAccessed:Get"), 200),
        (event("no-such-bucket", "k", "v", kind=TAGGED), 200),
    ],
)
async def test_what_is_no_notification(told: Told, body: bytes, status: int) -> None:
    answer = await told.post(A, body)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json() in ({}, {"ignored": 1})


async def test_names_that_lead_elsewhere(told: Told) -> None:
    """The store is asked for just that key; what it refuses is left, and not sent again."""
    bucket = await told.bucket(new_bucket_name(), followed=False)
    other = await told.bucket(new_bucket_name(), followed=False)
    version = (await told.does(A, "put_object", Bucket=other, Key="k", Body=b"1"))["VersionId"]
    for key in (f"../{other}/k", f"/../{other}/k", f"%2e%2e/{other}/k", f"x/../../{other}/k"):
        for kind in (CREATED, REMOVED):
            assert await outcome(told, A, event(bucket, key, version, kind=kind)) != "new"
    for version_id in ("", "null", "x", "../k", version.upper()):
        assert await outcome(told, A, event(other, "k", version_id)) in ("left", "known")
    ground = told.world[A].ground
    found = await ground.bucket(other)
    assert await counted(ground.catalog, f"versions WHERE bucket_id = {found.id}") == 0


async def test_a_managed_bucket_is_its_catalogs(told: Told) -> None:
    """Neither a write that went round us nor a removal changes it, whatever the store tells."""
    bucket, ground = new_bucket_name(), told.world[A].ground
    await told.world[A].create_bucket(bucket, tenant_id="acme")
    row = await told.world[A].put(bucket, "k", b"1")
    rival = (await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"2"))["VersionId"]
    before = await told.world[A].versions(bucket)
    assert await outcome(told, A, event(bucket, "k", rival)) == "ignored"
    gone = event(bucket, "k", row.version_id, kind=REMOVED)
    assert await outcome(told, A, gone) == "ignored"
    assert await told.world[A].versions(bucket) == before
    found = await ground.bucket(bucket)
    assert await counted(ground.catalog, f"purges WHERE bucket_id = {found.id}") == 0


async def test_a_users_own_configuration_stays(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name(), followed=False)
    theirs = {
        "Id": "theirs",
        "QueueArn": arn(KEPT),
        "Events": ["s3:ObjectAccessed:Get"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "logs/"}]}},
    }
    await told.does(
        A,
        "put_bucket_notification_configuration",
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": [theirs]},
    )
    store = told.world[A].ground.store
    await follow(store, bucket)
    kept = await told.does(A, "get_bucket_notification_configuration", Bucket=bucket)
    found = {each["Id"]: each for each in kept["QueueConfigurations"]}
    assert len(kept["QueueConfigurations"]) == len(found) == len(TARGETS) + 1
    assert found["theirs"]["Events"] == theirs["Events"]
    [rule] = found["theirs"]["Filter"]["Key"]["FilterRules"]
    assert rule["Value"] == "logs/"
    document = await store.setting(bucket, Setting.NOTIFICATION)
    await follow(store, bucket)
    assert await store.setting(bucket, Setting.NOTIFICATION) == document
    assert not missing(document)


async def test_an_endpoint_that_does_not_know_us_is_said(told: Told, minio_a: Any) -> None:
    from tests.objects.worlds import s3_store

    store = s3_store(minio_a)
    try:
        bucket = new_bucket_name()
        await store.create(bucket)
        with pytest.raises(Unsupported, match="does not know our targets"):
            await follow(store, bucket)
        assert await store.setting(bucket, Setting.NOTIFICATION) == ""
    finally:
        await store.close()


async def test_what_cannot_be_the_same_there_is_refused(told: Told) -> None:
    """A bucket that is managed there; and an endpoint that chooses ids is left to the sweep."""
    bucket = new_bucket_name()
    await told.does(A, "create_bucket", Bucket=bucket)
    on = {"Status": "Enabled"}
    await told.does(A, "put_bucket_versioning", Bucket=bucket, VersioningConfiguration=on)
    await told.world[A].adopt_bucket(bucket, tenant_id="acme")
    await told.world[B].create_bucket(bucket, tenant_id="acme")
    catalog = told.world[A].ground.catalog
    put = await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1")
    async with running(told.world.stream(route_over(bucket, SITES))):
        await outcome(told, A, event(bucket, "k", put["VersionId"]))
        await drained(told.world)
    [letter] = [each for each in await outbox.dead_letters(catalog) if each.bucket == bucket]
    assert "managed at one site and adopted at the other" in letter.reason
    assert await told.world[B].versions(bucket) == ()
    route = route_over(bucket, SITES)
    await subscribe_site(catalog, type(route)(**{**_fields(route), "minting": (B,)}), A)
    again = await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"2")
    assert await outcome(told, A, event(bucket, "k", again["VersionId"])) == "new"
    assert await told.world.backlog() == 0


def _fields(route: Any) -> dict[str, Any]:
    return {name: getattr(route, name) for name in route.__dataclass_fields__}
