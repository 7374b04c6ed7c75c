"""A bucket that is restored into: new versions and delete markers, each over what was planned for.

Invariant: nothing is removed, and a key that was written meanwhile is not written. In a managed
bucket the catalog holds that: the commit itself asks. In an adopted one the endpoint does for
objects, where it has conditional writes; a delete marker, and any write without them, follows a
look, and what comes between the two is covered by the new version, not lost.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from entrepot.catalog.objects.read import get_version
from entrepot.catalog.states import BucketMode
from entrepot.errors import BucketNotFound, NotFound, PreconditionFailed, Unsupported
from entrepot.objects.bodies import PUT_MAX_BYTES
from entrepot.objects.conditions import Condition
from entrepot.objects.service import Objects
from entrepot.objects.source import Adopted, Managed, entry_of_row, entry_of_version
from entrepot.objects.writes import Wish
from entrepot.store.marks import without_marks
from entrepot.store.protocol import Attributes, Capability
from entrepot.vault.snapshots import Entry
from entrepot.vault.source import disjoint
from entrepot.vault.target import Target

ACTOR: Final = "restore"


async def bucket_target(objects: Objects, name: str, *, prefixes: tuple[str, ...] = ()) -> Target:
    """A bucket of the site, or what of it starts with one of ``prefixes``."""
    bucket = await objects.ground.bucket(name)
    prefixes = disjoint(prefixes)
    if bucket.mode is BucketMode.ADOPTED:
        if not await objects.ground.store.versioned(name):
            raise Unsupported(
                "the bucket keeps no versions, so a restore could not be undone",
                hint=f"switch versioning on first: mc version enable SITE/{name}",
                bucket=name,
            )
        return AdoptedTarget(objects, Adopted(objects.ground, bucket, prefixes))
    return ManagedTarget(objects, Managed(objects.ground, bucket, prefixes))


class _BucketTarget:
    """What both have in common."""

    def __init__(self, objects: Objects, source: Managed | Adopted) -> None:
        self._objects, self._source = objects, source
        self.kind, self.site, self.name = source.kind, source.site, source.name
        self.tenant, self.prefixes = source.tenant, source.prefixes
        self.entries, self.settings = source.entries, source.settings

    @asynccontextmanager
    async def open(self, entry: Entry) -> AsyncGenerator[AsyncIterator[bytes], None]:
        # Whoever reads here writes as well, which needs a second connection.
        async with self._objects.ground.streams, self._source.open(entry) as pieces:
            yield pieces

    async def _put(
        self, wished: Entry, pieces: AsyncIterator[bytes], *, condition: Condition
    ) -> Entry:
        said = wished.content_type, wished.metadata, wished.headers, wished.tags
        attributes = without_marks(Attributes(*said, tag_count=len(wished.tags)))
        wish = Wish(attributes, condition, actor=ACTOR)
        source = b"" if not wished.size_bytes else pieces
        try:
            row = await self._objects.put(
                self.name, wished.key, source, size_bytes=wished.size_bytes, wish=wish
            )
        except BucketNotFound:
            raise
        except NotFound as error:  # what was to be replaced is gone
            raise PreconditionFailed(error.message, key=wished.key) from error
        return entry_of_row(row)


def _condition(over: Entry | None) -> Condition:
    if over is None or over.is_delete_marker:
        return Condition(if_none_match=("*",))
    return Condition(if_match=(over.etag,))


class ManagedTarget(_BucketTarget):
    """A bucket whose catalog decides."""

    async def look(self, key: str) -> Entry | None:
        bucket = await self._objects.ground.bucket(self.name)
        row = await self._objects.ground.lookups.submit((bucket.id, key))
        return entry_of_row(row) if row else None

    async def version(self, key: str, version_id: str) -> Entry | None:
        ground = self._objects.ground
        bucket = await ground.bucket(self.name)
        row = await get_version(ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id)
        return entry_of_row(row) if row else None

    async def put(
        self, wished: Entry, pieces: AsyncIterator[bytes], *, over: Entry | None
    ) -> Entry:
        return await self._put(wished, pieces, condition=_condition(over))

    async def hide(self, key: str, *, over: Entry) -> Entry:
        wish = Wish(condition=_condition(over), actor=ACTOR)
        try:
            row = await self._objects.delete(self.name, key, wish=wish)
        except BucketNotFound:
            raise
        except NotFound as error:
            raise PreconditionFailed(error.message, key=key) from error
        assert row is not None
        return entry_of_row(row)


class AdoptedTarget(_BucketTarget):
    """A bucket whose store decides."""

    async def _check(self, key: str, over: Entry | None) -> None:
        now = await self.look(key)
        if (now.version_id if now else "") != (over.version_id if over else ""):
            raise PreconditionFailed("the key was written since", key=key)

    async def look(self, key: str) -> Entry | None:
        try:
            return await self._entry(key, None)
        except NotFound:
            return await self._marker(key)

    async def _marker(self, key: str) -> Entry | None:
        """The delete marker that a key has; how it is told of by a read differs by endpoint."""
        store = self._objects.ground.store
        async for page in store.versions(self.name, prefix=key, page_size=1):
            for version in page.versions[:1]:
                if version.key == key and version.is_delete_marker:
                    return Entry(key, version.version_id, version.mtime_ms, is_delete_marker=True)
            break
        return None

    async def version(self, key: str, version_id: str) -> Entry | None:
        try:
            return await self._entry(key, version_id)
        except NotFound:
            return None

    async def _entry(self, key: str, version_id: str | None) -> Entry:
        store = self._objects.ground.store
        found = await store.head(self.name, key, version_id=version_id)
        tags: Mapping[str, str] = {}
        if found.attributes and found.attributes.tag_count:
            tags = await store.tags(self.name, key, version_id=found.version_id)
        return entry_of_version(found, tags=tags)

    async def put(
        self, wished: Entry, pieces: AsyncIterator[bytes], *, over: Entry | None
    ) -> Entry:
        if wished.size_bytes > PUT_MAX_BYTES:
            raise Unsupported(
                "an object of more than 5 GiB does not come back into an adopted bucket",
                hint="entrepot restore file, and upload it in parts",
                key=wished.key,
            )
        if Capability.CONDITIONAL_WRITE in self._objects.ground.capabilities:
            return await self._put(wished, pieces, condition=_condition(over))
        await self._check(wished.key, over)
        return await self._put(wished, pieces, condition=Condition())

    async def hide(self, key: str, *, over: Entry) -> Entry:
        await self._check(key, over)
        row = await self._objects.delete(self.name, key, wish=Wish(actor=ACTOR))
        if row is None:
            raise Unsupported("the endpoint made no delete marker", bucket=self.name, key=key)
        return entry_of_row(row)
