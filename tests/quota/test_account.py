"""Accounts of real buckets against what boto3 lists."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import boto3
import pytest

from entrepot.catalog.usage import UsageRow
from entrepot.clock import new_id
from entrepot.embedded.minio import MinioServer
from entrepot.errors import BucketNotFound
from entrepot.quota.account import Counted, count_bucket, count_buckets, merge_counts, merge_rows
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store

KEYS = ["a/1", "a/2", "a/b/3", "ü/x y+z%", "top", "gone", "a/gone", "empty"]


@pytest.fixture
def s3(minio_a: MinioServer) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=minio_a.endpoint,
        aws_access_key_id=minio_a.access_key,
        aws_secret_access_key=minio_a.secret_key.get_secret_value(),
        region_name="us-east-1",
    )


@pytest.fixture
async def store(minio_a: MinioServer) -> AsyncIterator[S3Store]:
    store = S3Store(
        endpoint=minio_a.endpoint, access_key=minio_a.access_key, secret_key=minio_a.secret_key
    )
    yield store
    await store.close()


@pytest.fixture
def bucket(s3: Any) -> str:
    """Keys with one to three versions, some deleted, one deleted and back."""
    name = f"account-{new_id().hex[:20]}"
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="before", Body=b"null version")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for number, key in enumerate(KEYS):
        for version in range(number % 3 + 1):
            s3.put_object(Bucket=name, Key=key, Body=b"x" * (100 * number + version))
    for key in ("gone", "a/gone", "top"):
        s3.delete_object(Bucket=name, Key=key)
    s3.put_object(Bucket=name, Key="top", Body=b"back")
    return name


def by_boto(s3: Any, bucket: str, prefix_of: Any) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}

    def row(key: str) -> dict[str, int]:
        names = ("current_bytes", "total_bytes", "objects", "versions", "delete_markers")
        return rows.setdefault(prefix_of(key), dict.fromkeys(names, 0))

    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for each in page.get("Versions", ()):
            found = row(each["Key"])
            found["versions"] += 1
            found["total_bytes"] += each["Size"]
        for each in page.get("DeleteMarkers", ()):
            row(each["Key"])["delete_markers"] += 1
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for each in page.get("Contents", ()):
            found = row(each["Key"])
            found["objects"] += 1
            found["current_bytes"] += each["Size"]
    return rows


async def test_a_bucket_counts_as_boto_lists_it(s3: Any, store: S3Store, bucket: str) -> None:
    for depth, prefix_of in (
        (0, lambda key: ""),
        (1, lambda key: key.partition("/")[0] + "/" if "/" in key else ""),
    ):
        found = await count_bucket(
            RetryStore(store), bucket=bucket, tenant_id="tenant", depth=depth
        )
        rows = {row.prefix: asdict(row) for row in found}
        for row in rows.values():
            assert (row.pop("tenant_id"), row.pop("bucket")) == ("tenant", bucket)
            row.pop("prefix")
        assert rows == by_boto(s3, bucket, prefix_of)


async def test_many_pages_are_one_account(s3: Any, store: S3Store) -> None:
    """More versions of one key than a page holds."""
    name = f"account-{new_id().hex[:20]}"
    await store.create(name)
    for number in range(30):
        await store.put(name, "k", b"x" * number)
    real = store.versions
    store.versions = lambda *args, **more: real(*args, **{**more, "page_size": 7})  # type: ignore[method-assign]
    (row,) = await count_bucket(store, bucket=name, tenant_id="t", depth=1)
    assert (row.versions, row.objects, row.total_bytes) == (30, 1, sum(range(30)))
    assert row.current_bytes == 29


async def test_an_empty_bucket_has_one_row_and_a_missing_one_an_error(
    s3: Any, store: S3Store
) -> None:
    name = f"account-{new_id().hex[:20]}"
    s3.create_bucket(Bucket=name)
    found = await count_bucket(store, bucket=name, tenant_id="t", depth=1)
    assert found == (UsageRow("t", name, "", 0, 0, 0, 0, 0),)
    with pytest.raises(BucketNotFound):
        await count_bucket(store, bucket=name + "-not", tenant_id="t", depth=1)


async def test_a_bucket_that_is_not_there_holds_up_no_other(store: S3Store, bucket: str) -> None:
    owned = [(bucket + "-not", "t"), (bucket, "t"), (bucket + "-nor", "t")]
    found = await count_buckets(RetryStore(store), owned, depth=0)
    alone = await count_bucket(store, bucket=bucket, tenant_id="t", depth=0)
    assert found == Counted(alone, (bucket + "-not", bucket + "-nor"))
    assert merge_counts([found, Counted()]).missing == (bucket + "-nor", bucket + "-not")


def test_rows_of_all_buckets_are_sorted() -> None:
    rows = [
        UsageRow(tenant, bucket, prefix, 0, 0, 0, 0, 0)
        for tenant in ("t2", "t1")
        for bucket in ("b2", "b1")
        for prefix in ("z/", "")
    ]
    merged = merge_rows([rows[:5], [], rows[5:]])
    names = [(row.tenant_id, row.bucket, row.prefix) for row in merged]
    assert names == sorted(names)
    assert len(names) == len(rows)
