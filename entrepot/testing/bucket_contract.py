"""The contract of buckets, multipart uploads, tags and locks."""

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotFound,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from entrepot.store.protocol import (
    Attributes,
    BucketStore,
    Item,
    Lock,
    LockMode,
    Part,
    Store,
)
from entrepot.testing.contract_tools import (
    THEN_MS,
    ContractPart,
    history,
    is_visible,
    new_bucket,
    origin,
    pieces,
    read,
)

MIB = 1024 * 1024
FIRST, LAST = b"1" * (5 * MIB), b"2" * 1000
ATTRIBUTES = Attributes(content_type="video/mp4", metadata={"m": "1"}, tags={"t": "2"})


async def _upload(store: BucketStore, bucket: str, key: str) -> tuple[str, tuple[Part, Part]]:
    upload_id = await store.start(bucket, key, attributes=ATTRIBUTES)
    last = await store.part(bucket, key, upload_id, 2, pieces(LAST), size_bytes=len(LAST))
    first = await store.part(bucket, key, upload_id, 1, FIRST)
    return upload_id, (first, last)


class BucketContract(ContractPart):
    """Buckets, and objects that arrive in parts."""

    async def test_buckets_come_and_go(self, store: Store) -> None:
        names = sorted([await new_bucket(store), await new_bucket(store)])
        assert [info.name for info in await store.buckets() if info.name in names] == names
        assert all(info.created.tzinfo for info in await store.buckets())
        with pytest.raises(AlreadyExists):
            await store.create(names[0])
        await store.drop(names[0])
        assert names[0] not in {info.name for info in await store.buckets()}

    async def test_a_bucket_with_versions_is_not_dropped(self, store: Store, bucket: str) -> None:
        assert await store.versioned(bucket)
        await store.put(bucket, "k", b"x")
        await store.delete(bucket, "k")
        with pytest.raises(PreconditionFailed):
            await store.drop(bucket)
        for version in await history(store, bucket):
            await store.delete(bucket, "k", version_id=version.version_id)
        await store.drop(bucket)

    @pytest.mark.parametrize("name", ["ab", "Upper", "a" * 64, "under_score", "../x", "-a-"])
    async def test_a_bucket_has_a_plain_name(self, store: Store, name: str) -> None:
        with pytest.raises(InvalidInput):
            await store.create(name)

    async def test_parts_become_an_object(self, store: Store, bucket: str) -> None:
        upload_id, parts = await _upload(store, bucket, "k")
        assert not await is_visible(store, bucket, "k")
        done = await store.complete(bucket, "k", upload_id, parts)
        digests = b"".join(
            hashlib.md5(part, usedforsecurity=False).digest() for part in (FIRST, LAST)
        )
        etag = hashlib.md5(digests, usedforsecurity=False).hexdigest() + "-2"
        head = await store.head(bucket, "k")
        assert done.etag == head.etag == etag
        assert done.version_id == head.version_id
        assert head.size_bytes == len(FIRST + LAST)
        assert head.attributes is not None
        assert head.attributes.content_type == ATTRIBUTES.content_type
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata
        assert dict(await store.tags(bucket, "k")) == ATTRIBUTES.tags
        assert await read(store, bucket, "k") == FIRST + LAST
        async with store.get(bucket, "k", part=2) as body:
            assert (body.version.size_bytes, body.length) == (len(FIRST + LAST), len(LAST))
            assert await body.read() == LAST
        assert await read(store, bucket, "k", part=1) == FIRST
        edge = len(FIRST)
        assert await read(store, bucket, "k", start=edge - 2, stop=edge + 2) == b"1122"
        with pytest.raises(InvalidInput):
            await read(store, bucket, "k", part=3)

    async def test_a_part_can_be_sent_again(self, store: Store, bucket: str) -> None:
        upload_id = await store.start(bucket, "k")
        wrong = await store.part(bucket, "k", upload_id, 1, b"wrong")
        right = await store.part(bucket, "k", upload_id, 1, b"right")
        with pytest.raises(InvalidInput):
            await store.complete(bucket, "k", upload_id, (wrong,))
        await store.complete(bucket, "k", upload_id, (right,))
        assert await read(store, bucket, "k") == b"right"

    async def test_parts_that_are_small_or_missing_are_refused(
        self, store: Store, bucket: str
    ) -> None:
        upload_id = await store.start(bucket, "k")
        one = await store.part(bucket, "k", upload_id, 1, b"small")
        two = await store.part(bucket, "k", upload_id, 2, b"last")
        for parts in ((one, two), (two, one), (one, Part(number=7, etag=one.etag))):
            with pytest.raises(InvalidInput):
                await store.complete(bucket, "k", upload_id, parts)
        for number in (0, 10_001):
            with pytest.raises(InvalidInput):
                await store.part(bucket, "k", upload_id, number, b"x")
        assert not await is_visible(store, bucket, "k")

    async def test_an_upload_can_be_dropped(self, store: Store, bucket: str) -> None:
        upload_id, parts = await _upload(store, bucket, "k")
        await store.abort(bucket, "k", upload_id)
        await store.abort(bucket, "k", upload_id)  # gone already: no error
        with pytest.raises(NotFound):
            await store.complete(bucket, "k", upload_id, parts)
        with pytest.raises(NotFound):
            await store.part(bucket, "k", upload_id, 1, b"late")
        with pytest.raises(NotFound):
            await store.part(bucket, "k", str(new_id()), 1, b"never")
        assert not await is_visible(store, bucket, "k")

    async def test_an_upload_can_have_an_origin(self, store: Store, bucket: str) -> None:
        chosen = origin()
        await store.put(bucket, "k", b"now")
        upload_id = await store.start(bucket, "k", origin=chosen)
        part = await store.part(bucket, "k", upload_id, 1, LAST)
        done = await store.complete(bucket, "k", upload_id, (part,), origin=chosen)
        assert done.version_id == chosen.version_id
        newest, oldest = await history(store, bucket)
        assert newest.is_current and newest.etag == hashlib.md5(b"now").hexdigest()  # noqa: S324
        assert (oldest.version_id, oldest.mtime_ms) == (chosen.version_id, chosen.mtime_ms)
        assert oldest.etag.endswith("-1")

    async def test_a_copy_of_parts_is_one_part(self, store: Store, bucket: str) -> None:
        upload_id, parts = await _upload(store, bucket, "k")
        await store.complete(bucket, "k", upload_id, parts)
        copied = await store.copy(bucket, "copy", source=(bucket, "k", None))
        assert copied.etag == hashlib.md5(FIRST + LAST, usedforsecurity=False).hexdigest()

    async def test_parts_are_listed_by_number(self, store: Store, bucket: str) -> None:
        upload_id = await store.start(bucket, "k")
        assert await store.parts(bucket, "k", upload_id) == ()
        sent = {
            number: await store.part(bucket, "k", upload_id, number, b"x" * number)
            for number in (10, 2, 1, 9_999, 2)
        }
        assert await store.parts(bucket, "k", upload_id) == tuple(
            Part(number, sent[number].etag, number) for number in sorted(sent)
        )
        sent[2] = await store.part(bucket, "k", upload_id, 2, b"other")
        assert sent[2] in await store.parts(bucket, "k", upload_id)
        await store.complete(bucket, "k", upload_id, (sent[2],))
        with pytest.raises(NotFound):
            await store.parts(bucket, "k", upload_id)

    async def test_parts_of_what_is_no_upload_are_not_found(
        self, store: Store, bucket: str
    ) -> None:
        upload_id, _ = await _upload(store, bucket, "k")
        for key, wrong in (("other", upload_id), ("k", str(new_id())), ("k", "none")):
            with pytest.raises(NotFound):
                await store.parts(bucket, key, wrong)
        await store.abort(bucket, "k", upload_id)
        with pytest.raises(NotFound):
            await store.parts(bucket, "k", upload_id)

    async def test_uploads_are_listed_by_key_and_time(self, store: Store, bucket: str) -> None:
        assert await store.uploads(bucket) == ()
        begun = SYSTEM_CLOCK.now()
        ids: list[tuple[str, str]] = []
        for key in ("a", "a/b", "a/b", "a/c", "b", "ü &<+%"):
            ids.append((key, await store.start(bucket, key)))
            await asyncio.sleep(0.002)  # times have milliseconds
        found = await store.uploads(bucket)
        assert [(each.key, each.upload_id) for each in found] == ids
        assert all(abs(each.started - begun) < timedelta(minutes=1) for each in found)
        for prefix in ("a", "a/", "a/b", "ü &", "ü &<+%", "none"):
            wanted = tuple(each for each in found if each.key.startswith(prefix))
            assert await store.uploads(bucket, prefix=prefix) == wanted
        part = await store.part(bucket, "a", ids[0][1], 1, b"x")
        await store.complete(bucket, "a", ids[0][1], (part,))
        await store.abort(bucket, "a/b", ids[1][1])
        assert [(each.key, each.upload_id) for each in await store.uploads(bucket)] == ids[2:]

    async def test_an_upload_with_an_origin_is_listed(self, store: Store, bucket: str) -> None:
        upload_id = await store.start(bucket, "k", origin=origin())
        for prefix in ("", "k"):
            (found,) = await store.uploads(bucket, prefix=prefix)
            assert (found.key, found.upload_id) == ("k", upload_id)
            assert abs(found.started - SYSTEM_CLOCK.now()) < timedelta(minutes=1)

    async def test_tags_are_replaced(self, store: Store, bucket: str) -> None:
        first = await store.put(bucket, "k", b"one", attributes=ATTRIBUTES)
        await store.put(bucket, "k", b"two", attributes=ATTRIBUTES)
        before = await history(store, bucket)
        new = {"a b": "1+2=3", "c": ""}
        await store.tag(bucket, "k", new)
        assert dict(await store.tags(bucket, "k")) == new
        old = await store.tags(bucket, "k", version_id=first.version_id)
        assert dict(old) == ATTRIBUTES.tags
        for _ in range(2):
            await store.tag(bucket, "k", {}, version_id=first.version_id)
            assert await store.tags(bucket, "k", version_id=first.version_id) == {}
        head = await store.head(bucket, "k")
        assert head.attributes is not None and head.attributes.tag_count == len(new)
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata
        assert await history(store, bucket) == before

    @pytest.mark.parametrize(
        "tags",
        [{str(n): "" for n in range(11)}, {"": "x"}, {"x" * 129: ""}, {"x": "x" * 257}],
        ids=["many", "empty", "long name", "long value"],
    )
    async def test_tags_out_of_bounds_are_refused(
        self, store: Store, bucket: str, tags: dict[str, str]
    ) -> None:
        await store.put(bucket, "k", b"x", attributes=ATTRIBUTES)
        with pytest.raises(InvalidInput):
            await store.tag(bucket, "k", tags)
        assert dict(await store.tags(bucket, "k")) == ATTRIBUTES.tags

    async def test_tags_of_odd_signs_are_kept_or_refused(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", b"x", attributes=ATTRIBUTES)
        wanted = {"ü<&>": "\"'"}
        try:
            await store.tag(bucket, "k", wanted)
        except InvalidInput:
            wanted = dict(ATTRIBUTES.tags)
        assert dict(await store.tags(bucket, "k")) == wanted

    async def test_a_delete_marker_has_no_tags(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", b"x")
        marker = await store.delete(bucket, "k")
        assert marker is not None
        for version_id in (None, marker.version_id):
            for tags in ({"a": "b"}, {}):
                with pytest.raises(NotFound):
                    await store.tag(bucket, "k", tags, version_id=version_id)

    async def test_no_key_is_refused(self, store: Store, bucket: str) -> None:
        calls: tuple[Any, ...] = (
            lambda: store.tag(bucket, "", {}),
            lambda: store.tags(bucket, ""),
            lambda: store.start(bucket, ""),
            lambda: store.lock(bucket, ""),
            lambda: store.hold(bucket, "", True),
            lambda: store.retain(bucket, "", mode=None, until=None),
        )
        for call in calls:
            with pytest.raises(InvalidInput):
                await call()


GOVERNANCE, COMPLIANCE = LockMode.GOVERNANCE, LockMode.COMPLIANCE


def _soon(seconds: int = 3600) -> datetime:
    return (SYSTEM_CLOCK.now() + timedelta(seconds=seconds)).replace(microsecond=0)


class LockContract(ContractPart):
    """What keeps versions from being removed."""

    @pytest.fixture
    async def locked(self, store: Store) -> str:
        """A new bucket with object lock."""
        return await new_bucket(store, versioned=False, locked=True)

    async def test_object_lock_alone_locks_nothing(self, store: Store, locked: str) -> None:
        assert await store.versioned(locked)
        put = await store.put(locked, "k", b"x")
        assert await store.lock(locked, "k") == Lock()
        await store.delete(locked, "k", version_id=put.version_id)
        await store.drop(locked)

    async def test_a_lock_comes_back(self, store: Store, locked: str) -> None:
        put = await store.put(locked, "k", b"x", attributes=ATTRIBUTES)
        before = await history(store, locked)
        until = _soon()
        await store.hold(locked, "k", True)
        assert await store.lock(locked, "k") == Lock(hold=True)
        for _ in range(2):  # again changes nothing
            here = until.astimezone(timezone(timedelta(hours=5)))
            await store.retain(locked, "k", mode=GOVERNANCE, until=here)
        lock = await store.lock(locked, "k", version_id=put.version_id)
        assert lock == Lock(GOVERNANCE, until, hold=True)
        assert lock.until is not None and lock.until.tzinfo is UTC
        for _ in range(2):
            await store.hold(locked, "k", False)
        assert await store.lock(locked, "k") == Lock(GOVERNANCE, until)
        await store.put(locked, "k", b"y")
        assert await store.lock(locked, "k") == Lock()
        await store.retain(locked, "k", mode=COMPLIANCE, until=until)
        lock = await store.lock(locked, "k", version_id=put.version_id)
        assert lock == Lock(GOVERNANCE, until)
        (first,) = (await history(store, locked))[1:]
        assert [replace(first, is_current=True)] == before
        head = await store.head(locked, "k", version_id=put.version_id)
        assert head.attributes is not None
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata

    async def test_a_lock_comes_with_an_origin(self, store: Store, locked: str) -> None:
        """From the first moment on, for whole bodies and for parts."""
        lock = Lock(COMPLIANCE, _soon(), hold=True)
        for key in ("whole", "parts"):
            given = replace(origin(mtime_ms=THEN_MS), lock=lock)
            if key == "whole":
                await store.put(locked, key, b"x", origin=given)
            else:
                upload = await store.start(locked, key, origin=given)
                part = await store.part(locked, key, upload, 1, b"x")
                await store.complete(locked, key, upload, (part,), origin=given)
            assert await store.lock(locked, key, version_id=given.version_id) == lock

    async def test_a_lock_needs_a_bucket_with_object_lock(self, store: Store, bucket: str) -> None:
        with pytest.raises(Unsupported):
            given = replace(origin(mtime_ms=THEN_MS), lock=Lock(hold=True))
            await store.put(bucket, "k", b"x", origin=given)
        assert await history(store, bucket) == []

    async def test_a_bucket_without_a_lifecycle_removes_nothing(
        self, store: Store, bucket: str
    ) -> None:
        assert await store.lifecycle(bucket) == ()
        with pytest.raises(BucketNotFound):
            await store.lifecycle("entrepot-no-such-bucket")

    async def test_compliance_holds_against_everybody(self, store: Store, locked: str) -> None:
        put = await store.put(locked, "k", b"x")
        until = _soon()
        await store.retain(locked, "k", mode=COMPLIANCE, until=until)
        for bypass in (False, True):
            with pytest.raises(AccessDenied):
                await store.delete(locked, "k", version_id=put.version_id, bypass=bypass)
            for mode, less in (
                (COMPLIANCE, until - timedelta(seconds=1)),
                (GOVERNANCE, until + timedelta(days=1)),
                (None, None),
            ):
                with pytest.raises(AccessDenied):
                    await store.retain(locked, "k", mode=mode, until=less, bypass=bypass)
        later = until + timedelta(seconds=1)
        await store.retain(locked, "k", mode=COMPLIANCE, until=later)
        assert await store.lock(locked, "k") == Lock(COMPLIANCE, later)
        assert await read(store, locked, "k") == b"x"

    async def test_governance_gives_way_to_a_bypass(self, store: Store, locked: str) -> None:
        put = await store.put(locked, "k", b"x")
        until = _soon()
        changes: tuple[tuple[LockMode | None, datetime | None], ...] = (
            (GOVERNANCE, until - timedelta(seconds=1)),
            (None, None),
            (COMPLIANCE, until),
        )
        for mode, other in changes:
            await store.retain(locked, "k", mode=GOVERNANCE, until=until)
            with pytest.raises(AccessDenied):
                await store.delete(locked, "k", version_id=put.version_id)
            with pytest.raises(AccessDenied):
                await store.retain(locked, "k", mode=mode, until=other)
            await store.retain(locked, "k", mode=mode, until=other, bypass=True)
            assert await store.lock(locked, "k") == Lock(mode, other)
        gone = await store.put(locked, "gone", b"x")
        await store.retain(locked, "gone", mode=GOVERNANCE, until=until)
        await store.delete(locked, "gone", version_id=gone.version_id, bypass=True)
        assert await history(store, locked, prefix="gone") == []

    async def test_a_hold_beats_a_bypass(self, store: Store, locked: str) -> None:
        put = await store.put(locked, "k", b"x")
        await store.retain(locked, "k", mode=GOVERNANCE, until=_soon())
        await store.hold(locked, "k", True)
        with pytest.raises(AccessDenied):
            await store.delete(locked, "k", version_id=put.version_id, bypass=True)
        await store.hold(locked, "k", False)
        await store.delete(locked, "k", version_id=put.version_id, bypass=True)
        assert await history(store, locked) == []

    async def test_a_retention_ends_with_its_time(self, store: Store, locked: str) -> None:
        put = await store.put(locked, "k", b"x")
        until = _soon(2)
        await store.retain(locked, "k", mode=COMPLIANCE, until=until)
        with pytest.raises(AccessDenied):
            await store.delete(locked, "k", version_id=put.version_id)
        await asyncio.sleep((until - SYSTEM_CLOCK.now()).total_seconds() + 0.05)
        assert await store.lock(locked, "k") == Lock(COMPLIANCE, until)
        await store.retain(locked, "k", mode=GOVERNANCE, until=_soon())  # free to change
        await store.delete(locked, "k", version_id=put.version_id, bypass=True)

    async def test_a_locked_version_survives_a_delete(self, store: Store, locked: str) -> None:
        put = await store.put(locked, "k", b"x")
        await store.retain(locked, "k", mode=COMPLIANCE, until=_soon())
        marker = await store.delete(locked, "k")
        assert marker is not None and marker.is_delete_marker
        await store.delete(locked, "k", origin=origin())
        assert await read(store, locked, "k", version_id=put.version_id) == b"x"
        assert len(await history(store, locked)) == 3
        with pytest.raises(PreconditionFailed):
            await store.drop(locked)
        await store.delete(locked, "k", version_id=marker.version_id)  # a marker has no lock
        assert await read(store, locked, "k") == b"x"

    async def test_a_locked_version_is_not_written_again(self, store: Store, locked: str) -> None:
        chosen = origin()
        await store.put(locked, "k", b"x", origin=chosen)
        await store.hold(locked, "k", True)
        with suppress(AccessDenied):
            await store.put(locked, "k", b"y", origin=chosen)
        assert await read(store, locked, "k") == b"x"
        await store.batch(locked, [Item("k", b"z", Attributes(), chosen)])
        assert await read(store, locked, "k") == b"x"
        assert await store.lock(locked, "k") == Lock(hold=True)

    async def test_a_copy_has_no_lock(self, store: Store, locked: str) -> None:
        await store.put(locked, "k", b"x")
        await store.hold(locked, "k", True)
        await store.copy(locked, "copy", source=(locked, "k", None))
        assert await store.lock(locked, "copy") == Lock()

    async def test_what_is_not_there_has_no_lock(self, store: Store, locked: str) -> None:
        await store.put(locked, "k", b"x")
        marker = await store.delete(locked, "k")
        assert marker is not None
        for key, version_id in (
            ("none", None),
            ("k", None),
            ("k", marker.version_id),
            ("k", str(new_id())),
        ):
            which: Any = {"version_id": version_id}
            calls: tuple[Any, ...] = (
                lambda key=key, which=which: store.lock(locked, key, **which),
                lambda key=key, which=which: store.hold(locked, key, True, **which),
                lambda key=key, which=which: store.retain(
                    locked, key, mode=GOVERNANCE, until=_soon(), **which
                ),
            )
            for call in calls:
                with pytest.raises(NotFound):
                    await call()

    async def test_a_bucket_without_object_lock_has_no_locks(
        self, store: Store, bucket: str
    ) -> None:
        put = await store.put(bucket, "k", b"x")
        calls: tuple[Any, ...] = (
            lambda: store.lock(bucket, "k"),
            lambda: store.hold(bucket, "k", True),
            lambda: store.hold(bucket, "k", False, version_id=put.version_id),
            lambda: store.retain(bucket, "k", mode=COMPLIANCE, until=_soon()),
        )
        for call in calls:
            with pytest.raises(Unsupported) as raised:
                await call()
            assert "locked=True" in raised.value.hint

    async def test_a_retention_without_meaning_is_refused(self, store: Store, locked: str) -> None:
        await store.put(locked, "k", b"x")
        soon = _soon()
        wrong: tuple[tuple[LockMode | None, datetime | None], ...] = (
            (GOVERNANCE, None),
            (None, soon),
            (GOVERNANCE, _soon(-60)),
            (COMPLIANCE, _soon(-60)),
            (GOVERNANCE, soon.replace(tzinfo=None)),
            (GOVERNANCE, soon.replace(microsecond=1)),
        )
        for mode, until in wrong:
            with pytest.raises(InvalidInput):
                await store.retain(locked, "k", mode=mode, until=until)
        assert await store.lock(locked, "k") == Lock()
