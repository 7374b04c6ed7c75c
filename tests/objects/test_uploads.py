"""Multipart uploads as a client of S3 makes them."""

import hashlib
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from entrepot.catalog.objects.facts import Intent, WriteKind
from entrepot.clock import new_id
from entrepot.errors import (
    IntegrityError,
    InvalidInput,
    NotFound,
    PartTooSmall,
    Unavailable,
    WrongPart,
)
from entrepot.objects import uploads
from entrepot.objects.conditions import Condition
from entrepot.objects.internal import has_internal
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish, intend
from entrepot.store.protocol import Attributes
from tests.objects.test_kill import counted, expire
from tests.objects.test_service import BIG, assert_books, read
from tests.objects.worlds import pieces

MIB = 1 << 20
FIVE = BIG[: 5 * MIB]


async def upload(objects: Objects, bucket: str, key: str, parts: dict[int, bytes]) -> UUID:
    wish = Wish(Attributes(content_type="video/mp4", metadata={"m": "1"}))
    upload_id = await objects.start_upload(bucket, key, wish=wish)
    for number, body in parts.items():
        source = pieces(body)
        await objects.put_part(
            bucket, key, upload_id, number=number, source=source, size_bytes=len(body)
        )
    return upload_id


def named(parts: dict[int, bytes]) -> list[tuple[int, str]]:
    return [(number, hashlib.md5(body).hexdigest()) for number, body in parts.items()]


@pytest.mark.parametrize(
    "parts",
    [
        {1: b"small"},
        {1: b""},
        {1: FIVE},
        {1: FIVE, 2: b"end"},
        {3: FIVE, 7: FIVE + b"x", 9: FIVE},
        {1: FIVE, 10_000: b"the last number there is"},
        {9_999: FIVE, 10_000: FIVE},
    ],
    ids=["small", "empty", "one", "short end", "gaps", "last number", "large last"],
)
async def test_parts_become_an_object(
    objects: Objects, bucket: str, parts: dict[int, bytes]
) -> None:
    upload_id = await upload(objects, bucket, "k", parts)
    assert [u.upload_id for u in await objects.uploads(bucket)] == [upload_id]
    assert [p.number for p in await objects.parts(bucket, "k", upload_id)] == list(parts)
    with pytest.raises(NotFound):
        await objects.head(bucket, "k")
    row = await objects.complete_upload(bucket, "k", upload_id, named(parts))
    body = b"".join(parts.values())
    digests = b"".join(hashlib.md5(part).digest() for part in parts.values())
    assert row.etag == f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"
    assert row.size_bytes == len(body)
    assert await read(objects, bucket, "k") == body
    edges = [0, *(sum(map(len, list(parts.values())[:n])) for n in range(1, len(parts) + 1))]
    for start, stop in pairwise(edges):
        for first, last in ((start, stop), (max(start - 3, 0), min(start + 3, len(body)))):
            if first < last:
                assert await read(objects, bucket, "k", start=first, stop=last) == body[first:last]
    assert (await objects.head(bucket, "k")).attributes["metadata"] == {"m": "1"}
    again = await objects.complete_upload(bucket, "k", upload_id, named(parts))
    assert again.version_id == row.version_id
    assert await objects.uploads(bucket) == ()
    assert len(await objects.versions(bucket)) == 1
    await assert_books(objects, bucket)


async def test_completed_twice_at_once(
    objects: Objects, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the upload and the intent another caller completes it whole."""
    parts = {1: FIVE, 2: b"end"}
    upload_id = await upload(objects, bucket, "k", parts)
    first = []

    async def late(*given: Any, **named_ones: Any) -> Intent:
        if not first:
            first.append(None)
            first[0] = await objects.complete_upload(bucket, "k", upload_id, named(parts))
        return await intend(*given, **named_ones)

    monkeypatch.setattr(uploads, "intend", late)
    second = await objects.complete_upload(bucket, "k", upload_id, named(parts))
    assert [second] == first
    bucket_id = (await objects.ground.bucket(bucket)).id
    assert await counted(objects.ground.catalog, f"intents WHERE bucket_id = {bucket_id}") == 0
    assert await objects.uploads(bucket) == ()
    await assert_books(objects, bucket)


async def test_completed_again_where_the_first_died_before_it_cleaned(
    objects: Objects, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {1: FIVE, 2: b"end"}
    upload_id = await upload(objects, bucket, "k", parts)

    async def dies(*_: object) -> None:
        raise Unavailable("scripted")

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "clean", dies)
        with pytest.raises(Unavailable):
            await objects.complete_upload(bucket, "k", upload_id, named(parts))
    row = await objects.complete_upload(bucket, "k", upload_id, named(parts))
    assert row.version_id == str(upload_id)
    assert await objects.uploads(bucket) == ()
    assert await spooled(objects, upload_id) == []
    await assert_books(objects, bucket)


async def test_an_intent_of_a_version_that_is_there_holds_up_nobody(
    objects: Objects, plain: str
) -> None:
    upload_id = await upload(objects, plain, "k", {1: b"small"})
    row = await objects.complete_upload(plain, "k", upload_id, named({1: b"small"}))
    ground = objects.ground
    await intend(
        ground,
        await ground.bucket(plain),
        "k",
        WriteKind.COMPLETE,
        wish=Wish(),
        details={"kept": {}, "etag": row.etag},
        write_id=upload_id,
    )
    ground.under_way.clear()
    await expire(ground.catalog)
    await recover(ground, older_s=0)
    assert await counted(ground.catalog, "intents") == 0
    assert await objects.versions(plain) == (row,)
    await objects.put(plain, "k", b"next", wish=Wish(condition=Condition(if_match=(row.etag,))))
    await assert_books(objects, plain)


async def test_recovery_cleans_the_spool_of_what_it_completes(
    objects: Objects, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {1: FIVE, 2: b"end"}
    upload_id = await upload(objects, bucket, "k", parts)

    async def dies(*_: object) -> None:
        raise Unavailable("scripted")

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "end", dies)
        with pytest.raises(Unavailable):
            await objects.complete_upload(bucket, "k", upload_id, named(parts))
    objects.ground.under_way.clear()
    await expire(objects.ground.catalog)
    assert (await recover(objects.ground, older_s=0)).completed == 1
    assert await read(objects, bucket, "k") == FIVE + b"end"
    assert await spooled(objects, upload_id) == []
    await assert_books(objects, bucket)


async def spooled(objects: Objects, upload_id: UUID) -> list[str]:
    """Parts of an upload that wait in the site's internal bucket."""
    name = await has_internal(objects.ground)
    pages = objects.ground.store.list(name, prefix=f"spool/{upload_id}/")
    return [entry.key async for page in pages for entry in page.versions]


async def test_a_part_sent_again_replaces_the_first(objects: Objects, bucket: str) -> None:
    parts = {1: FIVE, 2: b"old"}
    upload_id = await upload(objects, bucket, "k", parts)
    for number, body in ((1, FIVE[::-1]), (2, b"new")):
        parts[number] = body
        await objects.put_part(bucket, "k", upload_id, number=number, source=body)
    await objects.complete_upload(bucket, "k", upload_id, named(parts))
    assert await read(objects, bucket, "k") == b"".join(parts.values())


async def test_parts_that_are_named_wrong(objects: Objects, bucket: str) -> None:
    parts = {1: FIVE, 2: b"small", 3: b"end"}
    upload_id = await upload(objects, bucket, "k", parts)
    one, two, three = named(parts)
    wrong: list[tuple[list[tuple[int, str]], type[Exception]]] = [
        ([], InvalidInput),
        ([two, one], WrongPart),
        ([one, one], WrongPart),
        ([(1, two[1])], WrongPart),
        ([one, (4, three[1])], WrongPart),
        ([one, two, three], PartTooSmall),
    ]
    for given, error in wrong:
        with pytest.raises(error):
            await objects.complete_upload(bucket, "k", upload_id, given)
    await objects.complete_upload(bucket, "k", upload_id, [one, three])
    assert await read(objects, bucket, "k") == FIVE + b"end"


async def test_an_aborted_upload_leaves_nothing(objects: Objects, bucket: str) -> None:
    upload_id = await upload(objects, bucket, "k", {1: FIVE, 2: b"end"})
    await objects.abort_upload(bucket, "k", upload_id)
    for gone in (upload_id, new_id()):
        with pytest.raises(NotFound):
            await objects.put_part(bucket, "k", gone, number=1, source=b"x")
        with pytest.raises(NotFound):
            await objects.complete_upload(bucket, "k", gone, [(1, "x")])
        with pytest.raises(NotFound):
            await objects.abort_upload(bucket, "k", gone)
    assert await objects.uploads(bucket) == ()
    assert await objects.versions(bucket) == ()
    assert await objects.ground.store.uploads(bucket, prefix="k") == ()


async def test_damaged_parts_are_refused(objects: Objects, bucket: str) -> None:
    upload_id = await objects.start_upload(bucket, "k")
    with pytest.raises(IntegrityError):
        await objects.put_part(
            bucket, "k", upload_id, number=1, source=FIVE, checksums={"md5": "00"}
        )
    for number, size in ((0, 1), (10_001, 1), (1, 2), (1, None)):
        with pytest.raises(InvalidInput):
            await objects.put_part(
                bucket, "k", upload_id, number=number, source=pieces(b"x"), size_bytes=size
            )
    assert list(await objects.parts(bucket, "k", upload_id)) == []
