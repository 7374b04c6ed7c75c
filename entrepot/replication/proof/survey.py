"""One site's keys as they are compared, in key order, from one listing.

What the listing does not tell and the profile wants is asked for version by version: headers,
metadata, tags and locks where the endpoint has no listing with details, bytes at level ``CONTENT``.
A listing that fails or is out of order is an error, never a shorter listing.

Memory: one page of versions, one key's versions, and ``workers`` bodies of 1 MiB in flight.
"""

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from entrepot.errors import (
    BucketNotFound,
    IntegrityError,
    NotFound,
    RetryableError,
)
from entrepot.replication.details import Details, closed
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
from entrepot.store.protocol import PAGE_MAX, Attributes, Page, Version

REMEMBERED_MAX: Final = 5_000
"""Entries whose facts are remembered: sites in step send the same bytes, some pages apart."""

LOOK_SIZE: Final = 20
"""Entries of a page in which one key is looked up; few keys have more versions."""

READ_TRIES: Final = 3
"""How often a body is read from its start: a broken connection is not gone on with."""


Named = tuple[bytes, Fact]
"""A fact and the key that it is of, in UTF-8."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a site; ``name`` is its UTF-8 form."""

    name: bytes
    facts: Facts


class Memory:
    """What sites in step would work out twice; shared by the readers of one comparison, bounded.

    They send the same bytes for the same version, some pages apart.
    """

    def __init__(self) -> None:
        self._facts: dict[bytes, Named] = {}
        self._digests: dict[bytes, tuple[Facts, bytes]] = {}

    def fact(self, token: bytes, make: Callable[[], Named]) -> Named:
        """What a listing's entry says."""
        if (known := self._facts.get(token)) is None:
            known = self._facts[token] = make()
            if len(self._facts) > REMEMBERED_MAX:
                del self._facts[next(iter(self._facts))]
        return known

    def digest(self, key: Key) -> bytes:
        """The digest of a key's record."""
        if (known := self._digests.get(key.name)) is None or known[0] != key.facts:
            known = self._digests[key.name] = key.facts, digest_of(key.name, key.facts)
            if len(self._digests) > REMEMBERED_MAX:
                del self._digests[next(iter(self._digests))]
        return known[1]


@dataclass(slots=True)
class Reader:
    """Reads the keys of one bucket at one site."""

    site: Site
    bucket: str
    profile: Profile
    workers: int
    memory: Memory = field(default_factory=Memory)
    details: Details = field(init=False)
    listed: int = 0

    def __post_init__(self) -> None:
        self.details = Details(self.site, self.bucket)

    async def survey(self, prefix: str = "") -> Root:
        """All keys under ``prefix`` as one tree.

        Raises:
            IntegrityError: the listing is out of order, or empty where another one is not.
        """
        tree, self.listed = Tree(self.profile, prefix=prefix.encode()), 0
        async with aclosing(self._batches(prefix)) as batches:
            async for batch in batches:
                for key in batch:
                    tree.add(key.name, self.memory.digest(key), versions=len(key.facts))
        if not self.listed:
            await self._check_empty(prefix)
        return tree.root()

    async def look(self, name: bytes) -> Facts:
        """One key as it is now."""
        async with aclosing(self.keys(name.decode(), page_size=LOOK_SIZE)) as keys:
            async for key in keys:
                return key.facts if key.name == name else ()
        return ()

    async def versions_of(self, key: str) -> tuple[Version, ...]:
        """Every version of one key, newest first, with attributes and locks."""
        found: list[Version] = []
        pages = self.details.pages(key, page_size=LOOK_SIZE)
        async with aclosing(pages):
            async for page in pages:
                of_key = [version for version in page.versions if version.key == key]
                await self.details.check(of_key)
                for version in of_key:
                    found.append(await self._described(version))
                if page.versions and page.versions[-1].key != key:
                    break
        return tuple(found)

    async def keys(
        self, prefix: str = "", *, page_size: int = PAGE_MAX
    ) -> AsyncGenerator[Key, None]:
        """Every key under ``prefix`` that has facts, in order."""
        async with aclosing(self._batches(prefix, page_size)) as batches:
            async for batch in batches:
                for key in batch:
                    yield key

    async def _batches(
        self, prefix: str, page_size: int = PAGE_MAX
    ) -> AsyncGenerator[list[Key], None]:
        """The same, page by page: a key counts with the page in which the next one begins."""
        name, facts = b"", list[Fact]()
        async with aclosing(self._facts(prefix, page_size)) as pages:
            async for page in pages:
                done: list[Key] = []
                for key, fact in page:
                    if key == name:
                        facts.append(fact)
                        continue
                    self._end(name, facts, key, done)
                    name, facts = key, [fact]
                yield done
        last: list[Key] = []
        self._end(name, facts, name, last)
        yield last

    def _end(self, name: bytes, facts: Sequence[Fact], key: bytes, done: list[Key]) -> None:
        """Add a key whose facts are all there to those that are done; ``key`` is the next one."""
        if key < name:
            raise IntegrityError(
                "the endpoint's listing is not in key order",
                site=self.site.name,
                key=key.decode("utf-8", "replace"),
            )
        if counted := in_order(facts, self.profile):
            done.append(Key(name, counted))

    async def _facts(self, prefix: str, page_size: int) -> AsyncGenerator[list[Named], None]:
        is_listing = self.profile.level is Level.LISTING and not self.profile.tag_filter
        listing = self.details.pages(prefix, page_size=page_size, details=not is_listing)
        async with aclosing(listing) as pages:
            async for page in pages:
                self.listed += len(page.tokens)
                yield self._listed(page) if is_listing else await self._whole(page.versions)

    def _listed(self, page: Page) -> list[Named]:
        def decoded(token: bytes) -> Named:
            version = page.decode(token)
            return _name(version), self._fact(version)

        fact = self.memory.fact
        return [fact(token, partial(decoded, token)) for token in page.tokens]

    def _fact(self, version: Version, *, sha256: str = "") -> Fact:
        return fact_of(version, self.profile, sha256=sha256)

    async def _whole(self, versions: Sequence[Version]) -> list[Named]:
        """Facts of the versions, in order, without those that are gone by now."""
        await self.details.check(versions)
        found: list[Named | None] = [None] * len(versions)
        waiting = iter(enumerate(versions))

        async def work() -> None:
            for number, version in waiting:
                try:
                    if fact := await self._complete(version):
                        found[number] = _name(version), fact
                except BucketNotFound:
                    raise
                except NotFound:
                    continue

        await side_by_side(work() for _ in range(min(self.workers, len(versions))))
        return [named for named in found if named is not None]

    async def _complete(self, version: Version) -> Fact | None:
        is_asked = self.profile.has_history or version.is_current or self.profile.tag_filter
        if is_asked:
            version = await self._described(version)
        if not self.profile.counts(version):
            return None
        if version.is_delete_marker or not is_asked:
            return self._fact(version)
        if is_sampled(version, self.profile):
            return self._fact(version, sha256=await self.sha256(version))
        return self._fact(version)

    async def _described(self, version: Version) -> Version:
        """The version with its attributes and lock, without the mark of a copy."""
        if version.is_delete_marker:
            return version
        version = await self.details.of(version)
        return replace(version, attributes=unmarked(version.attributes or Attributes()))

    async def sha256(self, version: Version) -> str:
        """SHA-256 of the stored bytes, read now; again where the connection breaks."""
        for _ in range(READ_TRIES - 1):
            with suppress(RetryableError):
                return await self._read(version)
        return await self._read(version)

    async def sha256_of(self, name: bytes, fact: Fact) -> str:
        """The same of a version that is known as a fact; "" where it is gone."""
        listing = self.site.store.versions(self.bucket, prefix=name.decode())
        async with aclosing(closed(listing)) as pages:
            async for page in pages:
                for version in page.versions:
                    is_it = self._fact(version).version_id == fact.version_id
                    if is_it and version.key.encode() == name and await self._is_shown(version):
                        return await self._sha256_if_there(version)
                if page.versions and page.versions[-1].key.encode() != name:
                    break
        return ""

    async def _is_shown(self, version: Version) -> bool:
        """Whether a key's only fact may be of this version, or it has more than one."""
        if self.profile.tag_filter:
            return await self._complete(version) is not None
        return self.profile.is_exact or version.is_current

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


def _name(version: Version) -> bytes:
    return version.key.encode("utf-8", "surrogateescape")
