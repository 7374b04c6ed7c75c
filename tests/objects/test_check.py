"""The catalog against the store: what is found, what is healed, and the catalog made again."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.objects.change import remove_row
from entrepot.catalog.objects.facts import Changes, ObjectRow, Usage
from entrepot.catalog.objects.read import list_versions
from entrepot.clock import new_id
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import AccessDenied, Busy, PreconditionFailed
from entrepot.objects.check import check, observe, rebuild, take_up
from entrepot.objects.conditions import Condition
from entrepot.objects.recover import recover
from entrepot.objects.removal import HELD, TAGGED
from entrepot.objects.service import Objects
from entrepot.objects.settle import removal
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes, LockMode, Origin, Version
from entrepot.store.wrapper import StoreWrapper
from tests.objects.test_service import BIG, assert_books, read
from tests.objects.test_uploads import FIVE, named, upload
from tests.objects.worlds import new_bucket_name, objects_of, s3_store


async def fill(objects: Objects, bucket: str) -> None:
    wish = Wish(Attributes(metadata={"m": "1"}), checksums={})
    for key in ("a", "a/b", "folder/", "folder/-", "ü"):
        await objects.put(bucket, key, key.encode() * 3, wish=wish)
    await objects.put(bucket, "a", BIG[:2_000_000])
    await objects.delete(bucket, "ü")
    parts = {1: FIVE, 2: b"end"}
    upload_id = await upload(objects, bucket, "big", parts)
    await objects.complete_upload(bucket, "big", upload_id, named(parts))


async def test_both_agree(objects: Objects, bucket: str) -> None:
    await fill(objects, bucket)
    found = await check(objects.ground, await objects.ground.bucket(bucket))
    assert (found.orphans, found.missing) == ([], [])


async def test_orphans_are_found_and_taken_up(objects: Objects, bucket: str) -> None:
    await fill(objects, bucket)
    ground = objects.ground
    version = await ground.store.put(bucket, "stranger", b"from elsewhere")
    found = await check(ground, await ground.bucket(bucket))
    assert [each.version_id for each in found.orphans] == [version.version_id]
    found = await check(ground, await ground.bucket(bucket), heal=True)
    assert (found.orphan_count, found.taken_up) == (1, 1)
    assert await read(objects, bucket, "stranger") == b"from elsewhere"
    assert (await check(ground, await ground.bucket(bucket))).orphans == []
    await assert_books(objects, bucket)


async def test_strangers_of_one_millisecond_are_all_taken_up(objects: Objects, plain: str) -> None:
    ground = objects.ground
    at_ms = ground.hybrid.wall_ms()
    for number in range(3):
        origin = Origin(str(new_id()), at_ms)
        await ground.store.put(plain, "k", b"%d" % number, origin=origin)
    found = await check(ground, await ground.bucket(plain), heal=True)
    assert found.taken_up == 3
    one_by_one, after = [], ("", "")
    while page := await objects.versions(plain, after=after[0], after_version=after[1], most=1):
        one_by_one += page
        after = page[0].key, page[0].version_id
    assert one_by_one == list(await objects.versions(plain))
    assert len(one_by_one) == 3
    await assert_books(objects, plain)


async def test_a_copy_by_another_tool_never_passes_for_plaintext(
    objects: Objects, bucket: str
) -> None:
    """It carries the seal along, and opens only where the seal says it belongs."""
    ground = objects.ground
    kind = await ground.bucket(bucket)
    row = await objects.put(bucket, "k", BIG[:2_000_000])
    for target in ("k", "other"):
        await ground.store.copy(bucket, target, source=(bucket, "k", row.version_id))
    found = await check(ground, kind, heal=True)
    assert await read(objects, bucket, "k") == BIG[:2_000_000]
    if kind.encrypted:
        assert [each.key for each in found.unreadable] == ["other"]
        assert [entry.key for entry in await objects.list(bucket)] == ["k"]
    else:
        assert await read(objects, bucket, "other") == BIG[:2_000_000]
    await assert_books(objects, bucket)


async def test_lost_objects_are_named(objects: Objects, bucket: str) -> None:
    await fill(objects, bucket)
    ground = objects.ground
    row = await objects.head(bucket, "a")
    await ground.store.delete(bucket, "a", version_id=row.version_id)
    found = await check(ground, await ground.bucket(bucket), heal=True)
    assert [(each.key, each.version_id) for each in found.missing] == [("a", row.version_id)]
    assert await objects.head(bucket, "a") == row  # the row stays: it is evidence


async def test_a_version_from_the_future_is_kept_and_not_applied(
    objects: Objects, plain: str
) -> None:
    ground = objects.ground
    row = await objects.put(plain, "k", b"now")
    future = Origin(str(new_id()), row.stamp.time_ms + 86_400_000)
    await ground.store.put(plain, "k", b"tomorrow", origin=future)
    found = await check(ground, await ground.bucket(plain), heal=True)
    assert found.quarantined == 1
    assert await read(objects, plain, "k") == b"now"
    await objects.put(plain, "k", b"later")
    assert await read(objects, plain, "k") == b"later"
    assert [each.is_quarantined for each in await objects.versions(plain)] == [True, False, False]
    assert await read(objects, plain, "k", version_id=future.version_id) == b"tomorrow"


@pytest.mark.parametrize("kind", [{}, {"encrypted": True, "compressed": True}])
async def test_the_catalog_is_made_again_from_the_store_alone(
    kind: dict[str, bool],
    postgres: PostgresServer,
    open_dir: Path,
    keys_dir: Path,
) -> None:
    server = _own_minio(open_dir)
    try:
        store = s3_store(server)
        dsns = [postgres.create_database(f"rebuilt_{new_id().hex[:12]}") for _ in range(2)]
        for dsn in dsns:
            await migrate(dsn, kind=CatalogKind.SITE)
        async with objects_of(dsns[0], store, keys_dir) as before:
            await before.create_bucket("shelf", tenant_id="acme", **kind)
            await fill(before, "shelf")
            rows, listed = await before.versions("shelf"), await before.list("shelf")
            usage = await before.usage("shelf")
        async with objects_of(dsns[1], store, keys_dir) as after:
            [found] = [each async for each in rebuild(after.ground)]
            assert found.taken_up == len(rows) - 1  # MinIO lists nothing below the object ``a``
            hidden = {"a/b"}
            again = {row.version_id: row for row in await after.versions("shelf")}
            for row in rows:
                if row.key in hidden:
                    continue
                twin = again[row.version_id]
                if row.is_delete_marker:
                    assert twin.stamp.time_ms == row.stamp.time_ms
                else:
                    same = replace(twin, bucket_id=row.bucket_id, attributes=row.attributes)
                    assert replace(same, parent=row.parent) == row
            assert [e.key for e in await after.list("shelf")] == [
                e.key for e in listed if e.key not in hidden
            ]
            assert usage != Usage()
            await assert_books(after, "shelf")
            assert await read(after, "shelf", "a") == BIG[:2_000_000]
            newest = max(row.stamp.time_ms for row in rows)
            assert (await after.put("shelf", "new", b"x")).stamp.time_ms >= newest
        await store.close()
    finally:
        server.stop()


async def test_what_was_removed_is_not_taken_up_again(objects: Objects, plain: str) -> None:
    """Listed before, taken up after: while the store has it still, and when it is gone."""
    ground, bucket = objects.ground, await objects.ground.bucket(plain)
    row = await objects.put(plain, "k", b"x")
    marker = await objects.delete(plain, "k")
    kept = await objects.put(plain, "kept", b"x")
    assert marker
    [entries] = [page.versions async for page in ground.store.versions(plain)]
    await objects.delete(plain, "k", version_id=marker.version_id)

    def decide(row: ObjectRow, newest: ObjectRow | None, after: ObjectRow | None) -> Changes:
        return removal(row, newest, after, actor="who dies before the store is told")

    place = bucket.id, "k"
    await remove_row(ground.catalog, place, row.version_id, decide, recorder=ground.recorder)
    assert await take_up(ground, bucket, entries) == 0
    async with ground.catalog.begin() as connection:  # as long as it is owed, purges or not
        await connection.execute(text("DELETE FROM purges"))
    assert await take_up(ground, bucket, [each for each in entries if not each.is_current]) == 0
    await recover(ground, older_s=0)
    assert [each.version_id for each in await objects.versions(plain)] == [kept.version_id]
    found = await check(ground, bucket, heal=True)
    assert (found.orphan_count, found.missing_count, found.taken_up) == (0, 0, 0)


async def test_a_refused_write_is_not_taken_up(objects: Objects, plain: str) -> None:
    """A sweep copied it before its bytes went, and brings it back."""
    ground, bucket = objects.ground, await objects.ground.bucket(plain)
    store, copied = ground.store, []

    class Overtaken(StoreWrapper):
        async def put(self, *what: Any, **how: Any) -> Version:
            ground.store = store
            made = await store.put(*what, **how)
            async with store.get(plain, "k", version_id=made.version_id) as body:
                copied.append((await body.read(), body.version))
            await objects.put(plain, "k", b"was first")
            return made

    ground.store = Overtaken(store)
    with pytest.raises((PreconditionFailed, Busy)):
        await objects.put(plain, "k", b"x", wish=Wish(condition=Condition(if_none_match=("*",))))
    await recover(ground, older_s=0)  # its bytes are gone, and nobody owes that any more
    [(body, version)] = copied
    origin = Origin(version.version_id, version.mtime_ms)
    await store.put(plain, "k", body, attributes=version.attributes, origin=origin)
    [entries] = [page.versions async for page in store.versions(plain)]
    assert len(entries) == 2
    assert await take_up(ground, bucket, entries) == 0
    assert await read(objects, plain, "k") == b"was first"


async def test_tags_and_locks_are_known_again(objects: Objects) -> None:
    """Without the lock's row a removal would be taken down, and then refused by the store."""
    bucket = new_bucket_name()
    await objects.create_bucket(bucket, tenant_id="acme", locked=True)
    tomorrow = (objects.ground.clock.now() + timedelta(days=1)).replace(microsecond=0)
    for key in ("held", "kept", "plain"):
        await objects.put(bucket, key, b"x")
    await objects.tag(bucket, "plain", {"now": "tagged"})
    await objects.hold(bucket, "held", on=True)
    await objects.retain(bucket, "kept", mode=LockMode.GOVERNANCE, until=tomorrow)
    rows = await objects.versions(bucket)
    async with objects.ground.catalog.begin() as connection:
        for table in ("versions", "objects"):
            of_bucket = {"id": (await objects.ground.bucket(bucket)).id}
            await connection.execute(text(f"DELETE FROM {table} WHERE bucket_id = :id"), of_bucket)
    await check(objects.ground, await objects.ground.bucket(bucket), heal=True)
    for row, twin in zip(rows, await objects.versions(bucket), strict=True):
        kept = {name: said for name, said in row.attributes.items() if name not in (HELD, TAGGED)}
        assert twin.attributes == kept
    with pytest.raises(AccessDenied):
        await objects.delete(bucket, "held", version_id=rows[0].version_id)
    await objects.hold(bucket, "held", on=False)
    await objects.delete(bucket, "held", version_id=rows[0].version_id)


def _own_minio(directory: Path) -> MinioServer:
    from pydantic import SecretStr

    from entrepot.clock import new_token
    from entrepot.embedded.minio import MinioCredentials

    server = MinioServer(
        directory / "minio", MinioCredentials(new_token(8), SecretStr(new_token(24)))
    )
    return server.start()


async def test_versions_of_an_adopted_bucket_are_recorded_once(
    objects: Objects, minio_a: MinioServer
) -> None:
    ground, name = objects.ground, new_bucket_name()
    await ground.store.create(name)
    await objects.adopt_bucket(name, tenant_id="acme")
    for body in (b"one", b"two"):
        await objects.put(name, "k", body)
    await objects.delete(name, "k")
    assert await objects.list(name) == ()
    bucket = await ground.bucket(name)
    [entries] = [page.versions async for page in ground.store.versions(name)]
    assert await observe(ground, bucket, entries) == 3
    assert await observe(ground, bucket, entries) == 0
    rows = await list_versions(ground.catalog, bucket_id=bucket.id)
    assert [row.version_id for row in rows] == [entry.version_id for entry in entries]
    assert {row.stamp.writer.partition("-")[0] for row in rows} == {"store"}
