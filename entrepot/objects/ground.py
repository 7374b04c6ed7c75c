"""What every operation on a site's objects stands on: store, catalog, keys, clock and lanes.

Invariant: within one process all writes of a site go through one ``Ground``, so its clock is asked
once and its statements are shared by all callers of a moment.
"""

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID

from entrepot.catalog.buckets import Bucket, get_bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.audit import AuditChain, ready_months
from entrepot.catalog.objects.commit import Recorder, Seen, commit_writes, write
from entrepot.catalog.objects.facts import (
    Changes,
    EffectKind,
    Intent,
    Json,
    NewIntent,
    ObjectRow,
    Place,
    WriteKind,
)
from entrepot.catalog.objects.intents import begin, raise_floor
from entrepot.catalog.objects.read import newest_versions
from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.codec.keys.ring import KeyRing
from entrepot.codec.primitives import derive
from entrepot.errors import BucketNotFound, RetryableError, Unavailable
from entrepot.objects.lanes import Lane
from entrepot.objects.settle import Outcome, Overtook, Refusal, Verdict, settle
from entrepot.stamp import AHEAD_MS, BOUND_MS, HybridClock
from entrepot.store.protocol import Capability, Store

AUDITOR = "entrepot-audit"
"""The name under which the key ring keeps the audit trail's keys."""

COMMIT_TRIES = 5

# A commit costs two processes some 0.9 ms each whatever is in it, and each write 0.2 ms; a lookup
# 0.3 ms. With 32 callers: 0.54 of the bare store's puts a second without patience, 0.87 with this
# one, at a median of 47 instead of 72 ms, since the two cores have less to do.
END_PATIENCE_S = 0.02
LOOKUP_PATIENCE_S = 0.0015
BUCKET_TTL_S = 2.0
STREAMS = 16
"""Bodies read here while they are written elsewhere: half the connections (``Site.streams``)."""
_NONE: Json = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds.

    ``lease_s`` is how long a silent writer's intent stands before recovery ends it.
    """

    lease_s: float = 60.0
    recover_every_s: float = 60.0
    bound_ms: int = BOUND_MS


@dataclass(frozen=True, slots=True)
class End:
    """A write whose bytes are in the store, or are known not to count."""

    intent: Intent
    outcome: Outcome


@dataclass(slots=True)
class Ground:
    """One site as this process works on it. ``writer`` is eight hex digits, new at each start."""

    site: str
    store: Store
    catalog: Catalog
    ring: KeyRing
    capabilities: frozenset[Capability]
    limits: Limits = field(default_factory=Limits)
    clock: Clock = SYSTEM_CLOCK
    identity: UUID = field(default_factory=new_id)
    under_way: set[UUID] = field(default_factory=set)
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STREAMS))
    has_internal: bool = False
    _buckets: dict[str, tuple[float, Bucket]] = field(default_factory=dict)

    hybrid: HybridClock = field(init=False)
    recorder: Recorder = field(init=False)
    intents: Lane[NewIntent, Intent | None] = field(init=False)
    ends: Lane[End, Verdict] = field(init=False)
    lookups: Lane[Place, ObjectRow | None] = field(init=False)

    @property
    def writer(self) -> str:
        return self.identity.hex[:8]

    async def start(self) -> None:
        """Learn the clock's floor, and have what this writer records its changes with."""
        kept_ms, _ = await raise_floor(self.catalog, 0)
        self.hybrid = HybridClock(floor_ms=kept_ms, bound_ms=self.limits.bound_ms, clock=self.clock)
        key = await self.ring.current(AUDITOR)
        chain = AuditChain(self.identity, self.writer, key.number, audit_secret(key.secret))
        await ready_months(self.catalog, self.clock.now())
        self.recorder = Recorder(chain, self.identity.int % 16, self.clock.now)
        self.intents = Lane(self._begin)
        self.ends = Lane(self._end, patience_s=END_PATIENCE_S, expected=self._half_of_writers)
        self.lookups = Lane(self._look_up, patience_s=LOOKUP_PATIENCE_S)

    def through(self, store: Store) -> Self:
        """The same site, its store asked through a wrapper; all else is shared."""
        other = copy(self)
        other.store = store
        return other

    def _half_of_writers(self) -> int:
        return len(self.under_way) // 2

    async def bucket(self, name: str) -> Bucket:
        """The bucket as the catalog has it, at most two seconds old while it can be asked."""
        known = self._buckets.get(name)
        now = self.clock.monotonic()
        if known:
            if known[0] > now:
                return known[1]
            self._buckets[name] = now + BUCKET_TTL_S, known[1]  # one caller asks, not all of them
        try:
            found = await get_bucket(self.catalog, name=name)
        except BucketNotFound:
            self.forget(name)
            raise
        except RetryableError:
            if known:  # reads go on without the catalog
                return known[1]
            raise
        if len(self._buckets) > 10_000:
            self._buckets.clear()
        self._buckets[name] = now + BUCKET_TTL_S, found
        return found

    async def note(self, changes: Changes) -> None:
        """Record what happened outside of any key's transaction."""
        async with self.catalog.transaction() as transaction:
            await write(transaction, changes, recorder=self.recorder)

    def forget(self, name: str) -> None:
        """Ask for the bucket anew the next time."""
        self._buckets.pop(name, None)

    async def intend(self, new: NewIntent) -> Intent:
        """Record a write that is about to start, and have its stamp."""
        for _ in range(COMMIT_TRIES):
            if intent := await self.intents.submit(new):
                self.under_way.add(intent.write_id)
                return intent
        # Another process dropped the bucket, and may have made it anew under another id.
        for name in [name for name, (_, each) in self._buckets.items() if each.id == new.bucket_id]:
            self.forget(name)
        raise Unavailable(
            "the bucket was dropped, or too many write one key at once",
            hint="try again",
            key=new.key,
        )

    async def _begin(self, new: Sequence[NewIntent]) -> Sequence[Intent | None]:
        wall_ms = self.hybrid.wall_ms()
        if wall_ms > self.hybrid.floor_ms:  # the catalog looks at a time before we give it
            await self._keep_floor(wall_ms + AHEAD_MS)
        now_ms = self.hybrid.now_ms()
        if floor_ms := self.hybrid.next_floor_ms():
            await self._keep_floor(floor_ms)
        stamped = [
            NewIntent(n.write_id, n.bucket_id, n.key, n.kind, n.version_id, now_ms, n.details)
            for n in new
        ]
        found = await begin(
            self.catalog,
            stamped,
            site=self.site,
            writer=self.writer,
            lease_s=self.limits.lease_s,
        )
        for intent in found.values():
            self.hybrid.observe(intent.stamp.time_ms)
        return [found.get(n.write_id) for n in new]

    async def _keep_floor(self, floor_ms: int) -> None:
        _, theirs_ms = await raise_floor(self.catalog, 0)
        apart_ms = abs(theirs_ms - self.hybrid.wall_ms())
        if apart_ms > self.limits.bound_ms:
            raise Unavailable(
                "this machine's clock and the catalog's are far apart",
                hint="set both clocks by NTP",
                apart_ms=apart_ms,
            )
        self.hybrid.floor_ms, _ = await raise_floor(self.catalog, floor_ms)

    async def _end(self, ends: Sequence[End]) -> Sequence[Verdict | Exception]:
        """Commit, again where the answer was lost: a write that was committed stays so."""
        outcomes = {end.intent.write_id: end.outcome for end in ends}
        verdicts: dict[UUID, Verdict] = {}

        def decide(seen: Seen) -> Changes:
            changes, found = settle(seen, outcomes)
            verdicts.update(found)
            late = [end.intent for end in ends if _is_late(end.intent, seen)]
            purges = ((i.bucket_id, i.key, i.version_id, EffectKind.PURGE, _NONE) for i in late)
            return replace(changes, effects=(*changes.effects, *purges))

        places = [(end.intent.bucket_id, end.intent.key) for end in ends]
        replicas = [e.intent.write_id for e in ends if e.intent.kind is WriteKind.REPLICA]
        for failures in range(COMMIT_TRIES):
            try:
                seen = await commit_writes(
                    self.catalog,
                    list(outcomes),
                    places,
                    decide,
                    recorder=self.recorder,
                    replicas=replicas,
                )
            except RetryableError:
                if failures + 1 == COMMIT_TRIES:
                    raise
                await asyncio.sleep(0.05 * 4**failures)
            else:
                return [_answer(end, verdicts, seen) for end in ends]
        raise AssertionError("unreachable")

    async def _look_up(self, places: Sequence[Place]) -> Sequence[ObjectRow | None]:
        found = await newest_versions(self.catalog, places)
        return [found.get(place) for place in places]


def _answer(end: End, verdicts: Mapping[UUID, Verdict], seen: Seen) -> Verdict | Exception:
    write_id = end.intent.write_id
    if (row := seen.done.get(write_id)) is not None:
        return Overtook(row, None) if end.intent.kind is WriteKind.REPLICA else row
    verdict = verdicts.get(write_id)
    # Of a try that was rolled back only a refusal may stand: it promised nothing.
    if verdict is not None and (write_id in seen.intents or isinstance(verdict, Refusal)):
        return verdict
    return Unavailable(
        "the write took too long and was given up",
        hint="send it again",
        key=end.intent.key,
    )


def _is_late(intent: Intent, seen: Seen) -> bool:
    """Whether others gave this write up before its bytes came: the store must not keep them.

    Not where the client names the version: it may complete an upload again.
    """
    is_known = intent.write_id in seen.intents or intent.write_id in seen.done
    return not is_known and intent.kind is not WriteKind.COMPLETE


def audit_secret(secret: bytes) -> bytes:
    """The key of the audit chain, from the auditor's key of the ring."""
    return derive(secret, salt=b"", info=b"entrepot/1 audit")
