"""One range of keys brought to agreement: merge, plan, apply, verify, remember how far.

Killed at any point and started again from its last cursor, a sweep ends in the same state:
everything before the cursor was verified, and doing a copy twice is doing it once.

Memory: what ``merge`` and ``apply`` state, plus one batch of actions (``batch_size`` times about
1 KiB).
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from entrepot.replication.apply import Context, apply
from entrepot.replication.merge import Window, windows
from entrepot.replication.origins import with_origins
from entrepot.replication.plan import Action, Quarantine, decide
from entrepot.replication.sites import Site
from entrepot.replication.totals import Findings, Marks, Totals
from entrepot.replication.verify import verify

CHECKPOINT_EVERY = 20_000
"""Entries between checkpoints where nothing differs: half a second of listing (measured)."""

Checkpoint = Callable[[str, Totals], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Options:
    """How to sweep.

    Args:
        batch_size: actions applied and verified together.
        workers: objects in flight at once.
        horizon_ms: says which versions are quarantined: those later than this (Unix
            milliseconds). Asked again and again, since a long sweep meets what was written during
            it.
        dry_run: plan and count, change nothing.
    """

    batch_size: int
    workers: int
    horizon_ms: Callable[[], int]
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """The keys after ``after`` up to ``stop_at`` (inclusive; "" for no end) under ``prefix``."""

    prefix: str = ""
    after: str = ""
    stop_at: str = ""


async def sweep(
    sites: Sequence[Site],
    bucket: str,
    *,
    keys: Range,
    options: Options,
    guard: Callable[[], None],
    checkpoint: Checkpoint,
    marks: Marks | None = None,
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
    )
    batch = _Batch(keys.after)
    totals = Totals()
    listings = [site.store.versions(bucket, prefix=keys.prefix, after=keys.after) for site in sites]
    async with aclosing(windows(listings, stop_at=keys.stop_at)) as found:
        async for window in found:
            await _plan(window, batch, options=options, context=context)
            if marks is not None:
                marks.note(window.last_key, listed=window.listed)
            if len(batch.actions) >= options.batch_size or batch.listed >= CHECKPOINT_EVERY:
                await _settle(batch, keys, options=options, context=context, guard=guard)
                await checkpoint(batch.last, context.totals)
                totals.add(context.totals)
                context = replace(context, totals=Totals())
                batch = _Batch(window.last_key)
    await _settle(batch, keys, options=options, context=context, guard=guard)
    await checkpoint(batch.last, context.totals)
    totals.add(context.totals)
    return totals, context.findings


class _Batch:
    """Actions not yet applied, and the stretch of keys they came from."""

    def __init__(self, after: str) -> None:
        self.after = after
        self.last = after
        self.listed = 0
        self.actions: list[Action] = []


async def _plan(window: Window, batch: _Batch, *, options: Options, context: Context) -> None:
    batch.last = window.last_key
    batch.listed += window.listed
    context.totals.listed += window.listed
    keeps_origin = [site.keeps_origin for site in context.sites]
    horizon_ms = options.horizon_ms()
    for key, versions in window.differing.items():
        heads = versions
        if not all(keeps_origin):
            heads = await with_origins(context.sites, context.bucket, versions)
        action = decide(key, heads, keeps_origin=keeps_origin, horizon_ms=horizon_ms)
        if action is None:
            continue
        context.totals.differing += 1
        if isinstance(action, Quarantine):
            context.totals.quarantined += 1
            name = context.sites[action.site].name
            context.findings.note(
                key=key, what="quarantined", why=f"its time at {name} is in the future"
            )
        else:
            batch.actions.append(action)


async def _settle(
    batch: _Batch, keys: Range, *, options: Options, context: Context, guard: Callable[[], None]
) -> None:
    if options.dry_run:
        for action in batch.actions:
            what = type(action).__name__.lower()
            context.findings.note(key=action.key, what=what, why="planned, not done")
    elif batch.actions:
        guard()
        done = await apply(batch.actions, context=context)
        await verify(
            done, prefix=keys.prefix, after=batch.after, listed=batch.listed, context=context
        )
