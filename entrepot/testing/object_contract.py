"""The contract of single objects: attributes, bodies, ranges, keys, conditions."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import pytest

from entrepot.clock import new_id
from entrepot.crc import crc32c
from entrepot.errors import (
    BucketNotFound,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from entrepot.store.protocol import KEY_MAX_BYTES, Attributes, Part, Store
from entrepot.testing.contract_tools import (
    THEN_MS,
    ContractPart,
    current,
    history,
    is_visible,
    origin,
    pieces,
    read,
)

ATTRIBUTES = Attributes(
    content_type="text/plain; charset=utf-8",
    metadata={"owner": "tenant-7", "long-name": "x" * 500},
    headers={"cache-control": "max-age=60", "content-language": "de"},
    tags={"class": "cold", "project": "a b+c"},
)
ODD_KEYS = (
    *("a b", "+", "%", "%2F", "a%20b", "ü", "😀", "&<>\"'", "a?b=c&d#e", "~", "*", "$;:,@="),
    *(".hidden", "a.b/c..d", "line\nbreak", "tab\t", "\\back"),
)
SEGMENT_KEYS = ("a//b", "../x", "a/../b", "./x", "a/.", "/lead", "a//", "..")
"""Endpoints that keep objects in directories may refuse these."""

TWINS = (("caf\u00e9", "cafe\u0301"), ("Readme", "README"), ("dir", "dir/"))
"""Keys that file systems confuse: Unicode forms, case, a file and a directory of one name."""

BODY = b"0123456789"


async def _cut_short(error: Exception) -> AsyncIterator[bytes]:
    yield BODY
    raise error


class ObjectContract(ContractPart):
    """One key at a time."""

    async def test_a_version_comes_back_with_its_attributes(
        self, store: Store, bucket: str
    ) -> None:
        put = await store.put(bucket, "k", BODY, attributes=ATTRIBUTES)
        head = await store.head(bucket, "k")
        assert put.etag == head.etag == hashlib.md5(BODY, usedforsecurity=False).hexdigest()
        assert put.version_id == head.version_id != ""
        assert put.size_bytes == head.size_bytes == len(BODY)
        assert abs(put.mtime_ms - head.mtime_ms) < 60_000
        async with store.get(bucket, "k") as body:
            assert body.version == head
            assert await body.read() == BODY
        assert head.attributes is not None
        assert head.attributes.content_type == ATTRIBUTES.content_type
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata
        assert dict(head.attributes.headers) == ATTRIBUTES.headers
        assert head.attributes.tag_count == len(ATTRIBUTES.tags)
        assert dict(await store.tags(bucket, "k")) == ATTRIBUTES.tags

    async def test_a_version_without_attributes_has_the_plain_ones(
        self, store: Store, bucket: str
    ) -> None:
        await store.put(bucket, "k", BODY)
        head = await store.head(bucket, "k")
        assert head.attributes is not None
        assert (dict(head.attributes.metadata), dict(head.attributes.headers)) == ({}, {})
        assert await store.tags(bucket, "k") == {}

    @pytest.mark.parametrize("value", ["Köln", "東京 ✓", "=", "a, b", "50% + 1"])
    async def test_metadata_comes_back_equal_or_is_refused(
        self, store: Store, bucket: str, value: str
    ) -> None:
        try:
            await store.put(bucket, "k", BODY, attributes=Attributes(metadata={"m": value}))
        except InvalidInput:
            assert not await is_visible(store, bucket, "k")
            return
        head = await store.head(bucket, "k")
        assert head.attributes is not None
        assert dict(head.attributes.metadata) == {"m": value}

    @pytest.mark.parametrize("value", ["a\nb", "a\r\nx-amz-meta-b: c", "a\0b", " a", "a "])
    async def test_metadata_that_no_header_carries_is_refused(
        self, store: Store, bucket: str, value: str
    ) -> None:
        with pytest.raises(InvalidInput):
            await store.put(bucket, "k", BODY, attributes=Attributes(metadata={"m": value}))
        assert not await is_visible(store, bucket, "k")

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (0, None), (3, 7), (9, None), (9, 10), (4, 99), (0, 10)]
    )
    async def test_a_range_is_a_slice(
        self, store: Store, bucket: str, start: int, stop: int | None
    ) -> None:
        await store.put(bucket, "k", BODY)
        async with store.get(bucket, "k", start=start, stop=stop) as body:
            assert body.version.size_bytes == len(BODY)
            assert body.length == len(BODY[start:stop])
            assert await body.read() == BODY[start:stop]

    @pytest.mark.parametrize(("start", "stop"), [(10, None), (5, 5), (7, 3), (0, 0), (-1, None)])
    async def test_a_range_without_a_byte_is_refused(
        self, store: Store, bucket: str, start: int, stop: int | None
    ) -> None:
        await store.put(bucket, "k", BODY)
        with pytest.raises(InvalidInput):
            await read(store, bucket, "k", start=start, stop=stop)

    async def test_an_object_can_be_empty(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "bytes", b"")
        await store.put(bucket, "stream", pieces(), size_bytes=0)
        for key in ("bytes", "stream"):
            assert await read(store, bucket, key) == b""
            assert (await store.head(bucket, key)).size_bytes == 0

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_an_odd_key_is_kept_as_it_is(self, store: Store, bucket: str, key: str) -> None:
        await self._keeps(store, bucket, key)

    @pytest.mark.parametrize("key", SEGMENT_KEYS)
    async def test_a_key_like_a_path_is_kept_as_it_is_or_refused(
        self, store: Store, bucket: str, key: str
    ) -> None:
        try:
            await store.put(bucket, key, BODY)
        except InvalidInput:
            assert await history(store, bucket) == []
            return
        await self._keeps(store, bucket, key)

    @staticmethod
    async def _keeps(store: Store, bucket: str, key: str) -> None:
        put = await store.put(bucket, key, BODY, attributes=ATTRIBUTES)
        assert await read(store, bucket, key) == BODY
        assert dict(await store.tags(bucket, key)) == ATTRIBUTES.tags
        assert [entry.key for entry in await current(store, bucket)] == [key]
        assert [entry.key for entry in await current(store, bucket, prefix=key)] == [key]
        assert put.version_id in {entry.version_id for entry in await history(store, bucket)}
        copied = await store.copy(bucket, "copy", source=(bucket, key, put.version_id))
        assert copied.etag == put.etag
        marker = await store.delete(bucket, key)
        assert marker is not None
        assert [entry.key for entry in await current(store, bucket)] == ["copy"]

    @pytest.mark.parametrize("twins", TWINS, ids=ascii)
    async def test_keys_that_look_alike_stay_apart(
        self, store: Store, bucket: str, twins: tuple[str, str]
    ) -> None:
        for key in twins:
            await store.put(bucket, key, key.encode())
        assert [entry.key for entry in await current(store, bucket)] == sorted(twins)
        for key in twins:
            assert await read(store, bucket, key) == key.encode()

    async def test_a_key_can_end_with_a_slash(self, store: Store, bucket: str) -> None:
        await self._keeps(store, bucket, "trailing/")

    async def test_a_key_can_start_other_keys(self, store: Store, bucket: str) -> None:
        keys = ["a", "a/b", "a/b/c"]
        for key in keys:
            await store.put(bucket, key, key.encode())
        for key in keys:
            assert await read(store, bucket, key) == key.encode()
        assert [entry.key for entry in await current(store, bucket)] == keys

    async def test_a_key_has_up_to_1024_bytes(self, store: Store, bucket: str) -> None:
        longest = "/".join(("ü" * 100,) * 5) + "/" + "x" * 19
        assert len(longest.encode()) == KEY_MAX_BYTES
        await self._keeps(store, bucket, longest)
        for key in ("", longest + "x", "\ud800"):
            with pytest.raises(InvalidInput):
                await store.put(bucket, key, BODY)

    async def test_a_body_can_be_streamed(self, store: Store, bucket: str) -> None:
        parts = [bytes((number,)) * 100_000 for number in range(30)]
        whole = b"".join(parts)
        md5 = hashlib.md5(whole, usedforsecurity=False).digest()
        put = await store.put(bucket, "k", pieces(*parts), size_bytes=len(whole), md5=md5)
        assert put.etag == md5.hex()
        assert await read(store, bucket, "k") == whole
        assert (
            await read(store, bucket, "k", start=99_999, stop=2_500_001) == whole[99_999:2_500_001]
        )

    @pytest.mark.parametrize("size_bytes", [9, 11, None, -1])
    async def test_a_body_of_another_length_is_refused(
        self, store: Store, bucket: str, size_bytes: int | None
    ) -> None:
        with pytest.raises(EntrepotError):
            await store.put(bucket, "k", pieces(BODY[:5], BODY[5:]), size_bytes=size_bytes)
        assert not await is_visible(store, bucket, "k")

    async def test_a_body_that_breaks_leaves_nothing(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", b"before")
        with pytest.raises((RuntimeError, EntrepotError)):
            await store.put(bucket, "k", _cut_short(RuntimeError("cut")), size_bytes=20)
        assert await read(store, bucket, "k") == b"before"
        assert len(await history(store, bucket)) == 1

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_bytes_that_do_not_match_their_md5_are_refused(
        self, store: Store, bucket: str, streamed: bool
    ) -> None:
        wrong = hashlib.md5(b"other", usedforsecurity=False).digest()
        source = pieces(BODY) if streamed else BODY
        with pytest.raises(IntegrityError):
            await store.put(bucket, "k", source, size_bytes=len(BODY), md5=wrong)
        assert not await is_visible(store, bucket, "k")

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("size_bytes", [0, 1, 1 << 20, 3_000_001])
    async def test_a_body_is_proved_by_its_crc(
        self, store: Store, bucket: str, streamed: bool, size_bytes: int
    ) -> None:
        """Also with headers of its own, and an origin where the store keeps one."""
        body = (bytes(range(251)) * (size_bytes // 251 + 1))[:size_bytes]
        source = pieces(body[:100_000], body[100_000:]) if streamed else body
        attributes = Attributes("text/x", {"a": "b"}, headers={"content-encoding": "gzip"})
        put = await store.put(
            bucket,
            "k",
            source,
            size_bytes=size_bytes,
            attributes=attributes,
            crc32c=lambda: crc32c(body),
        )
        assert put.etag == hashlib.md5(body, usedforsecurity=False).hexdigest()
        assert await read(store, bucket, "k") == body
        assert (await store.head(bucket, "k")).attributes == attributes

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_bytes_that_do_not_match_their_crc_are_refused(
        self, store: Store, bucket: str, streamed: bool
    ) -> None:
        body = b"x" * 2_000_000
        source = pieces(body[:99], body[99:]) if streamed else body
        with pytest.raises(IntegrityError):
            await store.put(bucket, "k", source, size_bytes=len(body), crc32c=lambda: 1)
        assert not await is_visible(store, bucket, "k")

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_a_part_is_proved_by_its_crc(
        self, store: Store, bucket: str, streamed: bool
    ) -> None:
        body = b"part" * 300_000
        upload_id = await store.start(bucket, "k")

        def send(crc: int) -> Awaitable[Part]:
            source = pieces(body[:100], body[100:]) if streamed else body
            how = {"size_bytes": len(body), "crc32c": lambda: crc}
            return store.part(bucket, "k", upload_id, 1, source, **how)  # type: ignore[arg-type]

        with pytest.raises(IntegrityError):
            await send(1)
        assert await store.parts(bucket, "k", upload_id) == ()
        part = await send(crc32c(body))
        assert part.etag == hashlib.md5(body, usedforsecurity=False).hexdigest()
        await store.complete(bucket, "k", upload_id, (part,))
        assert await read(store, bucket, "k") == body

    async def test_a_readers_own_error_passes_unchanged(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", BODY)
        with pytest.raises(OSError, match="disk full"):
            async with store.get(bucket, "k"):
                raise OSError("disk full")

    async def test_if_none_match_writes_only_where_there_is_nothing(
        self, store: Store, bucket: str
    ) -> None:
        await store.put(bucket, "k", b"one", if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await store.put(bucket, "k", b"two", if_none_match=True)
        await store.delete(bucket, "k")
        await store.put(bucket, "k", b"three", if_none_match=True)
        assert await read(store, bucket, "k") == b"three"

    async def test_if_match_writes_only_over_that_version(self, store: Store, bucket: str) -> None:
        one = await store.put(bucket, "k", b"one")
        two = await store.put(bucket, "k", b"two", if_match=one.etag)
        with pytest.raises(PreconditionFailed):
            await store.put(bucket, "k", b"three", if_match=one.etag)
        assert await read(store, bucket, "k") == b"two"
        with pytest.raises(PreconditionFailed):
            await store.put(bucket, "absent", b"three", if_match=two.etag)
        await store.delete(bucket, "k")
        with pytest.raises(PreconditionFailed):
            await store.put(bucket, "k", b"three", if_match=two.etag)

    async def test_of_many_conditional_writers_one_wins(self, store: Store, bucket: str) -> None:
        tried = await asyncio.gather(
            *(store.put(bucket, "k", bytes((number,)), if_none_match=True) for number in range(20)),
            return_exceptions=True,
        )
        lost = [error for error in tried if isinstance(error, PreconditionFailed)]
        assert len(lost) == 19
        assert len(await history(store, bucket)) == 1

    async def test_100_concurrent_puts_are_100_versions(self, store: Store, bucket: str) -> None:
        bodies = [f"body {number}".encode() for number in range(100)]
        put = await asyncio.gather(*(store.put(bucket, "k", body) for body in bodies))
        found = await history(store, bucket)
        assert {version.version_id for version in found} == {version.version_id for version in put}
        assert len(found) == 100
        assert [version.is_current for version in found] == [True] + [False] * 99
        for version, body in zip(put[::10], bodies[::10], strict=True):
            assert await read(store, bucket, "k", version_id=version.version_id) == body

    async def test_a_copy_has_the_bytes_and_the_attributes(self, store: Store, bucket: str) -> None:
        first = await store.put(bucket, "k", BODY, attributes=ATTRIBUTES)
        await store.put(bucket, "k", b"second")
        old = await store.copy(bucket, "old", source=(bucket, "k", first.version_id))
        await store.copy(bucket, "new", source=(bucket, "k", None))
        assert (old.etag, old.size_bytes) == (first.etag, len(BODY))
        assert await read(store, bucket, "old") == BODY
        assert await read(store, bucket, "new") == b"second"
        head = await store.head(bucket, "old")
        assert head.attributes is not None
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata
        assert dict(head.attributes.headers) == ATTRIBUTES.headers
        assert dict(await store.tags(bucket, "old")) == ATTRIBUTES.tags

    async def test_a_copy_can_have_other_attributes(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", BODY, attributes=ATTRIBUTES)
        other = Attributes(content_type="text/x", metadata={"m": "1"}, tags={"t": "2"})
        for key, tags in (("other", other), ("none", Attributes())):
            await store.copy(bucket, key, source=(bucket, "k", None), attributes=tags)
            head = await store.head(bucket, key)
            assert head.attributes == replace(tags, tags={}, tag_count=len(tags.tags))
            assert dict(await store.tags(bucket, key)) == tags.tags
            assert await read(store, bucket, key) == BODY

    async def test_a_copy_can_have_an_origin(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "k", BODY, attributes=ATTRIBUTES)
        newer, older = origin(mtime_ms=THEN_MS + 1), origin()
        for chosen in (newer, older, newer):  # again changes nothing
            copied = await store.copy(bucket, "to", source=(bucket, "k", None), origin=chosen)
            assert (copied.version_id, copied.mtime_ms) == (chosen.version_id, chosen.mtime_ms)
        found = await history(store, bucket, prefix="to")
        assert [(entry.version_id, entry.mtime_ms, entry.is_current) for entry in found] == [
            (newer.version_id, newer.mtime_ms, True),
            (older.version_id, older.mtime_ms, False),
        ]
        head = await store.head(bucket, "to", version_id=older.version_id)
        assert head.attributes is not None
        assert dict(head.attributes.metadata) == ATTRIBUTES.metadata
        tags = await store.tags(bucket, "to", version_id=older.version_id)
        assert dict(tags) == ATTRIBUTES.tags
        both = origin(mtime_ms=THEN_MS + 2)
        plain = Attributes(metadata={"m": "1"})
        source = (bucket, "to", older.version_id)
        await store.copy(bucket, "to", source=source, attributes=plain, origin=both)
        head = await store.head(bucket, "to")
        assert head.version_id == both.version_id
        assert head.attributes == plain

    async def test_a_copy_onto_itself_is_a_new_version(self, store: Store, bucket: str) -> None:
        first = await store.put(bucket, "k", BODY, attributes=ATTRIBUTES)
        with pytest.raises(InvalidInput):
            await store.copy(bucket, "k", source=(bucket, "k", None))
        plain = Attributes(metadata={"m": "1"})
        await store.copy(bucket, "k", source=(bucket, "k", None), attributes=plain)
        assert (await store.head(bucket, "k")).attributes == plain
        await store.copy(bucket, "k", source=(bucket, "k", first.version_id))
        assert dict(await store.tags(bucket, "k")) == ATTRIBUTES.tags
        assert len(await history(store, bucket)) == 3
        assert await read(store, bucket, "k") == BODY

    async def test_what_is_not_there_is_not_found(self, store: Store, bucket: str) -> None:
        await store.put(bucket, "there", BODY)
        absent_id = str(new_id())
        calls: tuple[Any, ...] = (
            lambda: store.head(bucket, "k"),
            lambda: read(store, bucket, "k"),
            lambda: store.tags(bucket, "k"),
            lambda: store.tag(bucket, "k", {"a": "b"}),
            lambda: store.tag(bucket, "k", {}),
            lambda: store.tag(bucket, "there", {"a": "b"}, version_id=absent_id),
            lambda: store.copy(bucket, "to", source=(bucket, "k", None)),
            lambda: store.head(bucket, "there", version_id=absent_id),
            lambda: read(store, bucket, "there", version_id=absent_id),
        )
        for call in calls:
            with pytest.raises(NotFound) as raised:
                await call()
            assert not isinstance(raised.value, BucketNotFound)

    async def test_a_missing_bucket_is_told_apart(self, store: Store) -> None:
        absent = f"absent-{new_id().hex}"
        calls: tuple[Any, ...] = (
            lambda: store.put(absent, "k", BODY),
            lambda: store.head(absent, "k"),
            lambda: read(store, absent, "k"),
            lambda: store.delete(absent, "k"),
            lambda: current(store, absent),
            lambda: history(store, absent),
            lambda: store.versioned(absent),
            lambda: store.tags(absent, "k"),
            lambda: store.tag(absent, "k", {"a": "b"}),
            lambda: store.tag(absent, "k", {}),
            lambda: store.lock(absent, "k"),
            lambda: store.retain(absent, "k", mode=None, until=None),
            lambda: store.hold(absent, "k", True),
            lambda: store.uploads(absent),
            lambda: store.uploads(absent, prefix="k"),
            lambda: store.drop(absent),
            lambda: store.start(absent, "k"),
        )
        for call in calls:
            with pytest.raises(BucketNotFound):
                await call()
