"""What a user of the objects of a site sees, on real servers."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from entrepot.catalog.objects.audit import flaws
from entrepot.catalog.objects.read import recount_usage, usage_of
from entrepot.embedded.minio import MinioServer
from entrepot.errors import (
    AlreadyExists,
    BucketNotFound,
    Busy,
    DeleteMarker,
    IntegrityError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unsupported,
)
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import AUDITOR, audit_secret
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes
from tests.objects.worlds import new_bucket_name, objects_of, pieces, s3_store

BIG = b"".join(f"line {number} of a text that shrinks\n".encode() for number in range(300_000))
"""Some 11 MB."""


async def read(objects: Objects, bucket: str, key: str, **how: object) -> bytes:
    async with objects.get(bucket, key, **how) as body:  # type: ignore[arg-type]
        return await body.read()


async def assert_books(objects: Objects, bucket: str) -> None:
    """The usage that was kept equals a recount, and the audit trail holds."""
    found = await objects.ground.bucket(bucket)
    catalog = objects.ground.catalog
    kept = await usage_of(catalog, bucket_id=found.id)
    assert kept == await recount_usage(catalog, bucket_id=found.id)
    key = await objects.ground.ring.current(AUDITOR)
    secrets = {key.number: audit_secret(key.secret)}
    assert [flaw async for flaw in flaws(catalog, secrets)] == []


@pytest.mark.parametrize("size", [0, 1, 8192, 65_536, 3_000_000, len(BIG)])
async def test_what_is_put_is_read(objects: Objects, bucket: str, size: int) -> None:
    body = BIG[:size]
    attributes = Attributes(content_type="text/plain", metadata={"a": "b c"}, tags={"t": "1"})
    streamed = pieces(body) if size > 10_000 else body
    written = await objects.put(bucket, "a/key", streamed, wish=Wish(attributes=attributes))
    assert (written.size_bytes, written.etag) == (size, hashlib.md5(body).hexdigest())
    assert await read(objects, bucket, "a/key") == body
    head = await objects.head(bucket, "a/key")
    assert head == written
    assert head.attributes["metadata"] == {"a": "b c"}
    for start, stop in ((0, 1), (size // 2, size // 2 + 10), (max(size - 5, 0), None)):
        if start < size:
            assert await read(objects, bucket, "a/key", start=start, stop=stop) == body[start:stop]
    with pytest.raises(InvalidInput):
        await read(objects, bucket, "a/key", start=size + 1)
    await assert_books(objects, bucket)


async def test_versions_and_delete_markers(objects: Objects, bucket: str) -> None:
    one = await objects.put(bucket, "k", b"one")
    two = await objects.put(bucket, "k", b"two")
    assert two.stamp > one.stamp
    assert two.parent == one.stamp
    marker = await objects.delete(bucket, "k")
    assert marker is not None
    assert marker.is_delete_marker
    with pytest.raises(DeleteMarker):
        await read(objects, bucket, "k")
    assert await objects.list(bucket) == ()
    rows = await objects.versions(bucket)
    assert [row.version_id for row in rows] == [
        marker.version_id,
        two.version_id,
        one.version_id,
    ]
    assert await read(objects, bucket, "k", version_id=one.version_id) == b"one"
    await objects.delete(bucket, "k", version_id=marker.version_id)
    assert await read(objects, bucket, "k") == b"two"
    await objects.delete(bucket, "k", version_id=two.version_id)
    assert await read(objects, bucket, "k") == b"one"
    assert await objects.delete(bucket, "k", version_id=two.version_id) is None
    await objects.delete(bucket, "k", version_id=one.version_id)
    with pytest.raises(NotFound):
        await read(objects, bucket, "k")
    store = objects.ground.store
    assert [len(page) async for page in store.versions(bucket)] == [0]
    await assert_books(objects, bucket)


async def test_the_store_agrees(objects: Objects, plain: str) -> None:
    """Any S3 tool sees the same history: ids, order, times to the millisecond, bytes, metadata."""
    for body in (b"one", b"two"):
        await objects.put(plain, "k", body, wish=Wish(Attributes(metadata={"n": "v"})))
    await objects.delete(plain, "k")
    await objects.put(plain, "folder/", b"")
    ours = await objects.versions(plain, prefix="k")
    store = objects.ground.store
    theirs = [entry async for page in store.versions(plain, prefix="k") for entry in page.versions]
    assert [(row.version_id, row.stamp.time_ms, row.is_delete_marker) for row in ours] == [
        (entry.version_id, entry.mtime_ms, entry.is_delete_marker) for entry in theirs
    ]
    head = await store.head(plain, "k", version_id=ours[1].version_id)
    assert head.attributes is not None
    assert head.attributes.metadata["n"] == "v"
    assert await objects.head(plain, "folder/")


async def test_conditions(objects: Objects, bucket: str) -> None:
    absent = Wish(condition=Condition(if_none_match=("*",)))
    first = await objects.put(bucket, "k", b"one", wish=absent)
    with pytest.raises(PreconditionFailed):
        await objects.put(bucket, "k", b"two", wish=absent)
    same = Wish(condition=Condition(if_match=(first.etag,)))
    await objects.put(bucket, "k", b"two", wish=same)
    with pytest.raises(PreconditionFailed):
        await objects.put(bucket, "k", b"three", wish=same)
    with pytest.raises(NotFound):
        await objects.put(bucket, "other", b"x", wish=same)
    await objects.delete(bucket, "k")
    await objects.put(bucket, "k", b"four", wish=absent)  # a delete marker is no object
    assert await read(objects, bucket, "k") == b"four"
    await assert_books(objects, bucket)


async def test_a_condition_that_cannot_be_held_is_refused(objects: Objects, plain: str) -> None:
    row = await objects.put(plain, "k", b"body")
    wish = Wish(condition=Condition(if_match=("another",)))
    with pytest.raises(Unsupported):
        await objects.delete(plain, "k", version_id=row.version_id, wish=wish)
    name = new_bucket_name()
    await objects.ground.store.create(name)
    await objects.adopt_bucket(name, tenant_id="acme")
    await objects.put(name, "k", b"body")
    with pytest.raises(Unsupported):
        await objects.delete(name, "k", wish=wish)
    assert await read(objects, name, "k") == b"body"
    assert await read(objects, plain, "k") == b"body"


async def test_one_of_many_conditional_writers_wins(objects: Objects, plain: str) -> None:
    absent = Wish(condition=Condition(if_none_match=("*",)))
    tries = [objects.put(plain, "k", bytes([n]), wish=absent) for n in range(30)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    won = [row for row in results if not isinstance(row, BaseException)]
    assert len(won) == 1
    lost = [error for error in results if isinstance(error, BaseException)]
    assert {type(error) for error in lost} <= {PreconditionFailed, Busy}
    assert len(await objects.versions(plain)) == 1
    await assert_books(objects, plain)


async def test_many_writers_of_one_key(objects: Objects, bucket: str) -> None:
    bodies = [f"{number}".encode() * 100 for number in range(40)]
    rows = await asyncio.gather(*(objects.put(bucket, "k", body) for body in bodies))
    assert len({row.stamp.time_ms for row in rows}) == len(rows)
    newest = max(rows, key=lambda row: row.stamp)
    assert await read(objects, bucket, "k") == bodies[rows.index(newest)]
    assert [row.stamp for row in await objects.versions(bucket)] == sorted(
        (row.stamp for row in rows), reverse=True
    )
    await assert_books(objects, bucket)


@pytest.mark.parametrize("wrong", ["md5", "sha256", "crc32", "sha1"])
async def test_a_body_with_another_checksum_is_never_seen(
    objects: Objects, bucket: str, wrong: str
) -> None:
    wish = Wish(checksums={wrong: "00"})
    for body in (b"small", pieces(BIG)):
        with pytest.raises(IntegrityError):
            await objects.put(bucket, "k", body, wish=wish)
    with pytest.raises(InvalidInput):
        await objects.put(bucket, "k", pieces(b"short"), size_bytes=10)
    with pytest.raises(InvalidInput):
        await objects.put(bucket, "k", pieces(b"long" * 10), size_bytes=10)
    assert await objects.versions(bucket) == ()
    store = objects.ground.store
    assert [len(page) async for page in store.versions(bucket)] == [0]


async def test_right_checksums_are_kept(objects: Objects, bucket: str) -> None:
    sums = {"sha256": hashlib.sha256(BIG).hexdigest(), "md5": hashlib.md5(BIG).hexdigest()}
    row = await objects.put(bucket, "k", pieces(BIG), wish=Wish(checksums=sums))
    assert row.attributes["checksums"] == sums


async def test_listing(objects: Objects, plain: str) -> None:
    keys = ["a", "a-1", "a/1", "a/2/3", "b/1", "b/2", "c", "ü", "😀"]
    await asyncio.gather(*(objects.put(plain, key, b"x") for key in reversed(keys)))
    assert [entry.key for entry in await objects.list(plain)] == keys
    folded = ["a", "a-1", "a/", "b/", "c", "ü", "😀"]
    assert [entry.key for entry in await objects.list(plain, delimiter="/")] == folded
    for most in (1, 2, 3):
        for delimiter, wanted in (("", keys), ("/", folded)):
            seen: list[str] = []
            while page := await objects.list(
                plain, delimiter=delimiter, after=seen[-1] if seen else "", most=most
            ):
                assert len(page) <= most
                seen += [entry.key for entry in page]
            assert seen == wanted
    assert [entry.key for entry in await objects.list(plain, prefix="a/", delimiter="/")] == [
        "a/1",
        "a/2/",
    ]
    assert [entry.key async for entry in objects.walk(plain, prefix="b")] == ["b/1", "b/2"]


async def test_copies_open_in_their_new_place(objects: Objects, bucket: str) -> None:
    wish = Wish(Attributes(content_type="text/css", metadata={"m": "1"}))
    written = await objects.put(bucket, "k", BIG, wish=wish)
    copied = await objects.copy(bucket, "elsewhere", source=(bucket, "k", None))
    assert copied.etag == written.etag
    assert copied.attributes["metadata"] == {"m": "1"}
    assert await read(objects, bucket, "elsewhere") == BIG


@pytest.mark.parametrize("key", ["", "/a", "x" * 1025, "a/.entrepot-folder"])
async def test_keys_that_no_bucket_has(objects: Objects, plain: str, key: str) -> None:
    with pytest.raises(InvalidInput):
        await objects.put(plain, key, b"x")


async def test_metadata_that_would_pass_for_ours(objects: Objects, plain: str) -> None:
    for metadata in ({"entrepot-write": "x"}, {"m": "x" * 1600}):
        with pytest.raises(InvalidInput):
            await objects.put(plain, "k", b"x", wish=Wish(Attributes(metadata=metadata)))


async def test_a_bucket_is_dropped_when_it_is_empty(objects: Objects, bucket: str) -> None:
    row = await objects.put(bucket, "k", b"x")
    with pytest.raises(PreconditionFailed):
        await objects.drop_bucket(bucket)
    await objects.delete(bucket, "k", version_id=row.version_id)
    upload_id = await objects.start_upload(bucket, "k")
    with pytest.raises(PreconditionFailed):
        await objects.drop_bucket(bucket)
    await objects.abort_upload(bucket, "k", upload_id)
    await objects.drop_bucket(bucket)
    for call in (objects.put(bucket, "k", b"x"), objects.list(bucket), objects.drop_bucket(bucket)):
        with pytest.raises(BucketNotFound):
            await call
    await objects.create_bucket(bucket, tenant_id="globex")  # the name is free again
    await objects.put(bucket, "k", b"new")
    assert await read(objects, bucket, "k") == b"new"
    assert (await objects.usage(bucket)).versions == 1


async def test_a_bucket_belongs_to_one_tenant(objects: Objects, bucket: str) -> None:
    before = await objects.ground.bucket(bucket)
    assert await objects.create_bucket(bucket, tenant_id="acme") == before
    for verb in (objects.create_bucket, objects.adopt_bucket):
        with pytest.raises(AlreadyExists):
            await verb(bucket, tenant_id="globex")
    name = new_bucket_name()
    await objects.ground.store.create(name)
    await objects.ground.store.put(name, "k", b"somebody else's")
    with pytest.raises(AlreadyExists):
        await objects.create_bucket(name, tenant_id="acme")
    await objects.adopt_bucket(name, tenant_id="acme")
    await objects.drop_bucket(name)
    async with objects.ground.store.get(name, "k") as body:  # it was only looked after
        assert await body.read() == b"somebody else's"


async def test_a_bucket_that_another_process_made_anew(
    objects: Objects, plain: str, site_dsn: str, minio_a: MinioServer, keys_dir: Path
) -> None:
    """Nothing is acknowledged into the bucket that was."""
    before = await objects.ground.bucket(plain)
    store = s3_store(minio_a)
    async with objects_of(site_dsn, store, keys_dir) as other:
        await other.drop_bucket(plain)
        await other.create_bucket(plain, tenant_id="globex")
    await store.close()
    with pytest.raises(Unavailable):
        await objects.put(plain, "k", b"x")
    row = await objects.put(plain, "k", b"x")
    assert row.bucket_id != before.id
    assert [each.version_id for each in await objects.versions(plain)] == [row.version_id]
