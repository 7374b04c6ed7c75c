"""Attributes, tags and locks of versions, from a listing that tells them or asked for one by one.

A listing leaves out tags that its reader may not see, without a word; so of the first version they
are asked for by themselves, and where they are others, of every one.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from entrepot.errors import BucketNotFound, InvalidInput, NotFound, Unsupported
from entrepot.store.protocol import PAGE_MAX, Attributes, Lock, Page, Store, Version


@dataclass(slots=True)
class Details:
    """What one store tells of the versions of one bucket."""

    store: Store
    bucket: str
    _has_details: bool | None = None
    _has_locks: bool | None = None

    async def pages(
        self, prefix: str = "", *, after: str = "", page_size: int = PAGE_MAX, details: bool = True
    ) -> AsyncGenerator[Page, None]:
        """Pages of the listing; one with details only where the endpoint takes the request."""
        details = details and self._has_details is not False
        ask = partial(
            self.store.versions, self.bucket, prefix=prefix, after=after, page_size=page_size
        )
        listing = ask(details=details)
        try:
            first = await anext(listing, None)
        except (InvalidInput, Unsupported):
            if not details:
                raise
            self._has_details = False
            listing = ask()
            first = await anext(listing, None)
        if first is not None:
            yield first
        async for page in closed(listing):
            yield page

    async def check(self, versions: Sequence[Version]) -> None:
        """Make sure once that tags are not hidden; ``versions`` as they were listed."""
        for version in versions:
            if version.attributes is not None and self._has_details is None:
                of = {"version_id": version.version_id}
                try:
                    tags = await self.store.tags(self.bucket, version.key, **of)
                except BucketNotFound:
                    raise
                except NotFound:
                    continue
                self._has_details = tags == version.attributes.tags
                return

    @property
    def tells(self) -> bool:
        """Whether it is known that the listing tells all."""
        return self._has_details is True

    async def of(self, version: Version) -> Version:
        """The version with its attributes and lock; ``NotFound`` where it is gone by now."""
        if version.is_delete_marker or (self.tells and is_described(version)):
            return version
        return await self._asked(version)

    async def tags(self, version: Version) -> Mapping[str, str]:
        """The tags of an object alone; ``NotFound`` where it is gone by now."""
        if version.attributes is not None and self.tells:
            return version.attributes.tags
        of = {"version_id": version.version_id}
        return await self.store.tags(self.bucket, version.key, **of)

    async def _asked(self, version: Version) -> Version:
        store, of = self.store, {"version_id": version.version_id}
        head = await store.head(self.bucket, version.key, **of)
        attributes, lock = head.attributes or Attributes(), Lock()
        if attributes.tag_count:
            tags = await store.tags(self.bucket, version.key, **of)
            attributes = replace(attributes, tags=tags)
        if self._has_locks is not False:
            try:
                lock = await store.lock(self.bucket, version.key, **of)
                self._has_locks = True
            except Unsupported:
                if self._has_locks:
                    raise
                self._has_locks = False
        return replace(version, attributes=attributes, lock=lock)


def is_described(version: Version) -> bool:
    """Whether its listing told all there is; of a delete marker that is nothing."""
    told = version.attributes is not None and version.lock is not None
    return told or version.is_delete_marker


async def closed(listing: AsyncIterator[Page]) -> AsyncGenerator[Page, None]:
    """The rest of a listing, which is closed however that ends."""
    try:
        async for page in listing:
            yield page
    finally:
        if isinstance(listing, AsyncGenerator):
            await listing.aclose()


async def ahead(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    """The same pages, each asked for while the one before it is looked at."""
    coming = asyncio.create_task(following(pages))
    try:
        while (page := await coming) is not None:
            coming = asyncio.create_task(following(pages))
            yield page
    finally:
        # A listing cannot be closed while it is being read; how that read ends, nobody asks.
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def following(pages: AsyncGenerator[Page, None]) -> Page | None:
    """The next page, or that there is none."""
    return await anext(pages, None)
