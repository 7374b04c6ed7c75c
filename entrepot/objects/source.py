"""A bucket as a source of backups: what the catalog knows of it, or where it is adopted, the store.

Invariant: what a managed bucket gives is what its clients sent, decoded, with all that only the
catalog knows beside it; what an adopted one gives is what its store lists.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.objects.read import FIRST, get_version, list_versions
from entrepot.catalog.states import BucketMode
from entrepot.errors import NotFound, Unsupported
from entrepot.objects.ground import Ground
from entrepot.objects.marks import from_json
from entrepot.objects.reads import opened
from entrepot.objects.removal import lock_in
from entrepot.store.protocol import PAGE_MAX, Attributes, Lock, Version
from entrepot.store.settings import Setting
from entrepot.vault.snapshots import Entry, EntryLock
from entrepot.vault.source import Source, disjoint

_TOLD = ("type", "metadata", "headers", "tags", "lock")
"""Of a row's attributes, what an entry has a field for."""


async def bucket_source(ground: Ground, name: str, *, prefixes: tuple[str, ...] = ()) -> Source:
    """A bucket of the site, or what of it starts with one of ``prefixes``."""
    bucket = await ground.bucket(name)
    kind = Adopted if bucket.mode is BucketMode.ADOPTED else Managed
    return kind(ground, bucket, disjoint(prefixes))


class _BucketSource:
    """What both have in common."""

    kind = "bucket"

    def __init__(self, ground: Ground, bucket: Bucket, prefixes: tuple[str, ...]) -> None:
        self._ground, self._bucket = ground, bucket
        self.site, self.name, self.tenant = ground.site, bucket.name, bucket.tenant_id
        self.prefixes = prefixes

    async def settings(self) -> Mapping[str, str]:
        """Its documents in the store, and how it was made."""
        found = {
            "mode": self._bucket.mode.value,
            "encrypted": str(self._bucket.encrypted).lower(),
            "compressed": str(self._bucket.compressed).lower(),
            "locked": str(self._bucket.locked).lower(),
        }
        for setting in Setting:
            try:
                document = await self._ground.store.setting(self.name, setting)
            except Unsupported:
                continue
            found |= {setting.value: document} if document else {}
        return found


class Managed(_BucketSource):
    """A bucket whose catalog decides."""

    async def entries(self) -> AsyncIterator[Entry]:
        """Every row, page by page."""
        for prefix in self.prefixes or ("",):
            after, before = "", FIRST
            while page := await list_versions(
                self._ground.catalog,
                bucket_id=self._bucket.id,
                prefix=prefix,
                after=after,
                before=before,
                most=PAGE_MAX,
            ):
                for row in page:
                    yield entry_of_row(row)
                after, before = page[-1].key, page[-1].stamp

    @asynccontextmanager
    async def open(self, entry: Entry) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The plaintext of a version."""
        row = await get_version(
            self._ground.catalog,
            bucket_id=self._bucket.id,
            key=entry.key,
            version_id=entry.version_id,
        )
        if row is None:
            raise NotFound("the version is gone", key=entry.key, version=entry.version_id)
        async with opened(self._ground, self._bucket, row) as body:
            yield body.pieces


class Adopted(_BucketSource):
    """A bucket whose store decides."""

    async def entries(self) -> AsyncIterator[Entry]:
        """Every version that the store lists, with its details."""
        for prefix in self.prefixes or ("",):
            listing = self._ground.store.versions(self.name, prefix=prefix, details=True)
            async for page in listing:
                for version in page.versions:
                    yield await self._entry(version)

    async def _entry(self, version: Version) -> Entry:
        """With what the listing of most endpoints does not tell asked for."""
        if version.is_delete_marker or version.attributes is not None:
            return entry_of_version(version)
        store, place = self._ground.store, (self.name, version.key)
        found = await store.head(*place, version_id=version.version_id)
        attributes = found.attributes or Attributes()
        tags: Mapping[str, str] = {}
        if attributes.tag_count:
            tags = await store.tags(*place, version_id=version.version_id)
        return entry_of_version(version, attributes, tags)

    @asynccontextmanager
    async def open(self, entry: Entry) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The bytes of a version."""
        async with self._ground.store.get(
            self.name, entry.key, version_id=entry.version_id
        ) as body:
            yield aiter(body)


def entry_of_row(row: ObjectRow) -> Entry:
    """A row of the catalog, with what only it knows beside."""
    attributes = from_json(row.attributes)
    known = {
        "stamp": str(row.stamp),
        "write": str(row.write_id),
        "parent": str(row.parent) if row.parent else "",
        "quarantined": row.is_quarantined,
        "attributes": {n: v for n, v in row.attributes.items() if n not in _TOLD},
    }
    return Entry(
        key=row.key,
        version_id=row.version_id,
        mtime_ms=row.stamp.time_ms,
        size_bytes=row.size_bytes,
        etag=row.etag,
        is_delete_marker=row.is_delete_marker,
        content_type=attributes.content_type,
        metadata=attributes.metadata,
        headers=attributes.headers,
        tags=attributes.tags,
        lock=_lock(lock_in(row.attributes)),
        extra={name: value for name, value in known.items() if value},
    )


def entry_of_version(
    version: Version,
    attributes: Attributes | None = None,
    tags: Mapping[str, str] | None = None,
) -> Entry:
    """A version that the store told of; ``attributes`` and ``tags`` where it did so apart."""
    attributes = attributes or version.attributes or Attributes()
    return Entry(
        key=version.key,
        version_id=version.version_id,
        mtime_ms=version.mtime_ms,
        size_bytes=version.size_bytes,
        etag=version.etag,
        is_delete_marker=version.is_delete_marker,
        content_type="" if version.is_delete_marker else attributes.content_type,
        metadata=attributes.metadata,
        headers=attributes.headers,
        tags=tags if tags is not None else attributes.tags,
        lock=_lock(version.lock or Lock()),
    )


def _lock(lock: Lock) -> EntryLock:
    until_s = int(lock.until.timestamp()) if lock.until else 0
    return EntryLock(lock.mode.value if lock.mode else "", until_s, lock.hold)
