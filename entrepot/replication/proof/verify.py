"""Sites held against each other: digests first, then what differs, exactly, and once more.

    survey all sites → equal roots: identical
                     → else the places where trees differ → their keys side by side
                       → those that differ are looked at again → what still does is a difference

Invariant: the answer does not depend on the order in which sites are given, and "identical" needs a
whole listing of every site, or an equal second look at each key that differed in the first.

Two listings are not one instant. A key counts as different when it stayed as it was between two
looks, and as *moving* when it did not. Beyond ``KEPT_MAX`` differing keys there is no third look:
a survey and a listing have shown each of them.

Memory: what ``survey`` and ``tree`` state for each site, and ``KEPT_MAX`` keys.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Final

from entrepot.errors import InvalidInput
from entrepot.replication.apply import md5_of
from entrepot.replication.proof.compare import Difference, Kind, differences
from entrepot.replication.proof.drill import Place, places
from entrepot.replication.proof.record import SAMPLE_ALL, Aspect, Fact, Facts, Level, Profile
from entrepot.replication.proof.survey import Key, Reader, survey
from entrepot.replication.proof.tree import Root
from entrepot.replication.sites import Site, check_bucket
from entrepot.replication.workers import side_by_side

KEPT_MAX: Final = 1000
"""Differing keys that are kept, looked at again and told apart; the others are counted."""

LOOKS: Final = 3
"""Looks at a key that differs, before it is given up as moving."""

ROUNDS: Final = 2
"""Surveys, where everything that differed in the first turned out to be moving."""

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Count:
    """What one site holds, as surveyed; ``digest`` in hexadecimal."""

    keys: int
    versions: int
    digest: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a comparison of some sites came to.

    ``digest`` is the one that all sites have, ``None`` where a survey found several (also where
    what differed then was found equal later). ``differing`` counts keys, of which ``differences``
    tells some; ``by_content`` keys are equal though their ETags are not.
    """

    profile: str
    sites: Mapping[str, Count]
    digest: str | None
    differing: int = 0
    differences: tuple[Difference, ...] = ()
    moving: tuple[str, ...] = ()
    by_content: int = 0

    @property
    def is_identical(self) -> bool:
        """Whether nothing differs and nothing moves."""
        return not self.differing and not self.moving

    @property
    def keys(self) -> int:
        """Keys at the fullest site."""
        return max(count.keys for count in self.sites.values())

    @property
    def versions(self) -> int:
        """Versions and delete markers at the fullest site."""
        return max(count.versions for count in self.sites.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """How to compare; ``settle_s`` is the wait before a key that differs is looked at again."""

    profile: Profile
    workers: int = 16
    settle_s: float = 2.0
    sleep: Sleep = field(default=asyncio.sleep)


def profiles(
    sites: Sequence[Site],
    *,
    level: Level,
    aspects: frozenset[Aspect] = frozenset(Aspect),
    sample: int = SAMPLE_ALL,
    tag_filter: Mapping[str, str] = MappingProxyType({}),
) -> list[tuple[tuple[Site, ...], Profile]]:
    """Which sites are compared how.

    Those that keep version ids and times are compared exactly. Where one mints its own, all are
    also compared loosely: the current version of each key, without id, time and history.
    """
    exact = tuple(site for site in sites if site.keeps_origin)
    pairs = tuple(sorted(tag_filter.items()))
    wanted = Profile(level=level, aspects=aspects, sample=sample, tag_filter=pairs)
    found = [(exact, wanted)] if len(exact) > 1 else []
    if len(exact) < len(sites):
        found.append((tuple(sites), replace(wanted, is_exact=False)))
    return found


async def verify(
    sites: Sequence[Site], bucket: str, *, prefix: str = "", comparison: Comparison
) -> Proof:
    """Compare one bucket of the sites under ``prefix``.

    Raises:
        InvalidInput: fewer than two sites.
        BucketNotFound, Unsupported: the bucket is missing or unversioned at a site.
        RetryableError, IntegrityError: a listing failed, so nothing is known.
    """
    if len(sites) < 2:
        raise InvalidInput("a comparison needs two or more sites")
    await side_by_side(check_bucket(site, bucket) for site in sites)
    sites = sorted(sites, key=lambda site: site.name)
    for left in reversed(range(ROUNDS)):
        readers = {
            site.name: Reader(site, bucket, comparison.profile, comparison.workers)
            for site in sites
        }
        roots = await survey(readers, prefix)
        proof = _proof(roots, comparison)
        if proof.digest is not None:
            return proof
        seen = _Seen()
        for place in places([root.sketch for root in roots.values()]):
            await _drill(readers, place, seen)
        proof = await _settled(readers, seen, proof, comparison)
        if proof.differing or proof.moving or proof.by_content or not left:
            return proof
    raise AssertionError("unreachable")


def _proof(roots: Mapping[str, Root], comparison: Comparison) -> Proof:
    counts = {
        name: Count(root.keys, root.versions, root.digest.hex()) for name, root in roots.items()
    }
    digests = {count.digest for count in counts.values()}
    digest = digests.pop() if len(digests) == 1 else None
    return Proof(comparison.profile.text, counts, digest)


Readers = Mapping[str, Reader]
States = dict[str, Facts]


@dataclass(slots=True)
class _Seen:
    """Keys that differed when their places were listed; ``more`` of them are only counted."""

    kept: dict[bytes, States] = field(default_factory=dict)
    more: int = 0

    def note(self, name: bytes, states: States) -> None:
        if _agree(states):
            return
        if len(self.kept) < KEPT_MAX:
            self.kept[name] = states
        else:
            self.more += 1


def _agree(states: States) -> bool:
    return len(set(states.values())) == 1


async def _drill(readers: Readers, place: Place, seen: _Seen) -> None:
    """List a place at all sites side by side, and note the keys that differ."""
    if place.is_key:
        seen.note(place.prefix, await _look(readers, place.prefix))
        return
    prefix = place.prefix.decode("utf-8", "ignore")  # it may end within a character
    async with AsyncExitStack() as stack:
        listings = {
            site: await stack.enter_async_context(aclosing(reader.keys(prefix)))
            for site, reader in readers.items()
        }
        heads: dict[str, Key | None] = {}
        behind = list(listings)
        while behind:
            keys = await side_by_side(_next(listings[site], place) for site in behind)
            heads.update(zip(behind, keys, strict=True))
            name = min((key.name for key in heads.values() if key), default=b"")
            behind = [site for site, key in heads.items() if key and key.name == name]
            if behind:
                at = {site: key for site, key in heads.items() if key and key.name == name}
                seen.note(name, {site: at[site].facts if site in at else () for site in heads})


async def _next(keys: AsyncGenerator[Key, None], place: Place) -> Key | None:
    """The next key of the place, or that there is none."""
    async for key in keys:
        if key.name.startswith(place.prefix):
            return key
        if key.name > place.prefix:
            return None
    return None


async def _look(readers: Readers, name: bytes) -> States:
    found = await side_by_side(reader.look(name) for reader in readers.values())
    return dict(zip(readers, found, strict=True))


async def _settled(readers: Readers, seen: _Seen, proof: Proof, comparison: Comparison) -> Proof:
    """The proof with what still differs after a while, and what never came to rest."""
    moving, still, by_content = dict(seen.kept), dict[bytes, States](), 0
    for _ in range(LOOKS - 1):
        if not moving:
            break
        await comparison.sleep(comparison.settle_s)
        for name, states in (await _looks(list(moving), readers, comparison.workers)).items():
            before, moving[name] = moving[name], states
            if _agree(states):
                del moving[name]
            elif states == before:
                del moving[name]
                if await _is_equal_by_content(readers, name, states):
                    by_content += 1
                else:
                    still[name] = states
    told = (differences(_text(name), still[name]) for name in sorted(still))
    return replace(
        proof,
        differing=len(still) + seen.more,
        differences=tuple(chain.from_iterable(told)),
        moving=tuple(_text(name) for name in sorted(moving)),
        by_content=by_content,
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


async def _looks(names: Sequence[bytes], readers: Readers, workers: int) -> dict[bytes, States]:
    found: dict[bytes, States] = {}
    waiting = iter(names)

    async def work() -> None:
        for name in waiting:
            found[name] = await _look(readers, name)

    await side_by_side(work() for _ in range(min(workers, len(names))))
    return found


async def _is_equal_by_content(readers: Readers, name: bytes, states: States) -> bool:
    """Whether a key differs in nothing but ETags that do not tell, and its bytes are the same.

    The ETag of a multipart object depends on its parts, and that of an encrypted one on the
    endpoint. ETags that are MD5s of whole objects are believed.
    """
    found = differences(_text(name), states)
    if any(difference.kind is not Kind.OTHER_BYTES for difference in found):
        return False
    for difference in found:
        facts = {
            site: next(fact for fact in known if fact.version_id == difference.version_id)
            for site, known in states.items()
        }
        if not _may_be_equal(list(facts.values())):
            return False
        digests = await side_by_side(
            readers[site].sha256_of(name, fact) for site, fact in facts.items()
        )
        if "" in digests or len(set(digests)) > 1:
            return False
    return True


def _may_be_equal(facts: Sequence[Fact]) -> bool:
    if any(fact.is_delete_marker for fact in facts) or len({f.size_bytes for f in facts}) > 1:
        return False
    etags = [fact.content.removeprefix("etag:") for fact in facts]
    return any(md5_of(etag) is None and ":" not in etag for etag in etags)
