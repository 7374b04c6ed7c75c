"""From a snapshot and a live bucket to a saved plan; and which snapshot knows an instant.

Both are walked side by side in the order of keys. Memory: a page of the snapshot, a page of the
listing, the versions of one key, and the actions of one page of the plan.
"""

import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from entrepot.backup.parents import entries_of
from entrepot.backup.plan import (
    Action,
    Estimate,
    Sums,
    current,
    decide,
    estimate,
    history,
    state_at,
)
from entrepot.catalog import jobs
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lease import Lease
from entrepot.catalog.plans import RESTORE, Plan, add_page, list_plans, seal_plan
from entrepot.catalog.states import JobState
from entrepot.clock import new_id
from entrepot.errors import AlreadyExists, InvalidInput, NotFound
from entrepot.vault.records import Kind, time_of
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Snapshot, Tree
from entrepot.vault.source import disjoint
from entrepot.vault.target import Target

PAGE_ACTIONS: Final = 5_000
"""So that a page comes to some 200 KB, and a thousand pages to five million keys."""

LEASE_S: Final = 15.0
_NAMED: Final = 20
_PAST: Final = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bucket as it was at ``at_ms``; ``vault`` is the name in the settings.

    ``is_whole``: as the snapshot has it, whatever its times say. The clock of a managed bucket runs
    up to two seconds ahead where a process has just started.
    """

    vault: str
    snapshot: str
    tree: Tree
    at_ms: int
    is_whole: bool = False
    prefixes: tuple[str, ...] = ()


async def wanted(
    vault: Vault,
    name: str,
    *,
    site: str,
    bucket: str,
    at_ms: int | None,
    snapshot: str | None = None,
    prefixes: Sequence[str] = (),
) -> Wanted:
    """What is asked for, from the first snapshot that was begun after that instant.

    ``at_ms`` None is what the snapshot has, or the last one. ``InvalidInput`` with the window where
    no snapshot knows the instant; ``NotFound`` where none has the bucket.
    """
    names = [snapshot] if snapshot else await vault.names(Kind.SNAPSHOT)
    place = site, bucket, disjoint(tuple(prefixes))
    if at_ms is None:
        names.reverse()
    for each in names:
        if at_ms is not None and time_of(each).timestamp() * 1000 < at_ms:
            continue  # it began before it was named
        found = await vault.snapshot(each)
        tree = _tree(found, *place)
        if tree and (at_ms is None or at_ms <= found.started_ms):
            instant = found.started_ms if at_ms is None else at_ms
            return Wanted(name, each, tree, instant, at_ms is None, place[2])
    for each in reversed(names):
        found = await vault.snapshot(each)
        if at_ms is not None and _tree(found, *place):
            raise InvalidInput(
                "the instant is later than what was backed up",
                hint=f"the latest is {shown(found.started_ms)}; or: entrepot backup create",
                time=shown(at_ms),
            )
    raise NotFound(
        "no snapshot of the vault has all of that",
        hint=f"entrepot backup list {name}; of prefixes that were backed up, name them",
        site=site,
        bucket=bucket,
    )


def _tree(snapshot: Snapshot, site: str, bucket: str, prefixes: tuple[str, ...]) -> Tree | None:
    """The tree of that bucket, if it covers all of ``prefixes``."""
    for tree in snapshot.trees:
        covers = not tree.prefixes or (
            bool(prefixes) and all(each.startswith(tree.prefixes) for each in prefixes)
        )
        if covers and (tree.kind, tree.site, tree.name) == ("bucket", site, bucket):
            return tree
    return None


async def plan_restore(
    control: Catalog,
    vault: Vault,
    target: Target,
    want: Wanted,
    *,
    holder: str,
    page_actions: int = PAGE_ACTIONS,
) -> Plan:
    """Save a plan that brings ``target`` to what is wanted; its sums are in ``totals``.

    ``target`` has the prefixes of what is wanted. Another bucket than the one that was backed up
    gets the keys beside its own, and ``AlreadyExists`` where it has one of them.
    ``InvalidInput`` where the instant is before all that the snapshot knows.
    """
    claim = await jobs.claim(
        control,
        kind="restore-planning",
        subject=f"{target.site}/{target.name}/{new_id()}",
        holder=holder,
        lease_s=LEASE_S,
        resume_within_s=0,
    )
    async with Lease(control, claim, lease_s=LEASE_S):
        run = _Run(control, claim.job_id, page_actions)
        try:
            await run.walk(vault, target, want)
            plan = await seal_plan(
                control,
                job_id=claim.job_id,
                rule=RESTORE,
                bucket=target.name,
                prefix="",
                totals=await run.totals(target, want),
            )
        except BaseException:
            await jobs.finish(control, claim, state=JobState.FAILED, report={})
            raise
        await jobs.finish(control, claim, state=JobState.COMPLETED, report={})
    return plan


class _Run:
    """One plan that is being made."""

    def __init__(self, control: Catalog, job_id: UUID, page_actions: int) -> None:
        self._control, self._job_id, self._most = control, job_id, page_actions
        self._sums = Sums()
        self._page: list[Action] = []
        self._pages = 0
        self._oldest_ms: int | None = None
        self._taken: list[str] = []

    async def walk(self, vault: Vault, target: Target, want: Wanted) -> None:
        """Decide about every key."""
        elsewhere = (target.site, target.name) != (want.tree.site, want.tree.name)
        kept = entries_of(vault, await vault.index(), want.tree)
        async with aclosing(kept):
            async for key, old, live in _beside(_chosen(kept, want.prefixes), target.entries()):
                for each in old[-1:]:  # the oldest of the key
                    self._oldest_ms = min(self._oldest_ms or each.mtime_ms, each.mtime_ms)
                await self._key(key, old, live, want, elsewhere=elsewhere)
        self._check(want)
        await self._flush()

    async def _key(
        self, key: str, old: list[Entry], live: list[Entry], want: Wanted, *, elsewhere: bool
    ) -> None:
        if want.is_whole:
            wished, is_certain = current(old), True
        else:
            wished, is_certain = state_at(history(old, () if elsewhere else live), want.at_ms)
        if not is_certain:
            self._sums.lost += 1
            self._sums.lost_keys = [*self._sums.lost_keys, key][:_NAMED]
            return
        is_there = wished is not None and not wished.is_delete_marker
        if elsewhere and not is_there:
            return
        action = decide(key, wished, live)
        if action is None:
            self._sums.unchanged += is_there
            return
        if elsewhere and action.over_live:
            self._taken = [*self._taken, key][:_NAMED]
        self._sums.count(action)
        self._page.append(action)
        if len(self._page) >= self._most:
            await self._flush()

    def _check(self, want: Wanted) -> None:
        is_known = self._oldest_ms is not None and self._oldest_ms <= want.at_ms
        if not is_known and not want.is_whole:
            since = shown(self._oldest_ms) if self._oldest_ms else "never"
            raise InvalidInput(
                "the instant is before all that the snapshot knows",
                hint=f"it knows the bucket since {since}",
                time=shown(want.at_ms),
            )
        if self._taken:
            raise AlreadyExists(
                "the other bucket has other objects of these keys",
                hint="restore into an empty bucket",
                keys=self._taken,
            )

    async def _flush(self) -> None:
        if self._page:
            body = dump_actions(self._page)
            await add_page(
                self._control, job_id=self._job_id, shard=0, number=self._pages, body=body
            )
            self._pages, self._page = self._pages + 1, []

    async def totals(self, target: Target, want: Wanted) -> dict[str, Any]:
        """What goes with the plan."""
        sums = self._sums.as_dict()
        expected = await _estimate(self._control, sums)
        return {
            **sums,
            "site": target.site,
            "vault": want.vault,
            "snapshot": want.snapshot,
            "source": [want.tree.site, want.tree.name],
            "covers": list(want.tree.prefixes),
            "prefixes": list(want.prefixes),
            "at_ms": want.at_ms,
            "since_ms": self._oldest_ms,
            "lost_keys": self._sums.lost_keys,
            "seconds": expected.seconds,
            "basis": expected.basis,
        }


async def _estimate(control: Catalog, sums: Mapping[str, int]) -> Estimate:
    done = [
        plan.totals["done"]
        for plan in await list_plans(control, limit=_PAST, restores=True)
        if "done" in plan.totals
    ]
    return estimate(sums, past=done)


def dump_actions(actions: Sequence[Action]) -> bytes:
    """A page of a plan."""
    return zlib.compress(b"".join(each.dump() + b"\n" for each in actions))


def load_actions(body: bytes) -> list[Action]:
    """The inverse."""
    return [Action.parse(line) for line in zlib.decompress(body).splitlines()]


async def _chosen(entries: AsyncIterator[Entry], prefixes: tuple[str, ...]) -> AsyncIterator[Entry]:
    async for entry in entries:
        if not prefixes or entry.key.startswith(prefixes):
            yield entry


async def _by_key(entries: AsyncIterator[Entry]) -> AsyncIterator[list[Entry]]:
    group: list[Entry] = []
    async for entry in entries:
        if group and group[0].key != entry.key:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


async def _beside(
    kept: AsyncIterator[Entry], live: AsyncIterator[Entry]
) -> AsyncIterator[tuple[str, list[Entry], list[Entry]]]:
    """What two listings have of each key."""
    lefts, rights = _by_key(kept), _by_key(live)
    left, right = await anext(lefts, None), await anext(rights, None)
    while left or right:
        key = min((each[0].key for each in (left, right) if each), key=str.encode)
        old = left if left and left[0].key == key else []
        new = right if right and right[0].key == key else []
        yield key, old, new
        left = await anext(lefts, None) if old else left
        right = await anext(rights, None) if new else right


def shown(time_ms: int) -> str:
    """An instant for people."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
