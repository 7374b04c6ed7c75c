"""Uploads of the store that nobody will complete are dropped, and no others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from entrepot.catalog.objects.effects import expect_upload
from entrepot.clock import new_id
from entrepot.errors import Unavailable
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from entrepot.store.wrapper import StoreWrapper
from tests.objects.test_kill import FIRST_PART, counted, expire, recover_all
from tests.objects.test_service import read
from tests.objects.worlds import pieces

LONG = b"long " * (4 << 20)


async def open_uploads(objects: Objects, bucket: str, key: str) -> list[str]:
    found = await objects.ground.store.uploads(bucket, prefix=key)
    return [one.upload_id for one in found]


async def age_effects(objects: Objects) -> None:
    """Whoever began an upload had a lease's time to say which."""
    async with objects.ground.catalog.begin() as connection:
        await connection.exec_driver_sql("UPDATE effects SET since = '-infinity'")


async def test_an_upload_of_a_writer_at_work_stays(objects: Objects, plain: str) -> None:
    sent, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield LONG[: 9 << 20]
        yield LONG[9 << 20 : 18 << 20]
        sent.set()  # a piece is passed on when the next one has come
        await go_on.wait()
        yield LONG[18 << 20 :]

    writing = asyncio.create_task(objects.put(plain, "k", slowly()))
    await sent.wait()
    assert len(await open_uploads(objects, plain, "k")) == 1
    await age_effects(objects)
    await recover(objects.ground, older_s=0)
    assert len(await open_uploads(objects, plain, "k")) == 1
    go_on.set()
    await writing
    assert await read(objects, plain, "k") == LONG
    assert await counted(objects.ground.catalog, "effects") == 0


async def test_a_writer_that_failed_leaves_nothing(objects: Objects, plain: str) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield LONG[: 18 << 20]
        raise Unavailable("the client has gone (scripted)")

    with pytest.raises(Unavailable):
        await objects.put(plain, "k", breaks())
    await recover_all(objects)
    assert await open_uploads(objects, plain, "k") == []
    assert await counted(objects.ground.catalog, "effects") == 0


async def test_only_what_nobody_owns_is_dropped(objects: Objects, plain: str) -> None:
    """A writer died between the start of its upload and the word which one it is."""
    ground = objects.ground
    bucket = await ground.bucket(plain)
    upload = await objects.start_upload(plain, "k")
    part = await objects.put_part(plain, "k", upload, number=1, source=FIRST_PART)
    lost = await ground.store.start(plain, "k")
    elsewhere = await ground.store.start(plain, "k2")
    await expect_upload(
        ground.catalog, bucket_id=bucket.id, key="k", version_id=str(new_id()), upload=""
    )
    await recover(ground, older_s=0)  # it was a moment ago: whoever began it may be alive
    assert lost in await open_uploads(objects, plain, "k")
    await age_effects(objects)
    await recover(ground, older_s=0)  # found, and given the time to get an owner
    assert lost in await open_uploads(objects, plain, "k")
    await recover_all(objects)
    assert lost not in await open_uploads(objects, plain, "k")
    assert elsewhere in await open_uploads(objects, plain, "k2")
    await objects.complete_upload(plain, "k", upload, [(1, part.etag)])
    assert await read(objects, plain, "k") == FIRST_PART
    assert await counted(ground.catalog, "effects") == 0


async def test_who_slept_before_it_named_its_upload_is_told(objects: Objects, plain: str) -> None:
    class Sleepy(StoreWrapper):
        async def start(self, *place: Any, **how: Any) -> str:
            await expire(objects.ground.catalog)
            await recover(objects.ground, older_s=0)
            return await super().start(*place, **how)

    store = objects.ground.store
    objects.ground.store = Sleepy(store)
    try:
        with pytest.raises(Unavailable, match="too long"):
            await objects.put(plain, "k", pieces(LONG))
    finally:
        objects.ground.store = store
    assert await open_uploads(objects, plain, "k") == []
    await recover_all(objects)
    assert await objects.list(plain) == ()
