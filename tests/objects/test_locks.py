"""Tags, retention and legal hold: in the catalog and in the store, and what they refuse."""

from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from entrepot.errors import AccessDenied, InvalidInput, NotFound, Unsupported
from entrepot.objects.check import check
from entrepot.objects.removal import lock_of
from entrepot.objects.service import Objects
from entrepot.store.protocol import Lock, LockMode
from tests.objects.test_service import assert_books, read
from tests.objects.worlds import new_bucket_name

LATER = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)


@pytest_asyncio.fixture
async def locked(objects: Objects) -> str:
    name = new_bucket_name()
    await objects.create_bucket(name, tenant_id="acme", locked=True, encrypted=True)
    return name


async def test_tags_are_the_same_at_both(objects: Objects, bucket: str) -> None:
    row = await objects.put(bucket, "k", b"x")
    await objects.tag(bucket, "k", {"a": "1", "b": "two"})
    assert (await objects.head(bucket, "k")).attributes["tags"] == {"a": "1", "b": "two"}
    store = objects.ground.store
    assert await store.tags(bucket, "k", version_id=row.version_id) == {"a": "1", "b": "two"}
    await objects.tag(bucket, "k", {})
    assert await store.tags(bucket, "k", version_id=row.version_id) == {}
    with pytest.raises(InvalidInput):
        await objects.tag(bucket, "k", {f"t{number}": "" for number in range(11)})
    with pytest.raises(NotFound):
        await objects.tag(bucket, "other", {})
    await assert_books(objects, bucket)


@pytest.mark.parametrize("mode", list(LockMode))
async def test_a_retained_version_stays(objects: Objects, locked: str, mode: LockMode) -> None:
    row = await objects.put(locked, "k", b"x")
    await objects.retain(locked, "k", mode=mode, until=LATER)
    store = objects.ground.store
    wanted = Lock(mode, LATER)
    assert await store.lock(locked, "k", version_id=row.version_id) == wanted
    assert lock_of(await objects.head(locked, "k")) == wanted
    with pytest.raises(AccessDenied):
        await objects.delete(locked, "k", version_id=row.version_id)
    with pytest.raises(AccessDenied):
        await objects.retain(locked, "k", mode=mode, until=LATER - timedelta(hours=1))
    await objects.retain(locked, "k", mode=mode, until=LATER + timedelta(hours=1))
    await objects.delete(locked, "k")  # a delete marker hides it and removes nothing
    assert await read(objects, locked, "k", version_id=row.version_id) == b"x"
    if mode is LockMode.COMPLIANCE:
        with pytest.raises(AccessDenied):
            await objects.delete(locked, "k", version_id=row.version_id, bypass=True)
        return
    await objects.delete(locked, "k", version_id=row.version_id, bypass=True)
    with pytest.raises(NotFound):
        await objects.head(locked, "k", version_id=row.version_id)
    found = await check(objects.ground, await objects.ground.bucket(locked))
    assert (found.orphans, found.missing) == ([], [])
    await assert_books(objects, locked)


async def test_a_hold_beats_a_bypass(objects: Objects, locked: str) -> None:
    row = await objects.put(locked, "k", b"x")
    await objects.hold(locked, "k", on=True)
    assert (await objects.ground.store.lock(locked, "k", version_id=row.version_id)).hold
    with pytest.raises(AccessDenied):
        await objects.delete(locked, "k", version_id=row.version_id, bypass=True)
    await objects.hold(locked, "k", on=False)
    await objects.delete(locked, "k", version_id=row.version_id)
    await assert_books(objects, locked)


async def test_a_bucket_without_lock(objects: Objects, plain: str) -> None:
    await objects.put(plain, "k", b"x")
    with pytest.raises(Unsupported):
        await objects.hold(plain, "k", on=True)
    with pytest.raises(Unsupported):
        await objects.retain(plain, "k", mode=LockMode.GOVERNANCE, until=LATER)
