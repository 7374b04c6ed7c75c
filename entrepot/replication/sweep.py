"""One range of keys brought to agreement: merge, plan, apply, verify, remember how far.

Killed at any point and started again from its last cursor, a sweep ends in the same state:
everything before the cursor was verified, and doing a copy twice is doing it once. A batch is
judged as a whole before any of it is written: conflicts go to the ledger first, and one that would
delete too much is not begun.

Memory: what ``merge`` and ``apply`` state, plus one batch of actions (``batch_size`` keys' times
about 1 KiB, each version of a key more another).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from entrepot.errors import BucketNotFound, PermanentError
from entrepot.replication.apply import Context, apply
from entrepot.replication.conflicts import Conflict, judged
from entrepot.replication.fitting import Fitting
from entrepot.replication.merge import HISTORY_MAX, Histories, Window, windows
from entrepot.replication.origins import Origins
from entrepot.replication.plan import Action, Copy, Decision, Facts, Mark, Remove, decide
from entrepot.replication.policy import Policy
from entrepot.replication.sites import Site
from entrepot.replication.totals import Findings, Marks, Totals
from entrepot.replication.verify import verify
from entrepot.replication.view import Entry, View, see
from entrepot.replication.workers import side_by_side
from entrepot.store.lifecycle import Expiry, expired
from entrepot.store.protocol import Version
from entrepot.terms import Mode

CHECKPOINT_EVERY = 20_000
"""Entries between checkpoints where nothing differs: half a second of listing (measured)."""

Checkpoint = Callable[[str, Totals], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Options:
    """How to sweep.

    Args:
        batch_size: keys settled together, so that a cursor stands after so many at most.
        workers: objects in flight at once.
        horizon_ms: says which versions are quarantined: those later than this (Unix
            milliseconds). Asked again and again, since a long sweep meets what was written during
            it.
        dry_run: plan and count, change nothing.
        skew_ms: how far the sites' clocks may be apart, as far as is known.
    """

    batch_size: int
    workers: int
    horizon_ms: Callable[[], int]
    dry_run: bool = False
    policy: Policy = field(default_factory=Policy)
    skew_ms: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """The keys after ``after`` up to ``stop_at`` (inclusive; "" for no end) under ``prefix``."""

    prefix: str = ""
    after: str = ""
    stop_at: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """What is about to be done to one key, and what the sites listed of it."""

    key: str
    listed: Histories
    decision: Decision
    conflict: Conflict | None = None

    @property
    def is_something(self) -> bool:
        """Whether anything is to be done or said."""
        return bool(self.decision.actions or self.decision.left or self.conflict)


class Ledger(Protocol):
    """What a sweep asks and tells beside the sites."""

    async def removed(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """By key and version id, the names of the sites where that version was removed."""
        ...

    async def conflicts(self, found: Sequence[Conflict]) -> None:
        """Keep conflicts before they are settled; told again, it changes nothing."""
        ...

    async def allow(self, batch: Sequence[Planned], *, since: Totals) -> None:
        """Called before a batch is written, with the counts since the last checkpoint; raises
        where it must not be.
        """
        ...

    async def keep(self, batch: Sequence[Planned]) -> None:
        """Called with each batch of a dry run."""
        ...

    async def copied(self, tags: Mapping[tuple[str, str], Mapping[str, str]]) -> None:
        """Called with the tags of what was copied everywhere, by key and version id."""
        ...


class NoLedger:
    """Knows of no removals, forgets what it is told, allows everything."""

    async def removed(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, frozenset[str]]]:
        del keys
        return {}

    async def conflicts(self, found: Sequence[Conflict]) -> None:
        del found

    async def allow(self, batch: Sequence[Planned], *, since: Totals) -> None:
        del batch, since

    async def keep(self, batch: Sequence[Planned]) -> None:
        del batch

    async def copied(self, tags: Mapping[tuple[str, str], Mapping[str, str]]) -> None:
        del tags


async def sweep(
    sites: Sequence[Site],
    bucket: str,
    *,
    keys: Range,
    options: Options,
    guard: Callable[[], None],
    checkpoint: Checkpoint,
    marks: Marks | None = None,
    ledger: Ledger | None = None,
) -> tuple[Totals, Findings]:
    """Make every key of a range agree at all sites.

    Args:
        sites: in rank order.
        guard: called before each batch is written; raises ``Fenced`` when the job was taken over.
        checkpoint: called with the last key settled and the counts since the previous call; it
            raises ``Fenced`` when another holder took over, and then nothing more is written.
        marks: is told how far the listing got.

    Raises:
        RetryableError: an endpoint cannot be reached; run again, it goes on from the cursor.
    """
    context = Context(
        sites=sites,
        bucket=bucket,
        workers=options.workers,
        totals=Totals(),
        findings=Findings(),
        travels=options.policy.travels,
        tag_filter=options.policy.tag_filter,
    )
    calls = _Calls(guard, checkpoint, ledger or NoLedger())
    run = _Sweep(context, keys, options=options, calls=calls)
    listings = run.fitting.listings(keys.prefix, after=keys.after)
    async with aclosing(windows(listings, stop_at=keys.stop_at)) as found:
        async for window in found:
            await run.window(window)
            if marks is not None:
                marks.note(window.last_key, listed=window.listed)
    await run.end()
    return run.totals, context.findings


class _Batch:
    """Keys not yet settled, and the stretch of keys they came from."""

    def __init__(self, after: str) -> None:
        self.after = after
        self.last = after
        self.listed = 0
        self.planned: list[Planned] = []


@dataclass(frozen=True, slots=True)
class _Calls:
    """Whom a sweep asks and tells; see ``sweep`` and ``Ledger``."""

    guard: Callable[[], None]
    checkpoint: Checkpoint
    ledger: Ledger


class _Sweep:
    """A sweep under way."""

    def __init__(self, context: Context, keys: Range, *, options: Options, calls: _Calls) -> None:
        self.totals = Totals()
        self._context = context
        self._keys, self._options, self._calls = keys, options, calls
        self._batch = _Batch(keys.after)
        self._origins = Origins(context.sites, context.bucket)
        self._seen = keys.after  # the last key of the windows so far
        self._lifecycles: Sequence[tuple[Expiry, ...]] | None = None
        names = [site.name for site in context.sites]
        policy = options.policy
        self._source = names.index(policy.source_site) if policy.mode is Mode.ONE_WAY else None
        self.fitting = Fitting(
            *(context.sites, context.bucket, policy.tag_filter, options.workers),
            source=self._source,
        )

    async def window(self, window: Window) -> None:
        """Plan the keys that differ, and settle a batch as soon as it is full."""
        self._batch.listed += window.listed
        totals = self._context.totals
        totals.listed += window.listed
        totals.shared += sum(window.counts) - window.listed
        for site, count in zip(self._context.sites, window.counts, strict=True):
            totals.hold(site.name, count)
        removed: Mapping[str, Mapping[str, frozenset[str]]] = {}
        if window.differing:
            removed = await self._calls.ledger.removed(tuple(window.differing))
        await self._origins.load(self._seen, window.last_key, prefix=self._keys.prefix)
        placed = await self._origins.place(window.differing, workers=self._options.workers)
        for key, listed in window.differing.items():
            self._batch.last = key
            is_cut = key in window.cut
            planned = await self._judge(key, placed[key], removed.get(key, {}), is_cut=is_cut)
            if planned.is_something and self._origins.is_hearsay(key):
                asked = await self._origins.of(listed, believing=False)
                planned = await self._judge(key, asked, removed.get(key, {}), is_cut=is_cut)
            self._note(replace(planned, listed=listed), is_cut=is_cut)
            if len(self._batch.planned) >= self._options.batch_size:
                await self.settle()
        if not self._options.dry_run:
            await self._origins.save(window.differing)
        self._batch.last = self._seen = window.last_key
        if self._batch.listed >= CHECKPOINT_EVERY:
            await self.settle()

    async def _judge(
        self,
        key: str,
        histories: Histories,
        removed: Mapping[str, frozenset[str]],
        *,
        is_cut: bool,
    ) -> Planned:
        context, policy = self._context, self._options.policy
        view = see(key, histories, keeps=[site.keeps_origin for site in context.sites])
        if is_cut:
            full = [history for history in histories if len(history) >= HISTORY_MAX]
            view = view.since(max((history[-1].mtime_ms for history in full), default=0))
        facts = await self._facts(view, removed, unfit=await self.fitting.unfit(view, histories))
        found = await judged(
            view,
            facts=facts,
            policy=policy,
            sites=context.sites,
            bucket=context.bucket,
            bound_ms=self._options.skew_ms,
        )
        verdict = found.verdict if found else None
        decision = decide(view, facts=facts, policy=policy, verdict=verdict)
        disputed = replace(found.conflict, serves=decision.serves) if found else None
        return Planned(key, histories, decision, disputed)

    def _note(self, planned: Planned, *, is_cut: bool) -> None:
        """Count and tell what is planned, and have it done with its batch."""
        context, decision = self._context, planned.decision
        if is_cut:
            why = "only its newest versions were compared"
            context.findings.note(key=planned.key, what="long history", why=why)
        if planned.conflict:
            self._note_conflict(planned.conflict)
        for left in decision.left:
            self._note_left(left.key, left.what, left.why)
        context.totals.differing += bool(decision.actions or decision.left)
        if decision.actions:
            context.totals.deletes += decision.deletes
            self._batch.planned.append(planned)

    async def _facts(
        self, view: View, removed: Mapping[str, frozenset[str]], *, unfit: frozenset[str]
    ) -> Facts:
        names = [site.name for site in self._context.sites]
        if self._lifecycles is None:
            self._lifecycles = await _lifecycles(self._context)
        now_ms = self._options.horizon_ms()
        return Facts(
            horizon_ms=now_ms,
            removed={
                identity: frozenset(number for number, name in enumerate(names) if name in sites)
                for identity, sites in removed.items()
            },
            expired=[_expired(view, rules, now_ms) for rules in self._lifecycles],
            source=self._source,
            names=names,
            unfit=unfit,
        )

    def _note_conflict(self, found: Conflict) -> None:
        self._context.totals.conflicts += 1
        winner = found.contenders[found.winner]
        why = f"{winner.site} wins by {found.policy}: {found.reason}"
        why += "; the clocks do not tell which was first" if found.is_ambiguous else ""
        self._context.findings.note(key=found.key, what="conflict", why=why)

    def _note_left(self, key: str, what: str, why: str) -> None:
        totals = self._context.totals
        totals.quarantined += what == "quarantined"
        totals.drifted += what == "drifted"
        totals.failed += what in ("differs", "not kept")
        self._context.findings.note(key=key, what=what, why=why)

    async def end(self) -> None:
        """Settle what is left; after the last key that was listed, no site has any."""
        await self.settle()
        if not self._options.dry_run:
            for site in self._context.sites:
                if site.version_map is not None:
                    bucket, keys = self._context.bucket, self._keys
                    await site.version_map.forget(
                        bucket, self._seen, keys.stop_at, prefix=keys.prefix
                    )

    async def settle(self) -> None:
        """Write what was planned, look again, and remember how far that is."""
        batch, context = self._batch, self._context
        if self._options.dry_run:
            for planned in batch.planned:
                for action in planned.decision.actions:
                    what = type(action).__name__.lower()
                    context.findings.note(key=action.key, what=what, why="planned, not done")
            await self._calls.ledger.keep(batch.planned)
        elif batch.planned:
            self._calls.guard()
            await self._calls.ledger.allow(batch.planned, since=context.totals)
            if disputed := [each.conflict for each in batch.planned if each.conflict]:
                await self._calls.ledger.conflicts(disputed)
            decisions = [planned.decision for planned in batch.planned]
            await carry_out(
                decisions,
                prefix=self._keys.prefix,
                after=batch.after,
                listed=batch.listed,
                context=context,
            )
            if context.tagged:
                await self._calls.ledger.copied(context.tagged)
        await self._calls.checkpoint(batch.last, context.totals)
        self.totals.add(context.totals)
        self._context = replace(context, totals=Totals(), tagged={})
        self._batch = _Batch(batch.last)


async def carry_out(
    decisions: Sequence[Decision], *, prefix: str, after: str, listed: int, context: Context
) -> None:
    """Apply decisions, look again, and tell the catalogs beside the sites.

    Args:
        prefix, after, listed: see ``verify``.
    """
    done = await apply([each for one in decisions for each in one.first], context=context)
    done += await apply([each for one in decisions for each in one.then], context=context)
    for action in done:
        if isinstance(action, Remove):
            context.totals.hold(context.sites[action.site].name, -1)
            continue
        for target in action.targets:
            context.totals.hold(context.sites[target.site].name, 1)
    await verify(done, prefix=prefix, after=after, listed=listed, context=context)
    await remember(context)
    await tell(done, context=context)


async def remember(context: Context) -> None:
    """Have the version maps of the sites know the copies that came."""
    for rank, marks in context.minted.items():
        version_map = context.sites[rank].version_map
        assert version_map is not None
        await version_map.keep(context.bucket, marks)
    context.minted.clear()


async def tell(done: Sequence[Action], *, context: Context) -> None:
    """Tell the catalogs beside the sites what came."""
    given: dict[tuple[int, str], list[Version]] = {}
    for action in done:
        if isinstance(action, Copy | Mark):
            for target in action.targets:
                if context.sites[target.site].took and context.sites[target.site].keeps_origin:
                    where = target.site, action.target_key
                    given.setdefault(where, []).append(_version(action))
    waiting = iter(given.items())

    async def work() -> None:
        for (site, key), versions in waiting:
            took = context.sites[site].took
            assert took is not None
            await took(context.bucket, key, versions)

    await side_by_side(work() for _ in range(min(context.workers, len(given))))


def _version(action: Copy | Mark) -> Version:
    bare = Version(action.target_key, action.version_id, action.mtime_ms)
    if isinstance(action, Mark):
        return replace(bare, is_delete_marker=True)
    return replace(bare, size_bytes=action.size_bytes, etag=action.etag)


async def _lifecycles(context: Context) -> list[tuple[Expiry, ...]]:
    """The lifecycle of the bucket at each site; none where it may not be read."""

    async def read(site: Site) -> tuple[Expiry, ...]:
        try:
            return await site.store.lifecycle(context.bucket)
        except BucketNotFound:
            raise
        except PermanentError as error:
            why = f"the lifecycle at {site.name} cannot be read: {error}"
            context.findings.note(key="", what="lifecycle", why=why)
            return ()

    return list(await asyncio.gather(*(read(site) for site in context.sites)))


def _expired(view: View, rules: tuple[Expiry, ...], now_ms: int) -> frozenset[str]:
    if not rules:
        return frozenset()
    whole: list[Entry] = sorted(view.known.values(), key=lambda entry: entry.order, reverse=True)
    return frozenset(
        whole[place].identity for place in expired(view.key, whole, rules, now_ms=now_ms)
    )
