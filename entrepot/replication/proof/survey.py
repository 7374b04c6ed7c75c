"""The sites' keys as they are compared, in key order, from one listing of each.

As long as all sites tell the same, page by page, they share one tree; where they part, each goes on
with its own.

What the listing does not tell and the profile wants is asked for version by version: headers,
metadata, tags and locks where the endpoint has no listing with details, bytes at level ``CONTENT``.
A listing that fails or is out of order is an error, never a shorter listing.

Memory: of each site two pages of versions, one key's versions, and ``workers`` bodies of 1 MiB in
flight.
"""

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from entrepot.errors import (
    BucketNotFound,
    IntegrityError,
    NotFound,
    RetryableError,
)
from entrepot.replication.details import Details, ahead, closed, following, is_described
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

LOOK_SIZE: Final = 20
"""Entries of a page in which one key is looked up; few keys have more versions."""

READ_TRIES: Final = 3
"""How often a body is read from its start: a broken connection is not gone on with."""


Named = tuple[bytes, Fact]
"""A fact and the key that it is of, in UTF-8."""


class Key(NamedTuple):
    """One key of a site; ``name`` is its UTF-8 form."""

    name: bytes
    facts: Facts


@dataclass(slots=True)
class Whole:
    """Facts on their way to be keys: those of a key may lie on several pages."""

    profile: Profile
    site: str
    _all_count: bool = field(init=False)
    _name: bytes = b""
    _facts: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        self._all_count = self.profile.has_history

    def add(self, page: Sequence[Named]) -> list[Key]:
        """The keys that are whole with this page.

        Raises:
            IntegrityError: the listing is out of order.
        """
        done: list[Key] = []
        name, facts = self._name, self._facts
        for key, fact in page:
            if key == name:
                facts = *facts, fact
                continue
            if key < name:
                raise IntegrityError(
                    "the endpoint's listing is not in key order",
                    site=self.site,
                    key=key.decode("utf-8", "replace"),
                )
            if len(facts) == 1 and self._all_count:
                done.append(Key(name, facts))
            elif counted := in_order(facts, self.profile):
                done.append(Key(name, counted))
            name, facts = key, (fact,)
        self._name, self._facts = name, facts
        return done

    def rest(self) -> list[Key]:
        """The last key."""
        counted = in_order(self._facts, self.profile)
        return [Key(self._name, counted)] if counted else []


@dataclass(slots=True)
class _Survey:
    """Keys on their way into a tree."""

    whole: Whole
    tree: Tree

    def add(self, page: Sequence[Named]) -> None:
        self._grow(self.whole.add(page))

    def root(self) -> Root:
        self._grow(self.whole.rest())
        return self.tree.root()

    def _grow(self, keys: Sequence[Key]) -> None:
        for name, facts in keys:
            self.tree.add(name, digest_of(name, facts), versions=len(facts))


@dataclass(slots=True)
class Reader:
    """Reads the keys of one bucket at one site."""

    site: Site
    bucket: str
    profile: Profile
    workers: int
    details: Details = field(init=False)
    has_listed: bool = False

    def __post_init__(self) -> None:
        self.details = Details(self.site.store, self.bucket)

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
        whole = Whole(self.profile, self.site.name)
        async with aclosing(self.pages(prefix, page_size)) as pages:
            async for page in pages:
                yield whole.add(await self.facts(page))
        yield whole.rest()

    async def pages(self, prefix: str, page_size: int = PAGE_MAX) -> AsyncGenerator[Page, None]:
        """The listing that the profile needs."""
        details = not self.profile.is_listed
        listing = self.details.pages(prefix, page_size=page_size, details=details)
        async with aclosing(listing) as pages:
            async for page in pages:
                self.has_listed |= bool(page.tokens)
                yield page

    async def facts(self, page: Page) -> list[Named]:
        """What a page says, and what is asked for beside it; without what is gone by now."""
        if self.profile.is_listed:
            return self.listed(page)
        versions = page.versions
        await self.details.check(versions)
        return self.described(versions) if self.tells(versions) else await self._whole(versions)

    def listed(self, page: Page) -> list[Named]:
        """What a page says by itself."""
        usual = page.usual if self.profile.is_exact else None
        found: list[Named] = []
        for token in page.tokens:
            if usual and (fields := usual(token)):
                key, version_id, time_ms, size_bytes, etag, is_current = fields
                fact = Fact(version_id, time_ms, is_current, False, size_bytes, "etag:" + etag)
                found.append((key, fact))
            else:
                version = page.decode(token)
                found.append((_name(version), self._fact(version)))
        return found

    def tells(self, versions: Sequence[Version]) -> bool:
        """Whether these say all that the profile compares beyond a listing's own."""
        is_enough = self.profile.level is not Level.CONTENT and self.details.tells
        return is_enough and all(map(is_described, versions))

    def described(self, versions: Sequence[Version]) -> list[Named]:
        """What versions say that tell it all."""
        return [
            (_name(version), self._fact(_unmarked(version)))
            for version in versions
            if self.profile.counts(version)
        ]

    def _fact(self, version: Version, *, sha256: str = "") -> Fact:
        return fact_of(version, self.profile, sha256=sha256)

    async def _whole(self, versions: Sequence[Version]) -> list[Named]:
        """Facts of the versions, in order, without those that are gone by now."""
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
        return _unmarked(await self.details.of(version))

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

    async def check_empty(self, prefix: str) -> None:
        """Ask another way before nothing counts as nothing."""
        async for page in self.site.store.list(self.bucket, prefix=prefix, page_size=1):
            if page.tokens:
                raise IntegrityError(
                    "the endpoint lists objects and no versions",
                    hint="a listing that is empty by mistake proves nothing; try again",
                    site=self.site.name,
                    bucket=self.bucket,
                )


def _unmarked(version: Version) -> Version:
    """The version without the mark of a copy."""
    attributes = version.attributes or Attributes()
    bare = unmarked(attributes)
    return version if bare is attributes else replace(version, attributes=bare)


def _name(version: Version) -> bytes:
    return version.key.encode("utf-8", "surrogateescape")


async def survey(readers: Mapping[str, Reader], prefix: str = "") -> dict[str, Root]:
    """All keys under ``prefix`` at each of the sites, as trees.

    Raises:
        IntegrityError: a listing is out of order, or empty where another one is not.
    """
    async with AsyncExitStack() as stack:
        listings = []
        for reader in readers.values():
            pages = await stack.enter_async_context(aclosing(reader.pages(prefix)))
            listings.append(await stack.enter_async_context(aclosing(ahead(pages))))
        roots = await _surveyed(list(readers.values()), listings, prefix.encode())
    for reader in readers.values():
        if not reader.has_listed:
            await reader.check_empty(prefix)
    return dict(zip(readers, roots, strict=True))


async def _surveyed(
    readers: Sequence[Reader], listings: Sequence[AsyncGenerator[Page, None]], prefix: bytes
) -> list[Root]:
    profile = readers[0].profile
    common = _Survey(Whole(profile, readers[0].site.name), Tree(profile, prefix=prefix))
    while True:
        pages = await side_by_side(map(following, listings))
        told = await _told(readers, pages)
        if any(each != told[0] for each in told[1:]):
            break
        if told[0] is None:
            return [common.root()] * len(readers)
        common.add(told[0])

    async def go_on(
        reader: Reader, listing: AsyncGenerator[Page, None], page: list[Named] | None
    ) -> Root:
        own = deepcopy(common)
        own.whole.site = reader.site.name
        own.add(page or [])
        async for later in listing:
            own.add(await reader.facts(later))
        return own.root()

    return await side_by_side(map(go_on, readers, listings, told))


async def _told(
    readers: Sequence[Reader], pages: Sequence[Page | None]
) -> list[list[Named] | None]:
    """What each site's page says, once where they sent the same bytes and these say it all."""
    first = pages[0]
    if first and all(
        page and page.decode == first.decode and page.tokens == first.tokens for page in pages
    ):
        if readers[0].profile.is_listed:
            return [readers[0].listed(first)] * len(readers)
        versions = first.versions
        if all(reader.tells(versions) for reader in readers):
            return [readers[0].described(versions)] * len(readers)

    async def tell(reader: Reader, page: Page | None) -> list[Named] | None:
        return None if page is None else await reader.facts(page)

    return await side_by_side(map(tell, readers, pages))
