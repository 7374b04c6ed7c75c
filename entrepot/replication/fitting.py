"""Which versions a rule with a tag filter is about, while it is swept.

A version is of the rule where its tags fit at a site from which it may be copied: at the source of
a one-way rule, if that has it, else at any. The listing tells tags where the endpoint has one with
details; elsewhere, each version of a key that differs is asked for its tags.

Delete markers have no tags, so they are of no such rule.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from entrepot.errors import BucketNotFound, NotFound
from entrepot.replication.details import Details
from entrepot.replication.merge import Histories
from entrepot.replication.sites import Site
from entrepot.replication.view import Entry, View
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import Page
from entrepot.terms import fits


@dataclass(slots=True)
class Fitting:
    """What tells it for one bucket; ``source`` is the rank of the source of a one-way rule."""

    sites: Sequence[Site]
    bucket: str
    tag_filter: Mapping[str, str]
    workers: int
    source: int | None = None
    _details: list[Details] = field(init=False)

    def __post_init__(self) -> None:
        self._details = [Details(site.store, self.bucket) for site in self.sites]

    def listings(self, prefix: str, *, after: str) -> list[AsyncIterator[Page]]:
        """The listings of all sites, with tags where that is needed and can be had."""
        if not self.tag_filter:
            return [
                site.store.versions(self.bucket, prefix=prefix, after=after) for site in self.sites
            ]
        return [details.pages(prefix, after=after) for details in self._details]

    async def unfit(self, view: View, listed: Histories) -> frozenset[str]:
        """The identities of writes that the rule is not about."""
        if not self.tag_filter:
            return frozenset()
        found: dict[str, dict[int, bool]] = {}
        versions = {
            (rank, each.version_id): each
            for rank, history in enumerate(listed)
            for each in history
            if not each.is_delete_marker
        }
        for rank, details in enumerate(self._details):
            await details.check([each for place, each in versions.items() if place[0] == rank])
        waiting = iter([entry for history in view.histories for entry in history])

        async def ask(entry: Entry) -> bool:
            if entry.is_delete_marker:
                return False
            version = versions[entry.site, entry.version_id]
            try:
                tags = await self._details[entry.site].tags(version)
            except BucketNotFound:
                raise
            except NotFound:  # gone by now
                return False
            return fits(tags, self.tag_filter)

        async def work() -> None:
            for entry in waiting:
                found.setdefault(entry.identity, {})[entry.site] = await ask(entry)

        await side_by_side(work() for _ in range(self.workers))
        return frozenset(identity for identity, at in found.items() if not self._is_meant(at))

    def _is_meant(self, at: Mapping[int, bool]) -> bool:
        if self.source is not None and self.source in at:
            return at[self.source]
        return any(at.values())
