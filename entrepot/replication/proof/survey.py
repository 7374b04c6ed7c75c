"""One site's keys as they are compared, in key order, from one listing.

What the listing does not tell and the profile wants is asked for version by version: headers,
metadata, tags and locks where the endpoint has no listing with details, bytes at level ``CONTENT``.
A listing that fails or is out of order is an error, never a shorter listing.

Memory: one page of versions, one key's versions, and ``workers`` bodies of 1 MiB in flight.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from entrepot.errors import (
    BucketNotFound,
    IntegrityError,
    InvalidInput,
    NotFound,
    RetryableError,
    Unsupported,
)
from entrepot.replication.origins import unmarked
from entrepot.replication.proof.record import (
    Fact,
    Facts,
    Level,
    Profile,
    digest_of,
    fact_of,
    in_order,
    is_sampled,
)
from entrepot.replication.proof.tree import Root, Tree
from entrepot.replication.sites import Site
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import PAGE_MAX, Attributes, Lock, Page, Version

REMEMBERED_MAX: Final = 5_000
"""Entries whose facts are remembered: sites in step send the same bytes, some pages apart."""

LOOK_SIZE: Final = 20
"""Entries of a page in which one key is looked up; few keys have more versions."""

READ_TRIES: Final = 3
"""How often a body is read from its start: a broken connection is not gone on with."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a site; ``name`` is its UTF-8 form."""

    name: bytes
    facts: Facts

    @property
    def digest(self) -> bytes:
        """The digest of its record."""
        return digest_of(self.name, self.facts)


@dataclass(slots=True)
class Reader:
    """Reads the keys of one bucket at one site.

    ``remembered`` may be shared by readers of one profile; it is bounded.
    """

    site: Site
    bucket: str
    profile: Profile
    workers: int
    remembered: dict[bytes, tuple[bytes, Fact]] = field(default_factory=dict)
    _has_details: bool | None = None
    _has_locks: bool | None = None

    async def survey(self, prefix: str = "") -> Root:
        """All keys under ``prefix`` as one tree.

        Raises:
            IntegrityError: the listing is out of order, or empty where another one is not.
        """
        tree = Tree(self.profile, prefix=prefix.encode())
        async with aclosing(self.keys(prefix)) as keys:
            async for key in keys:
                tree.add(key.name, key.digest, versions=len(key.facts))
        if not tree.keys:
            await self._check_empty(prefix)
        return tree.root()

    async def look(self, name: bytes) -> Facts:
        """One key as it is now."""
        async with aclosing(self.keys(name.decode(), page_size=LOOK_SIZE)) as keys:
            async for key in keys:
                return key.facts if key.name == name else ()
        return ()

    async def keys(
        self, prefix: str = "", *, page_size: int = PAGE_MAX
    ) -> AsyncGenerator[Key, None]:
        """Every key under ``prefix`` that has facts, in order."""
        name, facts = b"", list[Fact]()
        async with aclosing(self._facts(prefix, page_size)) as found:
            async for key, fact in found:
                if key != name:
                    if key < name:
                        raise IntegrityError(
                            "the endpoint's listing is not in key order",
                            site=self.site.name,
                            key=key.decode("utf-8", "replace"),
                        )
                    if counted := in_order(facts, self.profile):
                        yield Key(name, counted)
                    name, facts = key, []
                facts.append(fact)
        if counted := in_order(facts, self.profile):
            yield Key(name, counted)

    async def _facts(self, prefix: str, page_size: int) -> AsyncGenerator[tuple[bytes, Fact], None]:
        is_listing = self.profile.level is Level.LISTING
        async with aclosing(self._pages(prefix, page_size, details=not is_listing)) as pages:
            async for page in pages:
                if is_listing:
                    for pair in self._listed(page):
                        yield pair
                    continue
                for version in await self._whole(page.versions):
                    if version is not None:
                        yield version

    async def _pages(
        self, prefix: str, page_size: int, *, details: bool
    ) -> AsyncGenerator[Page, None]:
        """Pages of the listing; one with details only where the endpoint takes the request."""
        details = details and self._has_details is not False
        ask = partial(self.site.store.versions, self.bucket, prefix=prefix, page_size=page_size)
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
        async for page in _closed(listing):
            yield page

    def _listed(self, page: Page) -> Iterator[tuple[bytes, Fact]]:
        known = self.remembered
        for token in page.tokens:
            if (pair := known.get(token)) is None:
                version = page.decode(token)
                pair = version.key.encode("utf-8", "surrogateescape"), self._fact(version)
                if len(known) >= REMEMBERED_MAX:
                    del known[next(iter(known))]
                known[token] = pair
            yield pair

    def _fact(self, version: Version, *, sha256: str = "") -> Fact:
        return fact_of(version, self.profile, sha256=sha256)

    async def _whole(self, versions: Sequence[Version]) -> list[tuple[bytes, Fact] | None]:
        """Facts of the versions, in order; ``None`` for one that is gone by now."""
        await self._check_details(versions)
        found: list[tuple[bytes, Fact] | None] = [None] * len(versions)
        waiting = iter(enumerate(versions))

        async def work() -> None:
            for number, version in waiting:
                try:
                    fact = await self._complete(version)
                except BucketNotFound:
                    raise
                except NotFound:
                    continue
                found[number] = version.key.encode("utf-8", "surrogateescape"), fact

        await side_by_side(work() for _ in range(min(self.workers, len(versions))))
        return found

    async def _check_details(self, versions: Sequence[Version]) -> None:
        """Make sure once that tags are not hidden: such a listing leaves them out silently."""
        for version in versions:
            if version.attributes is not None and self._has_details is None:
                of = {"version_id": version.version_id}
                try:
                    tags = await self.site.store.tags(self.bucket, version.key, **of)
                except BucketNotFound:
                    raise
                except NotFound:
                    continue
                self._has_details = tags == version.attributes.tags
                return

    async def _complete(self, version: Version) -> Fact:
        counts = self.profile.has_history or version.is_current
        if version.is_delete_marker or not counts:
            return self._fact(version)
        if version.attributes is None or version.lock is None or not self._has_details:
            version = await self._asked(version)
        attributes = unmarked(version.attributes or Attributes())
        version = replace(version, attributes=attributes)
        if is_sampled(version, self.profile):
            return self._fact(version, sha256=await self.sha256(version))
        return self._fact(version)

    async def _asked(self, version: Version) -> Version:
        store, of = self.site.store, {"version_id": version.version_id}
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

    async def sha256(self, version: Version) -> str:
        """SHA-256 of the stored bytes, read now; again where the connection breaks."""
        for _ in range(READ_TRIES - 1):
            with suppress(RetryableError):
                return await self._read(version)
        return await self._read(version)

    async def sha256_of(self, name: bytes, fact: Fact) -> str:
        """The same of a version that is known as a fact; "" where it is gone."""
        listing = self.site.store.versions(self.bucket, prefix=name.decode())
        async with aclosing(_closed(listing)) as pages:
            async for page in pages:
                for version in page.versions:
                    counts = self.profile.is_exact or version.is_current
                    is_it = self._fact(version).version_id == fact.version_id and counts
                    if is_it and version.key.encode() == name:
                        return await self._sha256_if_there(version)
                if page.versions and page.versions[-1].key.encode() != name:
                    break
        return ""

    async def _sha256_if_there(self, version: Version) -> str:
        try:
            return await self.sha256(version)
        except BucketNotFound:
            raise
        except NotFound:
            return ""

    async def _read(self, version: Version) -> str:
        digest, size_bytes = hashlib.sha256(), 0
        opened = self.site.store.get(self.bucket, version.key, version_id=version.version_id)
        async with opened as body:
            async for piece in body:
                digest.update(piece)
                size_bytes += len(piece)
        if size_bytes != version.size_bytes:
            raise IntegrityError(
                "an object is not as long as it is listed",
                site=self.site.name,
                key=version.key,
                listed=version.size_bytes,
                read=size_bytes,
            )
        return digest.hexdigest()

    async def _check_empty(self, prefix: str) -> None:
        """Ask another way before nothing counts as nothing."""
        async for page in self.site.store.list(self.bucket, prefix=prefix, page_size=1):
            if page.tokens:
                raise IntegrityError(
                    "the endpoint lists objects and no versions",
                    hint="a listing that is empty by mistake proves nothing; try again",
                    site=self.site.name,
                    bucket=self.bucket,
                )


async def _closed(listing: AsyncIterator[Page]) -> AsyncGenerator[Page, None]:
    try:
        async for page in listing:
            yield page
    finally:
        if isinstance(listing, AsyncGenerator):
            await listing.aclose()
