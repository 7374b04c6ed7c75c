"""All buckets of a rule compared, and the answer as people, programs and certificates read it.

Words: *verdict* what the comparison of a rule came to; *limits* what it did not look at, in words,
so that nobody takes a proof for more than it is.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.codec.primitives import prefixed
from entrepot.replication.proof.compare import Difference
from entrepot.replication.proof.record import SAMPLE_ALL, Aspect, Level, Profile
from entrepot.replication.proof.verify import Comparison, Proof, profiles, verify
from entrepot.replication.sites import Site

SHOWN_MAX: Final = 100
"""Differences and moving keys that an answer shows of each bucket; all are counted."""

_TRAVELS: Final = {"metadata": Aspect.METADATA, "tags": Aspect.TAGS, "locks": Aspect.LOCK}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to compare of a rule, and how."""

    rule: str
    buckets: tuple[str, ...]
    prefix: str = ""
    level: Level = Level.ATTRIBUTES
    aspects: frozenset[Aspect] = frozenset(Aspect)
    sample: int = SAMPLE_ALL
    tag_filter: Mapping[str, str] = field(default_factory=dict)
    workers: int = 16
    settle_s: float = 2.0

    def without(self, aspect: Aspect) -> "Wanted":
        """The same, but for one aspect."""
        return replace(self, aspects=self.aspects - {aspect})


@dataclass(frozen=True, slots=True)
class BucketVerdict:
    """One bucket: a proof for each way in which its sites are compared."""

    bucket: str
    proofs: tuple[Proof, ...]

    @property
    def is_identical(self) -> bool:
        return all(proof.is_identical for proof in self.proofs)

    @property
    def keys(self) -> int:
        return max(proof.keys for proof in self.proofs)

    @property
    def versions(self) -> int:
        return max(proof.versions for proof in self.proofs)

    @property
    def differing(self) -> int:
        """Keys that differ; one that differs in two ways of comparing counts twice."""
        return sum(proof.differing for proof in self.proofs)

    @property
    def moving(self) -> tuple[str, ...]:
        return tuple(sorted({key for proof in self.proofs for key in proof.moving}))

    @property
    def differences(self) -> tuple[Difference, ...]:
        return tuple(sorted({each for proof in self.proofs for each in proof.differences}))

    @property
    def digest(self) -> str | None:
        """That of the first way of comparing, ``None`` where sites have several."""
        return self.proofs[0].digest if all(proof.digest for proof in self.proofs) else None

    def as_json(self) -> Json:
        """Counts and digests, as certificates hold them."""
        return {
            "bucket": self.bucket,
            "identical": self.is_identical,
            "keys": self.keys,
            "versions": self.versions,
            "digest": self.digest,
            "differing": self.differing,
            "moving": len(self.moving),
            "compared": [_compared(proof) for proof in self.proofs],
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison of a rule came to, between two instants."""

    wanted: Wanted
    sites: tuple[Json, ...]
    limits: tuple[str, ...]
    started: datetime
    finished: datetime
    buckets: tuple[BucketVerdict, ...] = field(default=())

    @property
    def is_identical(self) -> bool:
        """Whether every bucket is identical at all sites."""
        return all(bucket.is_identical for bucket in self.buckets)

    @property
    def digest(self) -> str | None:
        """That of the one bucket, or one of all of them; ``None`` where any has none."""
        digests = [bucket.digest for bucket in self.buckets]
        if len(digests) == 1 or None in digests:
            return digests[0] if len(digests) == 1 else None
        whole = hashlib.sha256(b"entrepot/1 rule")
        for bucket in self.buckets:
            whole.update(prefixed(bucket.bucket) + bytes.fromhex(bucket.digest or ""))
        return whole.hexdigest()

    def as_json(self) -> Json:
        """The answer for programs: what a certificate states, and examples."""
        return {
            **self.stated(),
            "differences": [
                {"bucket": bucket.bucket, **_told(each)}
                for bucket in self.buckets
                for each in bucket.differences[:SHOWN_MAX]
            ],
            "moving": [
                {"bucket": bucket.bucket, "key": key}
                for bucket in self.buckets
                for key in bucket.moving[:SHOWN_MAX]
            ],
        }

    def stated(self) -> Json:
        """What a certificate states: no keys, no contents."""
        wanted = self.wanted
        return {
            "rule": wanted.rule,
            "prefix": wanted.prefix,
            "level": str(wanted.level),
            "aspects": sorted(map(str, wanted.aspects)),
            "sample_permille": wanted.sample,
            **({"tag_filter": dict(wanted.tag_filter)} if wanted.tag_filter else {}),
            "sites": list(self.sites),
            "started": _instant(self.started),
            "finished": _instant(self.finished),
            "identical": self.is_identical,
            "keys": sum(bucket.keys for bucket in self.buckets),
            "versions": sum(bucket.versions for bucket in self.buckets),
            "digest": self.digest,
            "differing": sum(bucket.differing for bucket in self.buckets),
            "buckets": [bucket.as_json() for bucket in self.buckets],
            "limits": list(self.limits),
        }


async def compare_bucket(sites: Sequence[Site], bucket: str, wanted: Wanted) -> BucketVerdict:
    """Compare one bucket of a rule at its sites.

    Raises:
        EntrepotError: a site could not be read whole, so nothing is known.
    """
    ways = profiles(
        sites,
        level=wanted.level,
        aspects=wanted.aspects,
        sample=wanted.sample,
        tag_filter=wanted.tag_filter,
    )
    proofs = [
        await verify(
            among,
            bucket,
            prefix=wanted.prefix,
            comparison=Comparison(profile, workers=wanted.workers, settle_s=wanted.settle_s),
        )
        for among, profile in ways
    ]
    return BucketVerdict(bucket, tuple(proofs))


async def compare_rule(
    sites: Sequence[Site],
    wanted: Wanted,
    *,
    endpoints: Mapping[str, str],
    clock: Clock = SYSTEM_CLOCK,
) -> Verdict:
    """Compare every bucket of a rule; ``endpoints`` by site name, for the record."""
    verdict = begin(sites, wanted, endpoints=endpoints, now=clock.now())
    found = [await compare_bucket(sites, bucket, wanted) for bucket in sorted(wanted.buckets)]
    return finish(verdict, found, now=clock.now())


def begin(
    sites: Sequence[Site], wanted: Wanted, *, endpoints: Mapping[str, str], now: datetime
) -> Verdict:
    """The verdict before anything was compared."""
    described = tuple(
        {
            "name": site.name,
            "rank": site.rank,
            "endpoint": endpoints.get(site.name, ""),
            "capabilities": sorted(map(str, site.capabilities)),
        }
        for site in sorted(sites, key=lambda site: site.name)
    )
    return Verdict(wanted, described, limits(sites, wanted), started=now, finished=now)


def finish(verdict: Verdict, buckets: Sequence[BucketVerdict], *, now: datetime) -> Verdict:
    """The verdict with what its buckets came to."""
    ordered = tuple(sorted(buckets, key=lambda bucket: bucket.bucket))
    return replace(verdict, buckets=ordered, finished=now)


def aspects_of(travels: Collection[str]) -> frozenset[Aspect]:
    """What sites of a rule have in common, given what travels between them by the rule's words.

    Without delete markers, sites keep histories of their own.
    """
    found = {aspect for word, aspect in _TRAVELS.items() if word in travels}
    return frozenset(found | ({Aspect.HISTORY} if "delete-markers" in travels else set()))


def limits(sites: Sequence[Site], wanted: Wanted) -> tuple[str, ...]:
    """What the comparison does not look at."""
    profile = Profile(wanted.level, aspects=wanted.aspects, sample=wanted.sample)
    found = [
        f"{site.name} gives its own version ids and times: there, current versions are compared, "
        "and history is incomplete"
        for site in sorted(sites, key=lambda site: site.name)
        if not site.keeps_origin
    ]
    if wanted.tag_filter:
        found.append("only versions whose tags fit are compared, and not which version is current")
        if not profile.has_history:
            found.append("of each key, only the newest version that fits is compared")
    elif not profile.has_history:
        found.append("noncurrent versions and delete markers are not compared")
    if wanted.level is Level.LISTING:
        found.append("headers, metadata, tags and locks are not compared")
    else:
        left_out = sorted(set(Aspect) - wanted.aspects - {Aspect.HISTORY})
        found += [f"{aspect} of versions is not compared" for aspect in left_out]
    if wanted.level is not Level.CONTENT:
        found.append("bytes are compared by size and ETag, as the endpoints keep them")
    elif wanted.sample < SAMPLE_ALL:
        found.append(
            f"bytes of {wanted.sample} of 1,000 versions are read, those of the others compared "
            "by ETag"
        )
    return tuple(found)


def _compared(proof: Proof) -> Json:
    return {
        "profile": proof.profile,
        "digest": proof.digest,
        "differing": proof.differing,
        "moving": len(proof.moving),
        "equal_by_content": proof.by_content,
        "sites": {
            name: {"keys": count.keys, "versions": count.versions, "digest": count.digest}
            for name, count in sorted(proof.sites.items())
        },
    }


def _told(difference: Difference) -> Json:
    return {
        "key": difference.key,
        "version_id": difference.version_id,
        "kind": str(difference.kind),
        "sites": dict(difference.sites),
    }


def _instant(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
