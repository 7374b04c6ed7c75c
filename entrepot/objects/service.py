"""The objects of one site: one verb each, as a client of S3 knows them.

Managed buckets go by the catalog, adopted ones by the store; a caller need not know which it has.
Rows that come back are of what the client sent: ``size_bytes`` and ``etag`` are the plaintext's.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Self
from uuid import UUID

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import Listed, ObjectRow, Usage
from entrepot.catalog.objects.read import (
    FIRST,
    get_version,
    list_objects,
    list_versions,
    recount_usage,
    usage_of,
)
from entrepot.catalog.objects.uploads import Upload, UploadPart, list_uploads
from entrepot.catalog.states import BucketMode
from entrepot.errors import (
    BucketNotFound,
    DeleteMarker,
    InvalidInput,
    NotFound,
    RetryableError,
    Unavailable,
    Unsupported,
)
from entrepot.objects import adopted, buckets, uploads, writes
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import Ground
from entrepot.objects.marks import check_attributes, from_json
from entrepot.objects.names import check_name
from entrepot.objects.peers import Peers
from entrepot.objects.reads import Opened, find, find_in_store, opened
from entrepot.objects.recover import Keeper
from entrepot.objects.removal import hold, remove_version, retain, set_tags
from entrepot.objects.writes import Wish
from entrepot.store.protocol import PAGE_MAX, LockMode, Source


class Objects:
    """All verbs. ``async with Objects.open(ground) as objects``.

    ``min_size_bytes`` is the least size of what is compressed; ``peers`` may serve what is not here
    yet, where a rule says so.
    """

    def __init__(
        self, ground: Ground, *, min_size_bytes: int = 1_000_000, peers: Peers | None = None
    ) -> None:
        self.ground = ground
        self._peers = peers
        self._min_size = min_size_bytes
        self._keeper = Keeper(ground)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, ground: Ground, *, min_size_bytes: int = 1_000_000, peers: Peers | None = None
    ) -> AsyncGenerator[Self, None]:
        """Start, end what others left, and keep our own writes alive until the end."""
        await ground.start()
        objects = cls(ground, min_size_bytes=min_size_bytes, peers=peers)
        async with objects._keeper:
            yield objects

    # --- Buckets ------------------------------------------------------------------------------

    async def create_bucket(
        self,
        name: str,
        *,
        tenant_id: str,
        encrypted: bool = False,
        compressed: bool = False,
        locked: bool = False,
    ) -> Bucket:
        """Make a managed bucket: versioned in the store, known to the catalog.

        ``locked`` gives it object lock. ``Unsupported`` where the site cannot keep versions and
        times that we choose, or locks. Created again by its owner, it is left as it is.
        """
        options = {"encrypted": encrypted, "compressed": compressed, "locked": locked}
        return await buckets.create(self.ground, name, tenant_id=tenant_id, **options)

    async def adopt_bucket(self, name: str, *, tenant_id: str) -> Bucket:
        """Look after a bucket that others write to as well."""
        return await buckets.adopt(self.ground, name, tenant_id=tenant_id)

    async def drop_bucket(self, name: str) -> None:
        """Remove an empty managed bucket, or look after an adopted one no longer.

        ``PreconditionFailed`` where versions remain, or uploads. Killed in the middle and called
        again it comes to the same end.
        """
        await buckets.drop(self.ground, name)

    async def usage(self, bucket: str, *, recount: bool = False) -> Usage:
        """What a managed bucket holds: as kept with each change, or counted anew."""
        found = await self._managed(bucket)
        count = recount_usage if recount else usage_of
        return await count(self.ground.catalog, bucket_id=found.id)

    # --- Writes -------------------------------------------------------------------------------

    async def put(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        size_bytes: int | None = None,
        wish: Wish | None = None,
    ) -> ObjectRow:
        """Write a new version of ``key``: visible whole, once this returns, or not at all.

        ``source`` is bytes, or pieces of any length; ``size_bytes`` where it is known. Raises
        ``PreconditionFailed`` or ``Busy`` where the wish has a condition.
        """
        wish = wish or Wish()
        check_name(key)
        check_attributes(wish.attributes)
        found = await self.ground.bucket(bucket)
        if found.mode is BucketMode.ADOPTED:
            return await adopted.put(
                self.ground, found, key, source, size_bytes=size_bytes, wish=wish
            )
        return await writes.put(
            self.ground,
            found,
            key,
            source,
            size_bytes=size_bytes,
            wish=wish,
            min_size=self._min_size,
        )

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        bypass: bool = False,
        wish: Wish | None = None,
    ) -> ObjectRow | None:
        """Without ``version_id``: add a delete marker, which is returned; with it: remove that.

        Removing what is not there is no error and gives None; what is locked is ``AccessDenied``,
        unless ``bypass`` may lift a retention in governance mode.
        """
        wish = wish or Wish()
        check_name(key)
        found = await self.ground.bucket(bucket)
        if found.mode is BucketMode.ADOPTED:
            return await adopted.delete(self.ground, found, key, version_id=version_id, wish=wish)
        if version_id is None:
            return await writes.put_marker(self.ground, found, key, wish=wish)
        if wish.condition:
            raise Unsupported("a version is removed without a condition")
        return await remove_version(
            self.ground, found, key, version_id, actor=wish.actor, bypass=bypass
        )

    async def tag(
        self,
        bucket: str,
        key: str,
        tags: Mapping[str, str],
        *,
        version_id: str | None = None,
        actor: str = "",
    ) -> ObjectRow:
        """Replace the tags of a version, of the current one by default."""
        check_name(key)
        found = await self._managed(bucket)
        row = await find(self.ground, found, key, version_id)
        return await set_tags(self.ground, found, key, row.version_id, tags, actor=actor)

    async def retain(
        self,
        bucket: str,
        key: str,
        *,
        mode: LockMode | None,
        until: datetime | None,
        version_id: str | None = None,
        bypass: bool = False,
        actor: str = "",
    ) -> ObjectRow:
        """Keep a version from being removed until then; both None ends that where it may end.

        ``AccessDenied`` where a retention would get weaker, ``Unsupported`` in a bucket that was
        made without object lock. ``bypass`` lifts one in governance mode.
        """
        check_name(key)
        found = await self._managed(bucket)
        row = await find(self.ground, found, key, version_id)
        return await retain(
            self.ground,
            found,
            key,
            row.version_id,
            mode=mode,
            until=until,
            bypass=bypass,
            actor=actor,
        )

    async def hold(
        self, bucket: str, key: str, *, on: bool, version_id: str | None = None, actor: str = ""
    ) -> ObjectRow:
        """Keep a version from being removed until this is called with ``on`` False."""
        check_name(key)
        found = await self._managed(bucket)
        row = await find(self.ground, found, key, version_id)
        return await hold(self.ground, found, key, row.version_id, on=on, actor=actor)

    async def copy(
        self,
        bucket: str,
        key: str,
        *,
        source: tuple[str, str, str | None],
        wish: Wish | None = None,
        condition: Condition | None = None,
    ) -> ObjectRow:
        """Copy (bucket, key, version id) to ``key``; attributes too, unless the wish has some.

        ``condition`` is about the source. The bytes pass through here: they are opened with the
        source's key and sealed for their new place.
        """
        opened = self.get(*source[:2], version_id=source[2], condition=condition)
        async with self.ground.streams, opened as body:  # each needs a second connection
            wish = wish or Wish(attributes=from_json(body.row.attributes))
            return await self.put(
                bucket, key, body.pieces, size_bytes=body.row.size_bytes, wish=wish
            )

    # --- Multipart uploads --------------------------------------------------------------------

    async def start_upload(self, bucket: str, key: str, *, wish: Wish | None = None) -> UUID:
        """Begin a multipart upload; its id is that of the version that it will be."""
        wish = wish or Wish()
        check_name(key)
        check_attributes(wish.attributes)
        return await uploads.start(self.ground, await self._managed(bucket), key, wish=wish)

    async def put_part(
        self,
        bucket: str,
        key: str,
        upload_id: UUID,
        *,
        number: int,
        source: Source,
        size_bytes: int | None = None,
        checksums: Mapping[str, str] | None = None,
    ) -> UploadPart:
        """Store a part; the last attempt at a number counts. A stream needs its size."""
        return await uploads.put_part(
            self.ground,
            await self._managed(bucket),
            key,
            upload_id,
            number=number,
            source=source,
            size_bytes=size_bytes,
            checksums=checksums,
        )

    async def parts(
        self, bucket: str, key: str, upload_id: UUID, *, after: int = 0, most: int = PAGE_MAX
    ) -> Sequence[UploadPart]:
        """A page of the parts of an upload, by number."""
        found = await self._managed(bucket)
        return await uploads.parts(self.ground, found, key, upload_id, after=after, most=most)

    async def uploads(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: tuple[str, UUID | None] = ("", None),
        most: int = PAGE_MAX,
    ) -> tuple[Upload, ...]:
        """A page of uploads under way, by key and id."""
        found = await self._managed(bucket)
        return await list_uploads(
            self.ground.catalog, bucket_id=found.id, prefix=prefix, after=after, most=most
        )

    async def complete_upload(
        self,
        bucket: str,
        key: str,
        upload_id: UUID,
        parts: Sequence[tuple[int, str]],
        *,
        condition: Condition | None = None,
        actor: str = "",
    ) -> ObjectRow:
        """Make an object of these parts (number, ETag); again gives the same version."""
        found = await self._managed(bucket)
        return await uploads.complete(
            self.ground, found, key, upload_id, parts, condition=condition, actor=actor
        )

    async def abort_upload(self, bucket: str, key: str, upload_id: UUID) -> None:
        """Drop an upload and its parts; ``NotFound`` where there is none."""
        await uploads.abort(self.ground, await self._managed(bucket), key, upload_id)

    # --- Reads --------------------------------------------------------------------------------

    @asynccontextmanager
    async def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        stop: int | None = None,
        condition: Condition | None = None,
    ) -> AsyncGenerator[Opened, None]:
        """Open an object, or plaintext ``start`` to before ``stop`` of it.

        What a peer served has its name in ``row.served_by``.
        """
        check_name(key)
        _, opening = await self._find(await self.ground.bucket(bucket), key, version_id)
        async with opening(start=start, stop=stop, condition=condition) as body:
            yield body

    async def head(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        condition: Condition | None = None,
    ) -> ObjectRow:
        """What ``get`` would open."""
        check_name(key)
        row, _ = await self._find(await self.ground.bucket(bucket), key, version_id)
        if condition:
            condition.check_read(row)
        return row

    async def _find(
        self, bucket: Bucket, key: str, version_id: str | None
    ) -> tuple[ObjectRow, Callable[..., AbstractAsyncContextManager[Opened]]]:
        """The row, and what opens it."""
        is_certain = True
        try:
            if bucket.mode is BucketMode.ADOPTED:
                row = await find_in_store(self.ground, bucket, key, version_id)
            else:
                row = await find(self.ground, bucket, key, version_id)
        except (BucketNotFound, DeleteMarker):
            raise
        except NotFound:
            where = self.ground, bucket, key, version_id
            if self._peers is None or (found := await self._peers.find(*where)) is None:
                raise
            return found.row, partial(self._peers.opened, self.ground, found)
        except RetryableError:
            if bucket.mode is BucketMode.ADOPTED:
                raise
            is_certain = False
            row = await find_in_store(self.ground, bucket, key, version_id)
        return row, partial(opened, self.ground, bucket, row, is_certain=is_certain)

    async def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        most: int = PAGE_MAX,
    ) -> tuple[Listed, ...]:
        """A page of live keys and common prefixes, at most ``most``; the next starts ``after``."""
        _check_most(most)
        found = await self.ground.bucket(bucket)
        how = {"prefix": prefix, "after": after, "delimiter": delimiter}
        if found.mode is BucketMode.ADOPTED:
            return await adopted.list_page(self.ground, found, most=most, **how)
        return await list_objects(self.ground.catalog, bucket_id=found.id, most=most, **how)

    async def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        after_version: str = "",
        most: int = PAGE_MAX,
    ) -> tuple[ObjectRow, ...]:
        """A page of versions and delete markers, by key, newest first within a key.

        The next page starts after the last row's key and version id.
        """
        _check_most(most)
        found = await self._managed(bucket)
        before = FIRST
        if after_version:
            last = await get_version(
                self.ground.catalog, bucket_id=found.id, key=after, version_id=after_version
            )
            if last is None:
                raise InvalidInput("no such version to go on after", version=after_version)
            before = last.stamp
        return await list_versions(
            self.ground.catalog,
            bucket_id=found.id,
            prefix=prefix,
            after=after,
            before=before,
            most=most,
        )

    async def walk(self, bucket: str, *, prefix: str = "") -> AsyncIterator[Listed]:
        """Every live key, page by page."""
        after = ""
        while page := await self.list(bucket, prefix=prefix, after=after):
            for entry in page:
                yield entry
            after = page[-1].key

    async def _managed(self, name: str) -> Bucket:
        found = await self.ground.bucket(name)
        if found.mode is BucketMode.ADOPTED:
            raise Unsupported(
                "the catalog does not hold the objects of an adopted bucket",
                hint="ask the store, or create a managed bucket",
                bucket=name,
            )
        return found

    async def settled(self, *, timeout_s: float = 5.0) -> None:
        """Wait for this process's writes to end; ``Unavailable`` where they do not in time."""
        deadline = self.ground.clock.monotonic() + timeout_s
        while self.ground.under_way:
            if self.ground.clock.monotonic() > deadline:
                raise Unavailable("writes are still under way", count=len(self.ground.under_way))
            await asyncio.sleep(0.02)


def _check_most(most: int) -> None:
    if not 1 <= most <= PAGE_MAX:
        raise InvalidInput(f"a page has 1 to {PAGE_MAX} entries", most=most)
