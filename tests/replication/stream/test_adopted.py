"""Adopted buckets in a stream: what anybody writes to a store is soon at the other sites, once."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.objects.worlds import new_bucket_name
from tests.replication.stream.adopted import Told
from tests.replication.stream.worlds import route_over, running

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
