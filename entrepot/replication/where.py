"""Where a key is: what each site has of it, what it serves, and whether they agree.

A site that cannot be asked is no site without the key: its answer is its error, and then nobody
says that all agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from entrepot.catalog.buckets import get_bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.read import list_versions
from entrepot.catalog.states import BucketMode
from entrepot.errors import BucketNotFound, EntrepotError
from entrepot.replication.origins import Origins
from entrepot.replication.proof.compare import Difference, differences
from entrepot.replication.proof.record import Aspect, Facts, Level, Profile, fact_of, in_order
from entrepot.replication.proof.statement import Wanted
from entrepot.replication.proof.survey import Reader
from entrepot.replication.proof.verify import profiles
from entrepot.replication.sites import Site
from entrepot.replication.view import see
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import Version
from entrepot.terms import fits

VERSIONS_MAX = 1000
"""Rows of the catalog that are read of one key."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a site's catalog says of the key; ``mode`` is "" where it does not know the bucket."""

    mode: str = ""
    versions: tuple[str, ...] = ()
    current: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one site has of the key, newest first; ``error`` where it cannot be asked.

    ``elsewhere``: of versions that have another id here, the one that the same write has at others.
    """

    site: str
    versions: tuple[Version, ...]
    kept: Kept
    error: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Where:
    """What all sites have; ``differences`` are between those that answered, of versions that fit
    ``tag_filter``.
    """

    answers: tuple[Answer, ...]
    differences: tuple[Difference, ...]
    tag_filter: Mapping[str, str] = field(default_factory=dict)

    @property
    def agree(self) -> bool:
        """Whether every site answered and has the same."""
        return not self.differences and not any(answer.error for answer in self.answers)

    def fits(self, version: Version) -> bool:
        """Whether the version is of the rule that was asked about."""
        tags = version.attributes.tags if version.attributes else {}
        return fits(tags, self.tag_filter)


async def where(
    sites: Sequence[Site],
    bucket: str,
    key: str,
    *,
    catalogs: Mapping[str, Catalog],
    wanted: Wanted | None = None,
) -> Where:
    """Ask every site, and its catalog where it has one here, for one key.

    ``wanted`` is what a rule keeps equal; all of it is compared without.
    """
    answers = await side_by_side(
        _answer(site, bucket, key, catalogs.get(site.name)) for site in sites
    )
    answered = {answer.site: answer.versions for answer in answers if not answer.error}
    found: set[Difference] = set()
    aspects = wanted.aspects if wanted else frozenset(Aspect)
    tag_filter = wanted.tag_filter if wanted else {}
    for among, profile in profiles(
        sites, level=Level.ATTRIBUTES, aspects=aspects, tag_filter=tag_filter
    ):
        states = {
            site.name: _facts(answered[site.name], profile)
            for site in among
            if site.name in answered
        }
        found.update(differences(key, states))
    names = await _elsewhere(sites, bucket, key, answered)
    answers = [replace(each, elsewhere=names.get(each.site, {})) for each in answers]
    return Where(tuple(answers), tuple(sorted(found)), tag_filter)


async def _elsewhere(
    sites: Sequence[Site], bucket: str, key: str, answered: Mapping[str, Sequence[Version]]
) -> dict[str, dict[str, str]]:
    """By site and version id, the id of the same write at sites that keep ids."""
    among = [site for site in sites if site.name in answered]
    origins = Origins(among, bucket)
    await origins.load("", key, prefix=key)
    histories = [await origins.whole(site, answered[site.name]) for site in among]
    view = see(key, histories, keeps=[site.keeps_origin for site in among])
    kept = [
        {entry.version_id for entry in history} if keeps else set()
        for history, keeps in zip(view.histories, view.keeps, strict=True)
    ]
    ids = set[str]().union(*kept)
    return {
        site.name: {
            entry.version_id: entry.identity
            for entry in history
            if entry.identity != entry.version_id and entry.identity in ids
        }
        for site, history in zip(among, view.histories, strict=True)
    }


def _facts(versions: Sequence[Version], profile: Profile) -> Facts:
    counted = [version for version in versions if profile.counts(version)]
    return in_order([fact_of(version, profile) for version in counted], profile)


async def _answer(site: Site, bucket: str, key: str, catalog: Catalog | None) -> Answer:
    kept = await _kept(catalog, bucket, key) if catalog else Kept()
    reader = Reader(site, bucket, Profile(Level.ATTRIBUTES), workers=4)
    try:
        return Answer(site.name, await reader.versions_of(key), kept)
    except EntrepotError as error:
        return Answer(site.name, (), kept, str(error))


async def _kept(catalog: Catalog, bucket: str, key: str) -> Kept:
    try:
        known = await get_bucket(catalog, name=bucket)
        if known.mode is not BucketMode.MANAGED:
            return Kept(str(known.mode))
        rows = await list_versions(catalog, bucket_id=known.id, prefix=key, most=VERSIONS_MAX)
    except BucketNotFound:
        return Kept()
    except EntrepotError as error:
        return Kept(error=str(error))
    names = [row.version_id for row in rows if row.key == key]
    return Kept(str(known.mode), tuple(names), names[0] if names else "")


def as_json(found: Where, *, bucket: str, key: str) -> dict[str, Any]:
    """The answer for programs."""
    return {
        "bucket": bucket,
        "key": key,
        "agree": found.agree,
        "sites": [
            {
                "site": answer.site,
                "error": answer.error or None,
                "catalog": {
                    "mode": answer.kept.mode or None,
                    "versions": len(answer.kept.versions),
                    "current": answer.kept.current or None,
                    "error": answer.kept.error or None,
                },
                "versions": [
                    _version(version, answer.elsewhere)
                    | ({"fits": found.fits(version)} if found.tag_filter else {})
                    for version in answer.versions
                ],
            }
            for answer in found.answers
        ],
        "differences": [
            {
                "version_id": each.version_id,
                "kind": str(each.kind),
                "sites": dict(each.sites),
            }
            for each in found.differences
        ],
    }


def _version(version: Version, elsewhere: Mapping[str, str]) -> dict[str, Any]:
    lock, attributes = version.lock, version.attributes
    return {
        "version_id": version.version_id,
        "elsewhere": elsewhere.get(version.version_id),
        "current": version.is_current,
        "delete_marker": version.is_delete_marker,
        "mtime_ms": version.mtime_ms,
        "size_bytes": version.size_bytes,
        "etag": version.etag,
        "tags": dict(attributes.tags) if attributes else {},
        "lock": {
            "mode": str(lock.mode) if lock and lock.mode else None,
            "until": lock.until.isoformat() if lock and lock.until else None,
            "hold": bool(lock and lock.hold),
        },
    }
