"""The contract of versions and listings: order, delete markers, origins, pages, tokens."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import InvalidInput, NotFound
from entrepot.store.protocol import (
    NULL_VERSION,
    Attributes,
    Item,
    Lock,
    LockMode,
    ObjectStore,
    Origin,
    Store,
)
from entrepot.testing.contract_tools import (
    THEN_MS,
    ContractPart,
    current,
    history,
    new_bucket,
    origin,
    read,
)

IN_ORDER = (
    *("-", "A", "Z", "a b", "a!/x", "a-", "a.b", "a/b", "a/c/d", "a0", "b", "z"),
    *("é", "ﬁ", "😀"),  # in UTF-16 the emoji would come before the ligature
)
"""Keys in the order of their UTF-8 bytes, with those that directories put elsewhere."""


async def _fill(store: ObjectStore, bucket: str, *keys: str) -> None:
    await asyncio.gather(*(store.put(bucket, key, key.encode()) for key in keys))


class HistoryContract(ContractPart):
    """Many versions, many keys."""

    async def test_overwriting_keeps_versions_newest_first(self, store: Store, bucket: str) -> None:
        bodies = (b"one", b"two", b"three")
        put = [await store.put(bucket, "k", body) for body in bodies]
        found = await history(store, bucket)
        assert [entry.version_id for entry in found] == [entry.version_id for entry in put[::-1]]
        assert [entry.is_current for entry in found] == [True, False, False]
        assert [(entry.etag, entry.size_bytes) for entry in found] == [
            (entry.etag, entry.size_bytes) for entry in put[::-1]
        ]
        for version, body in zip(put, bodies, strict=True):
            assert await read(store, bucket, "k", version_id=version.version_id) == body
        assert await read(store, bucket, "k") == b"three"
        assert [entry.key for entry in await current(store, bucket)] == ["k"]

    async def test_a_batch_keeps_ids_times_and_attributes(self, store: Store, bucket: str) -> None:
        keys = [f"{name}-{'ü' * 60}" for name in IN_ORDER]  # long names take another kind of entry
        attributes = Attributes(content_type="text/x-y", metadata={"a": "b = c", "n": "x" * 90})
        items = [
            Item(key, key.encode() * number, attributes, origin(mtime_ms=THEN_MS + number))
            for number, key in enumerate(keys)
        ]
        assert await store.batch(bucket, items) == []
        await store.batch(bucket, items[:3])  # again changes nothing
        found = {entry.key: entry for entry in await history(store, bucket)}
        assert len(found) == len(items)
        for item in items:
            entry = found[item.key]
            assert (entry.version_id, entry.mtime_ms) == (
                item.origin.version_id,
                item.origin.mtime_ms,
            )
            assert await read(store, bucket, item.key) == item.body
            head = await store.head(bucket, item.key)
            assert head.attributes == attributes

    async def test_a_batch_returns_what_it_cannot_take(self, store: Store, bucket: str) -> None:
        plain, tagged = Attributes(), Attributes(tags={"t": "1"})
        odd = [("a//b", plain), ("x/../y", plain), ("./z", plain), ("d/", plain), ("t", tagged)]
        items = [Item("k", b"k", plain, origin(mtime_ms=THEN_MS))]
        items += [Item(key, b"o", attributes, origin(mtime_ms=THEN_MS)) for key, attributes in odd]
        left = await store.batch(bucket, items)
        kept = {entry.key for entry in await history(store, bucket)}
        assert kept | {item.key for item in left} == {item.key for item in items}
        assert not kept & {item.key for item in left}

    async def test_a_delete_marker_hides_and_keeps(self, store: Store, bucket: str) -> None:
        put = await store.put(bucket, "k", b"one")
        marker = await store.delete(bucket, "k")
        assert marker is not None and marker.is_delete_marker
        for version_id in (None, marker.version_id):
            with pytest.raises(NotFound) as looked:
                await store.head(bucket, "k", version_id=version_id)
            assert (looked.value.fields.get("status") == 405) == (version_id is not None)
            with pytest.raises(NotFound):
                await read(store, bucket, "k", version_id=version_id)
        assert await read(store, bucket, "k", version_id=put.version_id) == b"one"
        assert await current(store, bucket) == []
        newest, oldest = await history(store, bucket)
        assert (newest.version_id, newest.is_current) == (marker.version_id, True)
        assert (newest.is_delete_marker, newest.etag, newest.size_bytes) == (True, "", 0)
        assert (oldest.version_id, oldest.is_current) == (put.version_id, False)
        await store.put(bucket, "k", b"two")
        assert await read(store, bucket, "k") == b"two"

    async def test_deleting_what_never_was_is_no_error(self, store: Store, bucket: str) -> None:
        marker = await store.delete(bucket, "never")
        found = await history(store, bucket)
        assert [entry.version_id for entry in found] == ([marker.version_id] if marker else [])
        chosen = origin()
        marker = await store.delete(bucket, "other", origin=chosen)
        (entry,) = await history(store, bucket, prefix="other")
        assert entry.is_delete_marker and entry.version_id == chosen.version_id

    async def test_removing_a_version_reveals_the_one_below(
        self, store: Store, bucket: str
    ) -> None:
        one = await store.put(bucket, "k", b"one")
        two = await store.put(bucket, "k", b"two")
        marker = await store.delete(bucket, "k")
        assert marker is not None
        for version_id, left in ((marker.version_id, b"two"), (two.version_id, b"one")):
            await store.delete(bucket, "k", version_id=version_id)
            await store.delete(bucket, "k", version_id=version_id)  # gone already: no error
            assert await read(store, bucket, "k") == left
        await store.delete(bucket, "k", version_id=one.version_id)
        assert await history(store, bucket) == []

    async def test_an_unversioned_bucket_keeps_one_null_version(self, store: Store) -> None:
        bucket = await new_bucket(store, versioned=False)
        assert not await store.versioned(bucket)
        await store.put(bucket, "k", b"one")
        await store.put(bucket, "k", b"two")
        (found,) = await history(store, bucket)
        assert (found.version_id, found.is_current) == (NULL_VERSION, True)
        assert await read(store, bucket, "k", version_id=NULL_VERSION) == b"two"
        assert await store.delete(bucket, "k") is None
        assert await store.delete(bucket, "k") is None
        assert await history(store, bucket) == []

    async def test_an_origin_keeps_its_id_and_time(self, store: Store, bucket: str) -> None:
        chosen = origin()
        put = await store.put(
            bucket, "k", b"one", origin=chosen, attributes=Attributes(metadata={"m": "1"})
        )
        assert (put.version_id, put.mtime_ms) == (chosen.version_id, chosen.mtime_ms)
        (found,) = await history(store, bucket)
        assert (found.version_id, found.mtime_ms) == (chosen.version_id, chosen.mtime_ms)
        head = await store.head(bucket, "k")
        assert head.mtime_ms // 1000 == chosen.mtime_ms // 1000
        assert head.attributes is not None
        assert dict(head.attributes.metadata) == {"m": "1"}

    async def test_putting_an_origin_again_changes_nothing(self, store: Store, bucket: str) -> None:
        first, second = origin(), origin(mtime_ms=THEN_MS + 1)
        for chosen in (first, second, first):
            body = chosen.version_id.encode()
            await store.put(bucket, "k", body, origin=chosen)
        found = await history(store, bucket)
        assert [entry.version_id for entry in found] == [second.version_id, first.version_id]
        assert await read(store, bucket, "k") == second.version_id.encode()

    async def test_an_older_origin_does_not_become_current(self, store: Store, bucket: str) -> None:
        now = await store.put(bucket, "k", b"now")
        old = origin()
        await store.put(bucket, "k", b"old", origin=old)
        assert await read(store, bucket, "k") == b"now"
        found = await history(store, bucket)
        assert [(entry.version_id, entry.is_current) for entry in found] == [
            (now.version_id, True),
            (old.version_id, False),
        ]
        await store.delete(bucket, "k", origin=origin(mtime_ms=THEN_MS + 5))
        assert await read(store, bucket, "k") == b"now"

    async def test_origins_stand_by_time_not_by_arrival(self, store: Store, bucket: str) -> None:
        origins = [origin(mtime_ms=THEN_MS + step) for step in (3, 1, 4, 2)]
        for chosen in origins:
            await store.put(bucket, "k", b"x", origin=chosen)
        found = await history(store, bucket)
        assert [entry.mtime_ms - THEN_MS for entry in found] == [4, 3, 2, 1]

    async def test_of_equal_times_the_newest_arrival_is_current(
        self, store: Store, bucket: str
    ) -> None:
        first, second = origin(), origin()
        await store.put(bucket, "k", b"first", origin=first)
        await store.put(bucket, "k", b"second", origin=second)
        assert await read(store, bucket, "k") == b"second"
        newest, _ = await history(store, bucket)
        assert newest.version_id == second.version_id and newest.is_current

    async def test_a_delete_marker_can_have_an_origin(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", b"one", origin=origin())
        gone = origin(mtime_ms=THEN_MS + 10)
        for _ in range(2):  # the second time changes nothing
            marker = await store.delete(bucket, "k", origin=gone)
            assert marker is not None
            assert (marker.version_id, marker.mtime_ms) == (gone.version_id, gone.mtime_ms)
        found = await history(store, bucket)
        assert len(found) == 2
        assert (found[0].version_id, found[0].is_delete_marker) == (gone.version_id, True)
        assert found[0].mtime_ms == gone.mtime_ms
        with pytest.raises(NotFound):
            await store.head(bucket, "k")

    async def test_an_origin_is_a_uuid(self, store: Store, bucket: str) -> None:
        with pytest.raises(InvalidInput):
            await store.put(bucket, "k", b"", origin=Origin(version_id="v1", mtime_ms=THEN_MS))

    async def test_equal_histories_have_equal_tokens(self, store: Store, bucket: str) -> None:
        twin = await new_bucket(store)
        steps = [origin(mtime_ms=THEN_MS + step) for step in range(4)]
        for target, order in ((bucket, (0, 1, 2)), (twin, (2, 0, 1))):
            for step in order:
                await store.put(target, "k", bytes((step,)), origin=steps[step])
            await store.delete(target, "gone", origin=steps[3])
        for listing in (store.list, store.versions):
            one = [token async for page in listing(bucket) for token in page.tokens]
            two = [token async for page in listing(twin) for token in page.tokens]
            assert one == two
            assert len(one) == (1 if listing == store.list else 4)
        await store.put(twin, "k", b"other", origin=origin(mtime_ms=THEN_MS + 9))
        (one_page,) = [page async for page in store.list(bucket)]
        (two_page,) = [page async for page in store.list(twin)]
        assert list(one_page.tokens) != list(two_page.tokens)

    async def test_details_are_those_of_single_requests(self, store: Store) -> None:
        bucket = await new_bucket(store, versioned=False, locked=True)
        tagged = Attributes(
            content_type="text/html; charset=utf-8",
            metadata={"key": "<a & b>", "size": "7", "said": "ünï 日本", "looks": "=?x?q?y?="},
            headers={"cache-control": "max-age=5", "content-disposition": 'inline; filename="a b"'},
            tags={"a": "1", "b+c": "d=e@:/", "empty": ""},
        )
        await store.put(bucket, "k", b"one")
        await store.put(bucket, "k", b"two", attributes=tagged)
        until = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(hours=1)
        await store.retain(bucket, "k", mode=LockMode.GOVERNANCE, until=until)
        await store.hold(bucket, "k", True)
        await store.delete(bucket, "k")
        marker, two, one = await history(store, bucket, details=True)
        assert (marker.is_delete_marker, marker.attributes, marker.lock) == (True, None, None)
        for entry in (one, two):
            of = {"version_id": entry.version_id}
            alone = (await store.head(bucket, "k", **of)).attributes
            tags = await store.tags(bucket, "k", **of)
            assert alone and entry.attributes == replace(alone, tags=tags)
            assert entry.lock == await store.lock(bucket, "k", **of)
        assert two.attributes == replace(tagged, tag_count=3)
        assert two.lock == Lock(LockMode.GOVERNANCE, until, True)
        assert one.attributes and (one.lock, one.attributes.tags) == (Lock(), {})
        plain = [replace(entry, attributes=None, lock=None) for entry in (marker, two, one)]
        assert plain == await history(store, bucket)

    async def test_keys_sort_by_their_utf8_bytes(self, store: Store, bucket: str) -> None:
        assert list(IN_ORDER) == sorted(IN_ORDER, key=str.encode)
        await _fill(store, bucket, *reversed(IN_ORDER))
        assert [entry.key for entry in await current(store, bucket)] == list(IN_ORDER)
        assert [entry.key for entry in await history(store, bucket)] == list(IN_ORDER)

    @pytest.mark.parametrize("page_size", [1, 3, 5])
    async def test_pages_follow_each_other(self, store: Store, bucket: str, page_size: int) -> None:
        await _fill(store, bucket, *IN_ORDER)
        for listing in (store.list, store.versions):
            pages = [page async for page in listing(bucket, page_size=page_size)]
            assert all(len(page) <= page_size for page in pages)
            assert len([page for page in pages if len(page)]) > 2
            keys = [entry.key for page in pages for entry in page.versions]
            assert keys == list(IN_ORDER)

    async def test_a_listing_starts_behind_any_key(self, store: Store, bucket: str) -> None:
        await _fill(store, bucket, *IN_ORDER)
        await store.put(bucket, "b", b"again")
        for after in ("", *IN_ORDER, "aa", "a", "a/", "a/c/", "zzz"):
            left = [key for key in IN_ORDER if key.encode() > after.encode()]
            assert [entry.key for entry in await current(store, bucket, after=after)] == left
            found = await history(store, bucket, after=after, page_size=4)
            assert list(dict.fromkeys(entry.key for entry in found)) == left
            assert len(found) == len(left) + ("b" in left)

    async def test_a_listing_that_starts_in_a_folder_is_whole(
        self, store: Store, bucket: str
    ) -> None:
        siblings = [f"a-{number:02}" for number in range(40)]  # they sort before what is in ``a/``
        inside = [f"a/{number:02}" for number in range(20)]
        await _fill(store, bucket, *siblings, *inside, "b", "c")
        await store.put(bucket, "a/03", b"again")
        for after in ("a/", "a/05", "a/19"):
            left = [key for key in (*inside, "b", "c") if key > after]
            for listing in (current, history):
                found = await listing(store, bucket, after=after, page_size=2)
                assert list(dict.fromkeys(entry.key for entry in found)) == left
                again = listing is history and "a/03" in left
                assert len(found) == len(left) + again
        for after, left in (("a-39", ["a/", "b", "c"]), ("", [*siblings, "a/", "b", "c"])):
            for page_size in (1000, 2):
                how = {"after": after, "delimiter": "/", "page_size": page_size}
                assert [entry.key for entry in await current(store, bucket, **how)] == left

    @pytest.mark.parametrize("prefix", ["a", "a/", "a/c", "a-", "é", "none", "a/c/d"])
    async def test_a_prefix_limits_a_listing(self, store: Store, bucket: str, prefix: str) -> None:
        await _fill(store, bucket, *IN_ORDER)
        wanted = [key for key in IN_ORDER if key.startswith(prefix)]
        for page_size in (1000, 2):
            how = {"prefix": prefix, "page_size": page_size}
            assert [entry.key for entry in await current(store, bucket, **how)] == wanted
            assert [entry.key for entry in await history(store, bucket, **how)] == wanted
        left = [key for key in wanted if key.encode() > b"a/b"]
        found = await current(store, bucket, prefix=prefix, after="a/b")
        assert [entry.key for entry in found] == left

    @pytest.mark.parametrize("page_size", [1000, 2, 1])
    async def test_a_delimiter_folds_keys(self, store: Store, bucket: str, page_size: int) -> None:
        await _fill(store, bucket, "a", "b/1", "b/2", "b/3/4", "c", "d/1", "e/f/1", "e/g", "z")
        how = {"delimiter": "/", "page_size": page_size}
        found = await current(store, bucket, **how)
        assert [entry.key for entry in found] == ["a", "b/", "c", "d/", "e/", "z"]
        assert [entry.version_id == "" for entry in found] == [
            *(False, True, False, True, True, False)
        ]
        found = await current(store, bucket, prefix="e/", **how)
        assert [entry.key for entry in found] == ["e/f/", "e/g"]
        found = await current(store, bucket, after="b/", **how)
        assert [entry.key for entry in found] == ["c", "d/", "e/", "z"]

    async def test_deleted_keys_are_not_listed(self, store: Store, bucket: str) -> None:
        await _fill(store, bucket, "a", "b/1", "b/2", "c")
        for key in ("a", "b/1", "b/2"):
            await store.delete(bucket, key)
        assert [entry.key for entry in await current(store, bucket)] == ["c"]
        assert [entry.key for entry in await current(store, bucket, delimiter="/")][-1:] == ["c"]

    async def test_pages_can_cut_a_key(self, store: Store, bucket: str) -> None:
        for key in ("a", "b"):
            for _ in range(5):
                await store.put(bucket, key, b"x")
        whole = await history(store, bucket)
        assert [entry.key for entry in whole] == ["a"] * 5 + ["b"] * 5
        for page_size in (1, 2, 3, 7):
            assert await history(store, bucket, page_size=page_size) == whole
        assert await history(store, bucket, after="a", page_size=2) == whole[5:]

    async def test_an_empty_bucket_lists_nothing(self, store: Store, bucket: str) -> None:
        assert await current(store, bucket) == []
        assert await history(store, bucket) == []
