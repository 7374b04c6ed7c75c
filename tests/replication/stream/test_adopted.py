"""Adopted buckets in a stream: what anybody writes to a store is soon at the other sites, once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entrepot.catalog.objects import outbox
from entrepot.objects.recover import recover
from entrepot.objects.shipping import Travels
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.adopted import Told
from tests.replication.stream.worlds import counted, route_over, running, until

A, B = "site-a", "site-b"
SITES = (A, B)
PART_BYTES = 5 * 1024 * 1024


async def test_what_anybody_writes_anywhere_comes_everywhere(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name())
    async with running(told.world.stream(route_over(bucket, SITES))):
        how = {"Metadata": {"author": "ada"}, "ContentType": "text/plain", "Tagging": "a=1&b=2"}
        await told.does(A, "put_object", Bucket=bucket, Key="a b/ü+%.txt", Body=b"one", **how)
        await told.does(B, "put_object", Bucket=bucket, Key="empty", Body=b"")
        await told.equal(bucket, count=2)
        await told.does(B, "put_object", Bucket=bucket, Key="a b/ü+%.txt", Body=b"two")
        await told.does(A, "delete_object", Bucket=bucket, Key="empty")
        await told.equal(bucket, count=4)
        answer = await told.does(A, "get_object", Bucket=bucket, Key="a b/ü+%.txt")
        assert answer["Body"].read() == b"two"
        await multipart(told, A, bucket, "big")
        await told.equal(bucket, count=5)
        await told.quiet()
    # Each write went once, from where it was made, though each was told of twice.
    assert await told.shipped(bucket) == {A: 3, B: 2}


async def multipart(told: Told, site: str, bucket: str, key: str) -> None:
    """Two parts, so that its ETag is of parts."""
    where: dict[str, Any] = {"Bucket": bucket, "Key": key}
    upload = await told.does(site, "create_multipart_upload", **where)
    parts = []
    for number, body in enumerate((b"x" * PART_BYTES, b"the end"), start=1):
        part = {"UploadId": upload["UploadId"], "PartNumber": number}
        sent = await told.does(site, "upload_part", **where, **part, Body=body)
        parts.append({"ETag": sent["ETag"], "PartNumber": number})
    await told.does(
        site,
        "complete_multipart_upload",
        **where,
        UploadId=upload["UploadId"],
        MultipartUpload={"Parts": parts},
    )


async def test_versions_that_are_removed_are_removed_everywhere(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name())
    async with running(told.world.stream(route_over(bucket, SITES))):
        first = await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1")
        await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"2")
        await told.does(B, "put_object", Bucket=bucket, Key="other", Body=b"3")
        marker = await told.does(B, "delete_object", Bucket=bucket, Key="other")
        await told.equal(bucket, count=4)
        for site, key, version in ((B, "k", first), (A, "other", marker)):
            await told.does(
                site, "delete_object", Bucket=bucket, Key=key, VersionId=version["VersionId"]
            )
        await told.equal(bucket, count=2)
        await told.quiet()
    assert await told.shipped(bucket) == {A: 3, B: 3}


async def test_locks_travel(told: Told) -> None:
    bucket = await told.bucket(new_bucket_name(), locked=True)
    lock = {
        "ObjectLockMode": "GOVERNANCE",
        "ObjectLockRetainUntilDate": datetime.now(UTC) + timedelta(hours=1),
        "ObjectLockLegalHoldStatus": "ON",
    }
    async with running(told.world.stream(route_over(bucket, SITES))):
        await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1", **lock)
        await told.equal(bucket, count=1)
        await told.quiet()
    [(*_, kept)] = await told.history(B, bucket)
    assert kept.hold and kept.mode == "governance"
    assert await told.shipped(bucket) == {A: 1, B: 0}


async def test_a_version_that_is_locked_there_is_not_removed(told: Told) -> None:
    """It is a dead letter, stays in store and catalog, and goes once nothing holds it."""
    told.world.travels = Travels(removals=True, locks=False)
    bucket = await told.bucket(new_bucket_name(), locked=True)
    where = {"Bucket": bucket, "Key": "k"}
    a, b = (told.world[site].ground for site in SITES)
    async with running(told.world.stream(route_over(bucket, SITES))):
        version = (await told.does(A, "put_object", **where, Body=b"1"))["VersionId"]
        await told.equal(bucket, count=1)
        await told.quiet()
        held = {"VersionId": version, "LegalHold": {"Status": "ON"}}
        await told.does(B, "put_object_legal_hold", **where, **held)
        await told.does(A, "delete_object", **where, VersionId=version)

        async def is_buried() -> bool:
            return any(each.bucket == bucket for each in await outbox.dead_letters(a.catalog))

        await until(is_buried, timeout_s=60)
        await told.quiet()
        assert len(await told.history(B, bucket)) == 1
        there = await b.bucket(bucket)
        assert await counted(b.catalog, f"versions WHERE bucket_id = {there.id}") == 1
        assert await counted(b.catalog, f"purges WHERE bucket_id = {there.id}") == 0
        held["LegalHold"] = {"Status": "OFF"}
        await told.does(B, "put_object_legal_hold", **where, **held)
        [letter] = [each for each in await outbox.dead_letters(a.catalog) if each.bucket == bucket]
        await outbox.try_again(a.catalog, [letter.id])
        await told.equal(bucket, count=0)
        await told.quiet()
        assert await counted(b.catalog, f"versions WHERE bucket_id = {there.id}") == 0


async def test_a_receiver_that_dies_leaves_a_replica(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are there, its row is not: recovery gives it one, and nobody ships it again."""
    bucket = await told.bucket(new_bucket_name())
    b = told.world[B].ground
    asked = asyncio.Event()

    async def dying(_end: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(b.ends, "submit", dying)
        async with running(told.world.stream(route_over(bucket, SITES))):
            await told.does(A, "put_object", Bucket=bucket, Key="k", Body=b"1")
            await asyncio.wait_for(asked.wait(), 60)
    there = await b.bucket(bucket)
    rows = f"versions WHERE bucket_id = {there.id}"
    assert await counted(b.catalog, rows) == 0
    expire = f"UPDATE intents SET expires_at = now() WHERE bucket_id = {there.id}"
    async with b.catalog.transaction() as transaction:
        await transaction.at_once((expire, {}))
    await recover(b)
    assert await counted(b.catalog, rows) == 1
    async with running(told.world.stream(route_over(bucket, SITES))):
        await told.equal(bucket, count=1)
        await told.quiet()
    assert await told.shipped(bucket) == {A: 1, B: 0}
