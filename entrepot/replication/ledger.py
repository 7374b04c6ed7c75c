"""What a sweep of a job asks and tells the control catalog; ``sweep.Ledger`` over Postgres."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from entrepot.catalog import jobs
from entrepot.catalog.agreed import Named, Tags, agree_on, tags_between
from entrepot.catalog.conflicts import NewConflict, record_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.catalog.plans import add_page, next_page
from entrepot.catalog.removals import any_removals, removals_of
from entrepot.replication.agree import Disputed
from entrepot.replication.conflicts import OF_TAGS, Conflict
from entrepot.replication.guards import LEAST_SHARE, LOOK_FROM, check_deletes, check_listing
from entrepot.replication.plan import Copy
from entrepot.replication.policy import Policy
from entrepot.replication.saved import dump_batch
from entrepot.replication.sites import Site
from entrepot.replication.sweep import Planned
from entrepot.replication.totals import AT, Totals


@dataclass(frozen=True, slots=True)
class Before:
    """What the last completed sweep listed at the fullest site, and what each held after it."""

    listed: int = 0
    sites: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What the guards of one job go by."""

    rule: str
    bucket: str
    prefix: str
    policy: Policy
    before: Before
    shards: int
    force_partial: bool = False
    save: bool = False


class JobLedger:
    """The ledger of one shard of a job."""

    def __init__(
        self,
        catalog: Catalog,
        sites: Sequence[Site],
        *,
        claim: jobs.Claim,
        shard: int,
        terms: Terms,
    ) -> None:
        self._catalog, self._sites = catalog, sites
        self._claim, self._shard, self._terms = claim, shard, terms
        self._has_removals: bool | None = None
        self._given: dict[int, int] = {}  # copies planned into each site
        self._counted: set[int] = set()  # sites whose listing was found to be whole
        self._pages: int | None = None

    async def removed(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """See ``Ledger.removed``."""
        if self._has_removals is None:
            self._has_removals = await any_removals(self._catalog, bucket=self._terms.bucket)
        if not self._has_removals:
            return {}
        return await removals_of(self._catalog, keys, bucket=self._terms.bucket)

    async def conflicts(self, found: Sequence[Conflict]) -> None:
        """See ``Ledger.conflicts``."""
        rule, bucket = self._terms.rule, self._terms.bucket
        rows = [as_row(each) for each in found]
        await record_conflicts(
            self._catalog, rows, rule=rule, bucket=bucket, job_id=self._claim.job_id
        )

    async def allow(self, batch: Sequence[Planned], *, since: Totals) -> None:
        """See ``Ledger.allow``."""
        if any(planned.decision.deletes for planned in batch):
            await self._check_deletes(since)
        if self._terms.before.sites and not self._terms.force_partial:
            await self._check_listings(batch)

    async def _check_deletes(self, since: Totals) -> None:
        terms = self._terms
        here, whole = Totals(), Totals()
        here.add(since)
        whole.add(since)
        for shard in await jobs.shards(self._catalog, self._claim):
            whole.add(shard.counters)
            if shard.number == self._shard:
                here.add(shard.counters)
        # A range is swept from its first key on, and deletes come in heaps: what it listed the
        # last time is a fairer measure than what it listed so far.
        fair = terms.before.listed // terms.shards
        for totals, expected in ((here, fair), (whole, terms.before.listed)):
            check_deletes(
                terms.policy,
                deletes=totals.deletes,
                listed=max(totals.listed - totals.deletes, expected),
                rule=terms.rule,
                bucket=terms.bucket,
            )

    async def _check_listings(self, batch: Sequence[Planned]) -> None:
        terms = self._terms
        for planned in batch:
            for action in planned.decision.actions:
                for target in action.targets if isinstance(action, Copy) else ():
                    self._given[target.site] = self._given.get(target.site, 0) + 1
        for number, given in self._given.items():
            site = self._sites[number]
            before = (terms.before.sites or {}).get(site.name, 0)
            if number in self._counted or not before:
                continue
            if given >= min(LOOK_FROM, (1 - LEAST_SHARE) * before):
                await check_listing(
                    site.store.versions(terms.bucket, prefix=terms.prefix),
                    site=site.name,
                    before=before,
                    rule=terms.rule,
                    bucket=terms.bucket,
                )
                self._counted.add(number)

    async def keep(self, batch: Sequence[Planned]) -> None:
        """See ``Ledger.keep``; a page for each batch, where the plan is to be saved."""
        if not self._terms.save or not batch:
            return
        job_id = self._claim.job_id
        if self._pages is None:  # an earlier try may have got somewhere
            self._pages = await next_page(self._catalog, job_id=job_id, shard=self._shard)
        body = zlib.compress(dump_batch(batch, self._sites))
        await add_page(
            self._catalog, job_id=job_id, shard=self._shard, number=self._pages, body=body
        )
        self._pages += 1

    async def copied(self, tags: Mapping[Named, Tags]) -> None:
        """See ``Ledger.copied``."""
        rule, bucket = self._terms.rule, self._terms.bucket
        await agree_on(self._catalog, tags, rule=rule, bucket=bucket, is_new=True)

    async def base(self, after: str, last: str) -> Mapping[Named, Tags]:
        """See ``Bases.base``."""
        rule, bucket = self._terms.rule, self._terms.bucket
        return await tags_between(self._catalog, after, last, rule=rule, bucket=bucket)

    async def agreed(self, tags: Mapping[Named, Tags]) -> None:
        """See ``Bases.agreed``."""
        await agree_on(self._catalog, tags, rule=self._terms.rule, bucket=self._terms.bucket)

    async def disputes(self, found: Sequence[Disputed]) -> None:
        """See ``Bases.disputes``."""
        rule, bucket = self._terms.rule, self._terms.bucket
        rows = [as_dispute(each) for each in found]
        await record_conflicts(
            self._catalog, rows, rule=rule, bucket=bucket, job_id=self._claim.job_id
        )


def as_dispute(found: Disputed) -> NewConflict:
    """Tags that do not count, as the ledger keeps them: a side is its version and its tags."""
    return NewConflict(
        key=found.key,
        contenders=[
            {
                "site": site,
                "identity": f"{found.version_id} {json.dumps(dict(tags), sort_keys=True)}",
                "version_id": version.version_id,
                "time_ms": version.mtime_ms,
                "writer": "",
                "size_bytes": version.size_bytes,
                "etag": version.etag,
                "is_delete_marker": False,
                "tags": dict(tags),
            }
            for site, version, tags in found.sides
        ],
        winner=0,
        policy=OF_TAGS,
        reason=f"of changes of one tag, that of {found.sides[0][0]} counts",
        is_ambiguous=True,
        serves=found.version_id,
    )


def as_row(found: Conflict) -> NewConflict:
    """A conflict as the ledger keeps it."""
    return NewConflict(
        key=found.key,
        contenders=[asdict(contender) for contender in found.contenders],
        winner=found.winner,
        policy=found.policy,
        reason=found.reason,
        is_ambiguous=found.is_ambiguous,
        serves=found.serves,
    )


def before_of(report: Mapping[str, object]) -> Before:
    """What a completed job's report says that it listed."""
    counts = report.get("totals", {})
    assert isinstance(counts, dict)
    sites = {name.removeprefix(AT): int(n) for name, n in counts.items() if name.startswith(AT)}
    return Before(listed=int(counts.get("listed", 0)), sites=sites)
