"""Carrying out a saved plan of a restore: exactly that, and nothing where a key has moved since.

Invariant: nothing is removed; what comes back is a new version, and what was written since gets a
delete marker. What each key had before and has now is recorded as the plan back, page by page, so
a restore can be undone, and that undone in turn. A run that was killed goes on at the page where
it was: a key that is as wished already is done.

Memory: a page of actions and of the plan back, ``parallel`` objects of up to 2 MiB and four larger
ones with 24 MiB each, and what a write of the target takes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from entrepot.backup.parents import entries_of
from entrepot.backup.plan import Action, Do, Sums, is_equal, undo_of
from entrepot.backup.planning import LEASE_S, dump_actions, load_actions
from entrepot.backup.reading import bytes_of, proven
from entrepot.catalog import jobs
from entrepot.catalog.connect import Catalog
from entrepot.catalog.jobs import Claim
from entrepot.catalog.lease import Lease
from entrepot.catalog.plans import (
    RESTORE,
    Plan,
    add_page,
    get_plan,
    mark_applied,
    pages,
    seal_plan,
    undo_plan,
)
from entrepot.catalog.states import JobState
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import (
    AccessDenied,
    Busy,
    IntegrityError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from entrepot.replication.workers import side_by_side
from entrepot.vault.index import Index
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry
from entrepot.vault.target import Target

KIND: Final = "restore"
RESUME_WITHIN_S: Final = 30 * 24 * 3600.0
"""As long as plans are kept."""

PARALLEL: Final = 16
LARGE_BYTES: Final = 2 << 20
LARGE_AT_ONCE: Final = 4
"""Of larger objects out of the vault: each reads up to 24 MiB ahead."""

FINDINGS_MAX: Final = 100
BUSY_TRIES: Final = 3

_OF_ONE_KEY = (AccessDenied, IntegrityError, InvalidInput, LimitExceeded, NotFound, Unsupported)
"""What keeps one key from coming back, and not the others."""


@dataclass(slots=True)
class Applied:
    """What came of a plan. ``moved`` keys were written since and left alone."""

    done: int = 0
    moved: int = 0
    failed: int = 0
    bytes: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The numbers by name."""
        return {name: each for name, each in asdict(self).items() if name != "findings"}

    def note(self, key: str, what: str, why: str) -> None:
        """Say what became of a key that is not as wished."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append({"key": key, "what": what, "why": why})


async def find_plan(control: Catalog, plan_id: UUID, *, back: bool) -> Plan:
    """A plan of a restore, or with ``back`` the one that undoes it; ``NotFound``."""
    plan = await get_plan(control, plan_id=plan_id)
    if plan.rule != RESTORE:
        raise NotFound("this is no plan of a restore", hint="entrepot restore status")
    return await undo_plan(control, plan_id=plan_id) if back else plan


async def apply_restore(
    control: Catalog,
    plan: Plan,
    target: Target,
    *,
    vault: Vault | None,
    holder: str,
    flow_run_id: str | None = None,
    parallel: int = PARALLEL,
    clock: Clock = SYSTEM_CLOCK,
) -> Applied:
    """Carry out a plan; one that was carried out before gives its counts again.

    ``vault`` is the one that ``plan.totals`` names; none for a plan back. Raises ``Busy`` where
    another run applies it, and what a store raises that trying again may help.
    """
    if (await get_plan(control, plan_id=plan.id)).applied_at:
        kept = (await undo_plan(control, plan_id=plan.id)).totals["done"]
        return Applied(kept["done"], kept["moved"], kept["failed"], kept["bytes"])
    claim = await jobs.claim(
        control,
        kind=KIND,
        subject=str(plan.id),
        holder=holder,
        lease_s=LEASE_S,
        resume_within_s=RESUME_WITHIN_S,
        flow_run_id=flow_run_id,
    )
    began = clock.monotonic()
    async with Lease(control, claim, lease_s=LEASE_S) as lease, AsyncExitStack() as stack:
        run = _Run(control, claim, lease, plan=plan, target=target, parallel=parallel)
        await run.open(vault, stack)
        await run.pages()
        await run.close(clock.monotonic() - began)
    return run.applied


class _Run:
    """One plan while it is carried out."""

    def __init__(
        self,
        control: Catalog,
        claim: Claim,
        lease: Lease,
        *,
        plan: Plan,
        target: Target,
        parallel: int,
    ) -> None:
        self._control, self._claim, self._lease = control, claim, lease
        self._plan, self._target = plan, target
        self._room, self._large = asyncio.Semaphore(parallel), asyncio.Semaphore(LARGE_AT_ONCE)
        self._vault: Vault | None = None
        self._index = Index()
        self._kept: AsyncIterator[Entry] | None = None
        self._next: Entry | None = None
        self._back = Sums()
        self.applied = Applied()

    async def open(self, vault: Vault | None, stack: AsyncExitStack) -> None:
        """Find the entries of the snapshot that the plan was made from."""
        if vault is None:
            return
        said = self._plan.totals
        snapshot = await vault.snapshot(said["snapshot"])
        tree = next(
            each
            for each in snapshot.trees
            if [each.site, each.name] == said["source"] and list(each.prefixes) == said["covers"]
        )
        self._vault, self._index = vault, await vault.index()
        kept = entries_of(vault, self._index, tree)
        self._kept = await stack.enter_async_context(aclosing(kept))

    async def pages(self) -> None:
        """Carry out page after page, from the first that was not recorded as done."""
        [shard] = await jobs.plan_shards(self._control, self._claim, [("", "")])
        start = int(shard.cursor or 0)
        for name in ("done", "moved", "failed", "bytes"):
            setattr(self.applied, name, shard.counters.get(name, 0))
        for do in Do:
            setattr(self._back, do.value, shard.counters.get(f"back_{do}", 0))
        self._back.bytes = shard.counters.get("back_bytes", 0)
        number = 0
        async for body in pages(self._control, plan_id=self._plan.id):
            if number >= start:
                await self._page(load_actions(body), number)
            number += 1

    async def _page(self, actions: list[Action], number: int) -> None:
        wished = await self._wished(actions)
        backs = await side_by_side(
            self._key(action, wished.get((action.key, action.version_id))) for action in actions
        )
        back = [each for each in backs if each]
        for each in back:
            self._back.count(each)
        await add_page(
            self._control,
            job_id=self._claim.job_id,
            shard=0,
            number=number,
            body=dump_actions(back),
        )
        back_counts = {f"back_{do}": getattr(self._back, do.value) for do in Do}
        await jobs.checkpoint(
            self._control,
            self._claim,
            number=0,
            cursor=str(number + 1),
            counters={**self.applied.counts(), **back_counts, "back_bytes": self._back.bytes},
            done=False,
        )

    async def _wished(self, actions: list[Action]) -> Mapping[tuple[str, str], Entry]:
        """The entries that a page of actions names, of those that the snapshot has."""
        names = {(each.key, each.version_id) for each in actions}
        last = actions[-1].key.encode()
        found: dict[tuple[str, str], Entry] = {}
        while self._kept and (entry := self._next or await anext(self._kept, None)):
            self._next = entry
            if entry.key.encode() > last:
                break
            self._next = None
            if (entry.key, entry.version_id) in names:
                found[entry.key, entry.version_id] = entry
        return found

    async def _key(self, action: Action, kept: Entry | None) -> Action | None:
        """Do one thing; what would undo it, None where nothing was done."""
        async with self._room:
            try:
                return await self._tried(action, kept)
            except (PreconditionFailed, Busy) as error:
                self.applied.note(action.key, "moved", error.message)
            except _OF_ONE_KEY as error:
                self.applied.note(action.key, "failed", error.message)
        return None

    async def _tried(self, action: Action, kept: Entry | None) -> Action | None:
        """Again where another write of the key was under way, until it is there or was refused."""
        for _ in range(BUSY_TRIES - 1):
            try:
                return await self._carry_out(action, kept)
            except Busy:
                continue
        return await self._carry_out(action, kept)

    async def _carry_out(self, action: Action, kept: Entry | None) -> Action | None:
        now = await self._target.look(action.key)
        there = await self._there(action) if kept is None or action.is_live else None
        wished = kept or there
        if action.do is not Do.HIDE and wished is None:
            raise NotFound("the version that was current then is gone")
        if ((now.version_id, now.etag) if now else ("", "")) != (action.over_id, action.over_etag):
            return self._moved(action, wished, now)
        self._lease.check()
        if action.do is Do.HIDE:
            if now is None:
                raise PreconditionFailed("the key is gone")
            after = await self._target.hide(action.key, over=now)
        else:
            assert wished
            after = await self._target.put(wished, self._bytes(wished, there), over=now)
            self.applied.bytes += wished.size_bytes
        self.applied.done += 1
        return undo_of(action, after)

    def _moved(self, action: Action, wished: Entry | None, now: Entry | None) -> Action | None:
        """As after ``_carry_out`` if the key is as wished already, as by a run that was killed."""
        hidden = now is None or now.is_delete_marker
        is_done = hidden if action.do is Do.HIDE else wished and now and is_equal(now, wished)
        if not is_done:
            raise PreconditionFailed("it was written since the plan was made; left alone")
        self.applied.done += 1
        return undo_of(action, now) if now else None

    async def _there(self, action: Action) -> Entry | None:
        """The wished version, where it is still in the bucket as it was."""
        if not action.is_live:
            return None
        found = await self._target.version(action.key, action.version_id)
        return found if found and found.etag == action.etag else None

    async def _bytes(self, wished: Entry, there: Entry | None) -> AsyncIterator[bytes]:
        """The wished bytes, from the bucket itself or from the vault, proven before the last."""
        try:
            if there is not None:
                async with self._target.open(there) as pieces:
                    async for piece in proven(pieces, wished):
                        yield piece
            elif self._vault:
                is_large = wished.size_bytes > LARGE_BYTES
                chunks = bytes_of(self._vault, self._index, wished)
                async with self._large if is_large else nullcontext(), aclosing(chunks):
                    async for piece in chunks:
                        yield piece
        except NotFound as error:  # which in a write would say that the target is gone
            raise IntegrityError(error.message, hint=error.hint, key=wished.key) from error

    async def close(self, seconds: float) -> None:
        """Make what was recorded the plan back, and end the job."""
        said = self._plan.totals
        keys = self.applied.done + self.applied.moved + self.applied.failed
        totals: dict[str, Any] = {
            **self._back.as_dict(),
            "site": said["site"],
            "vault": "",
            "undoes": str(self._plan.id),
            "done": {**self.applied.counts(), "keys": keys, "seconds": round(seconds, 3)},
        }
        await seal_plan(
            self._control,
            job_id=self._claim.job_id,
            rule=RESTORE,
            bucket=self._plan.bucket,
            prefix="",
            totals=totals,
        )
        await mark_applied(self._control, plan_id=self._plan.id)
        report = {"totals": self.applied.counts(), "findings": self.applied.findings}
        state = JobState.FAILED if self.applied.failed else JobState.COMPLETED
        await jobs.finish(self._control, self._claim, state=state, report=report)
