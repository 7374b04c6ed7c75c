"""Versions that several sites hold: their tags, retentions and legal holds brought to agreement.

The second half of a sweep, over the same keys: once every site has every version, what can be
changed without a new version is compared, by a listing with details where the endpoint has one,
else asked for version by version. ``traits`` says what the sites agree on.

Killed at any point and started again it ends in the same state: what was agreed on is kept as the
base only when every site has it, and to give a version what it has is to do nothing. Between the
look at a version and its change somebody else may change it: its tags are read again just before,
which leaves a moment of one request, and what was changed in between is left to the next sweep.

Memory: a page of entries a site, with their attributes, and what was agreed on of them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from entrepot.errors import BucketNotFound, IntegrityError, NotFound, PreconditionFailed
from entrepot.replication.apply import Context, counted
from entrepot.replication.details import Details
from entrepot.replication.merge import Histories, Window, windows
from entrepot.replication.origins import Origins
from entrepot.replication.policy import Policy
from entrepot.replication.sites import Named, Site
from entrepot.replication.sweep import Checkpoint, Options, Range
from entrepot.replication.totals import Findings, Totals
from entrepot.replication.traits import Agreed, Settled, Tags, Traits, settle
from entrepot.replication.view import Entry, see
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import Attributes, Capability, Lock, Version
from entrepot.terms import Mode, Travel, fits


@dataclass(frozen=True, slots=True)
class Disputed:
    """Tags that were changed at several sites in several ways: the first of ``sides`` counts."""

    key: str
    version_id: str
    sides: tuple[tuple[str, Version, Tags], ...]


class Bases(Protocol):
    """What is asked and told beside the sites."""

    async def base(self, after: str, last: str) -> Mapping[Named, Tags]:
        """The tags agreed on for keys after ``after`` up to ``last``, by key and identity."""
        ...

    async def agreed(self, tags: Mapping[Named, Tags]) -> None:
        """Keep what was agreed on; of no tags nothing is known any more."""
        ...

    async def disputes(self, found: Sequence[Disputed]) -> None:
        """Keep what does not count before it is overwritten; told again, it changes nothing."""
        ...


async def agree_on_traits(
    sites: Sequence[Site],
    bucket: str,
    *,
    keys: Range,
    options: Options,
    guard: Callable[[], None],
    checkpoint: Checkpoint,
    bases: Bases,
) -> tuple[Totals, Findings]:
    """Have every version of a range bear the same tags and the same lock at all sites that hold it.

    Args:
        sites, keys, options, guard: as of ``sweep``.
        checkpoint: called with the last key settled and the counts since the previous call.
    """
    context = Context(
        sites=sites,
        bucket=bucket,
        workers=options.workers,
        totals=Totals(),
        findings=Findings(),
        travels=_compared(sites, options.policy),
    )
    total = Totals()
    if not context.travels:
        return total, context.findings
    run = _Pass(context, keys, options, guard, bases)
    listings = [site.pages(keys.prefix, after=keys.after) for site in run.details]
    async with aclosing(windows(listings, stop_at=keys.stop_at, whole=True)) as found:
        async for window in found:
            await run.window(window)
            if context.totals != Totals():
                total.add(context.totals)
                await checkpoint(window.last_key, context.totals)
                context = run.context = replace(context, totals=Totals())
    return total, context.findings


def _compared(sites: Sequence[Site], policy: Policy) -> frozenset[Travel]:
    """What is compared: a site that has no tags at all did not lose any."""
    needs = {Travel.TAGS: Capability.TAGS, Travel.LOCKS: Capability.LOCK}
    return frozenset(
        travel
        for travel, capability in needs.items()
        if travel in policy.travels and all(capability in site.capabilities for site in sites)
    )


@dataclass(slots=True)
class _Shared:
    """A version that several sites hold: by rank, its name there and what it has."""

    key: str
    identity: str
    entries: dict[int, Entry]
    sides: dict[int, Traits] = field(default_factory=dict)
    behind: set[int] = field(default_factory=set)  # whose store has something else than its catalog
    is_mistaken: bool = False  # a version map said that it is the same at these sites

    @property
    def named(self) -> Named:
        return self.key, self.identity


@dataclass(slots=True)
class _Pass:
    """A comparison under way."""

    context: Context
    keys: Range
    options: Options
    guard: Callable[[], None]
    bases: Bases
    details: list[Details] = field(init=False)
    origins: Origins = field(init=False)
    after: str = field(init=False)

    def __post_init__(self) -> None:
        self.details = [Details(site.store, self.context.bucket) for site in self.context.sites]
        self.origins = Origins(self.context.sites, self.context.bucket)
        self.after = self.keys.after

    async def window(self, window: Window) -> None:
        """Compare one window's versions, and settle what differs."""
        listed = {
            (rank, key, version.version_id): version
            for key, histories in window.differing.items()
            for rank, history in enumerate(histories)
            for version in history
        }
        for rank, details in enumerate(self.details):
            await details.check([each for place, each in listed.items() if place[0] == rank])
        await self.origins.load(self.after, window.last_key, prefix=self.keys.prefix)
        shared = await self._shared(window.differing)
        await self._describe(shared, listed)
        shared = [each for each in shared if not each.is_mistaken]  # the next sweep sees to it
        if not self.options.dry_run:
            await self.origins.save(window.differing)
        there = {(key, version_id) for _, key, version_id in listed}
        there |= {each.named for each in shared}
        shared = [each for each in shared if self._is_of_rule(each)]
        base = await self.bases.base(self.after, window.last_key)
        self.after = window.last_key
        differing = [each for each in shared if len({_frozen(s) for s in each.sides.values()}) > 1]
        await self._ask_again(differing)
        await self._ask_catalogs(differing)
        agreed = {
            each.named: next(iter(each.sides.values())).tags
            for each in shared
            if each.sides and each not in differing
        }
        settled = [(each, self._settled(each, base)) for each in differing]
        agreed |= await self._carry_out(settled, listed)
        if not self.options.dry_run and Travel.TAGS in self.context.travels:
            agreed |= {named: {} for named in base if self._is_gone(named, there)}
            news = {named: tags for named, tags in agreed.items() if tags != base.get(named, {})}
            if news:
                self.guard()
                await self.bases.agreed(news)

    def _is_of_rule(self, shared: _Shared) -> bool:
        """Whether its tags fit at a site: the change by which they stop doing so goes along."""
        wanted = self.options.policy.tag_filter
        return not wanted or any(fits(side.tags, wanted) for side in shared.sides.values())

    def _is_gone(self, named: Named, there: set[Named]) -> bool:
        return named[0].startswith(self.keys.prefix) and named not in there

    async def _shared(self, differing: Mapping[str, Histories]) -> list[_Shared]:
        """The versions that two sites or more hold, of keys that no version from the future is of.

        A delete marker has neither tags nor a lock.
        """
        keeps = [site.keeps_origin for site in self.context.sites]
        found: list[_Shared] = []
        horizon_ms = self.options.horizon_ms()
        placed = await self.origins.place(differing, workers=self.options.workers)
        for key, histories in placed.items():
            view = see(key, histories, keeps=keeps)
            if any(entry.mtime_ms > horizon_ms for entry in view.heads):
                continue
            by_identity: dict[str, dict[int, Entry]] = {}
            for rank, history in enumerate(view.histories):
                for entry in history:
                    if not entry.is_delete_marker:
                        by_identity.setdefault(entry.identity, {})[rank] = entry
            found += (
                _Shared(key, identity, entries)
                for identity, entries in by_identity.items()
                if len(entries) > 1
            )
        return found

    async def _describe(
        self, shared: Sequence[_Shared], listed: Mapping[tuple[int, str, str], Version]
    ) -> None:
        """What the stores say of each version; one that is gone by now is no longer shared."""
        waiting = iter([(each, rank) for each in shared for rank in each.entries])

        async def work() -> None:
            for each, rank in waiting:
                version = listed[rank, each.key, each.entries[rank].version_id]
                try:
                    version = await self.details[rank].of(version)
                except BucketNotFound:
                    raise
                except NotFound:
                    continue
                each.is_mistaken |= self.origins.differs(self.context.sites[rank], version)
                each.sides[rank] = self._traits(version)

        await side_by_side(work() for _ in range(self.context.workers))

    def _traits(self, version: Version) -> Traits:
        attributes, lock = version.attributes or Attributes(), version.lock or Lock()
        return self._travelling(Traits(attributes.tags, lock))

    def _travelling(self, traits: Traits) -> Traits:
        """What is compared: without what the rule leaves at home, and what has passed."""
        found = replace(traits, lock=self.context.locks.worth(traits.lock))
        if Travel.TAGS not in self.context.travels:
            found = replace(found, tags={}, tagged=None)
        if Travel.LOCKS not in self.context.travels:
            found = replace(found, lock=Lock(), held=None)
        return found

    async def _ask_again(self, differing: Sequence[_Shared]) -> None:
        """Where no tags are listed they may be hidden: what may not be seen was not lost."""
        waiting = iter(
            [
                (each, rank)
                for each in differing
                for rank, side in each.sides.items()
                if not side.tags and Travel.TAGS in self.context.travels
            ]
        )

        async def ask(each: _Shared, rank: int) -> None:
            site, version_id = self.context.sites[rank], each.entries[rank].version_id
            side = each.sides.pop(rank)
            tags = await site.store.tags(self.context.bucket, each.key, version_id=version_id)
            each.sides[rank] = replace(side, tags=tags)

        async def work() -> None:
            for each, rank in waiting:
                await counted(each, ask(each, rank), self.context)

        await side_by_side(work() for _ in range(self.context.workers))

    async def _ask_catalogs(self, differing: Sequence[_Shared]) -> None:
        """Where a catalog decides, what it says counts, and not what the store has."""

        async def ask(rank: int, site: Site) -> None:
            names = [
                (each.key, each.entries[rank].version_id)
                for each in differing
                if rank in each.sides
            ]
            rows = await site.rows.traits(self.context.bucket, names) if site.rows else None
            if rows is None:
                return
            for each in differing:
                if rank not in each.sides:
                    continue
                row = rows.get((each.key, each.entries[rank].version_id))
                if row is None:  # it comes, or it goes
                    del each.sides[rank]
                    continue
                said = self._travelling(row)
                if _frozen(said) != _frozen(each.sides[rank]):
                    each.behind.add(rank)
                each.sides[rank] = said

        await asyncio.gather(*(ask(rank, site) for rank, site in enumerate(self.context.sites)))

    def _settled(self, shared: _Shared, base: Mapping[Named, Tags]) -> Settled:
        policy, source = self.options.policy, None
        if policy.mode is Mode.ONE_WAY:
            names = [site.name for site in self.context.sites]
            source = names.index(policy.source_site)
        if not shared.sides:
            return Settled({}, base.get(shared.named, {}))
        return settle(
            shared.sides,
            base=base.get(shared.named, {}),
            source=source,
            overwrite=policy.overwrites,
        )

    async def _carry_out(
        self,
        settled: Sequence[tuple[_Shared, Settled]],
        listed: Mapping[tuple[int, str, str], Version],
    ) -> dict[Named, Tags]:
        """Change what must be; what every site has then."""
        for shared, one in settled:
            self._note(shared, one)
        if self.options.dry_run or not settled:
            return {}
        self.guard()
        disputed = [_disputed(self.context, each, one, listed) for each, one in settled]
        await self.bases.disputes([each for each in disputed if each])
        done: dict[Named, Tags] = {}
        waiting = iter(settled)

        async def work() -> None:
            for shared, one in waiting:
                there = True
                for rank, agreed in self._changes(shared, one).items():
                    there &= await counted(shared, self._alter(shared, rank, agreed), self.context)
                if there and len(shared.sides) == len(shared.entries):
                    done[shared.named] = one.base

        await side_by_side(work() for _ in range(min(self.context.workers, len(settled))))
        return done

    def _changes(self, shared: _Shared, settled: Settled) -> dict[int, Agreed]:
        """What is to be given to which site; where a store is behind its catalog, what that has."""
        behind = {
            rank: Agreed(side.tags, side.lock, side.tagged, side.held)
            for rank, side in shared.sides.items()
            if rank in shared.behind
        }
        return behind | dict(settled.agreed)

    def _note(self, shared: _Shared, settled: Settled) -> None:
        context = self.context
        names = [site.name for site in context.sites]
        context.totals.conflicts += bool(settled.disputes)
        context.totals.drifted += len(settled.drifted)
        for each in settled.disputes:
            why = f"tags of {names[each.site]} do not count: {dict(each.lost)}"
            context.findings.note(key=shared.key, what="conflict", why=why)
        for rank in settled.drifted:
            why = f"{names[rank]} has tags of its own, and keeps them"
            context.findings.note(key=shared.key, what="drifted", why=why)
        if self.options.dry_run:
            for rank in settled.agreed:
                why = f"tags or lock at {names[rank]}: planned, not done"
                context.findings.note(key=shared.key, what="alter", why=why)

    async def _alter(self, shared: _Shared, rank: int, agreed: Agreed) -> None:
        site, seen = self.context.sites[rank], shared.sides[rank]
        where = self.context.bucket, shared.key, shared.entries[rank].version_id
        if agreed.lock != seen.lock and not await self._takes(site, shared.key):
            agreed = replace(agreed, lock=seen.lock, held=seen.held)
        if seen.is_managed:
            assert site.rows is not None
            if not await site.rows.alter(*where, seen=seen, agreed=agreed):
                raise PreconditionFailed("its tags were changed since", site=site.name)
            self.context.totals.altered += 1
            return
        if agreed.tags != seen.tags:
            await self._tag(site, where, seen.tags, agreed.tags)
        if agreed.lock != seen.lock:
            await self.context.locks.put(site, where, agreed.lock, self.context.findings)
        self.context.totals.altered += (agreed.tags, agreed.lock) != (seen.tags, seen.lock)

    async def _tag(self, site: Site, where: tuple[str, str, str], seen: Tags, tags: Tags) -> None:
        bucket, key, version_id = where
        if await site.store.tags(bucket, key, version_id=version_id) not in (seen, tags):
            raise PreconditionFailed("its tags were changed since", site=site.name)
        await site.store.tag(bucket, key, tags, version_id=version_id)
        if (has := await site.store.tags(bucket, key, version_id=version_id)) != tags:
            raise IntegrityError("it has other tags than it was given", site=site.name, has=has)

    async def _takes(self, site: Site, key: str) -> bool:
        """Whether versions can be locked at the site; where not, that is said once."""
        locks = self.context.locks
        if await locks.takes(site, self.context.bucket):
            return True
        locks.miss(key, site, self.context.findings)
        return False


def _frozen(traits: Traits) -> tuple[object, ...]:
    return tuple(sorted(traits.tags.items())), traits.lock


def _disputed(
    context: Context,
    shared: _Shared,
    settled: Settled,
    listed: Mapping[tuple[int, str, str], Version],
) -> Disputed | None:
    if not settled.disputes:
        return None
    lost = {dispute.site for dispute in settled.disputes}
    # Of several values the lowest rank's counts, so one site at least lost nothing.
    first = min(set(shared.sides) - lost, default=min(shared.sides))
    return Disputed(
        shared.key,
        shared.identity,
        tuple(
            (
                context.sites[rank].name,
                listed[rank, shared.key, shared.entries[rank].version_id],
                shared.sides[rank].tags,
            )
            for rank in [first, *sorted(lost - {first})]
        ),
    )
