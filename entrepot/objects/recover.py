"""Ends what others left: writes whose writer has gone, and what the store was not told.

Invariant: a version that is whole in the store becomes a row, one that is not leaves nothing, and
neither depends on who looks or how often. Both are decided as the writer would have: by the same
``settle``, from what the store has.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from entrepot.catalog.buckets import Bucket, list_buckets
from entrepot.catalog.objects.audit import ready_months
from entrepot.catalog.objects.effects import done_effects, take_effects
from entrepot.catalog.objects.facts import Effect, EffectKind, Intent, ObjectRow, WriteKind
from entrepot.catalog.objects.intents import drop, renew, take_expired
from entrepot.catalog.objects.replicas import forget_purges
from entrepot.errors import EntrepotError, NotFound, PermanentError, RetryableError
from entrepot.objects.bodies import Digest
from entrepot.objects.ground import End, Ground
from entrepot.objects.leftovers import drop_upload
from entrepot.objects.marks import to_json, unmarked
from entrepot.objects.names import stored_key
from entrepot.objects.reads import find_in_store, row_of
from entrepot.objects.receive import arrived
from entrepot.objects.removal import carry_out
from entrepot.objects.settle import Outcome, Overtook
from entrepot.objects.uploads import clean
from entrepot.store.marks import mark_of
from entrepot.store.protocol import Version

_BATCH = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one pass did."""

    completed: int = 0
    released: int = 0
    effects: int = 0

    def __add__(self, other: "Recovered") -> "Recovered":
        return Recovered(
            self.completed + other.completed,
            self.released + other.released,
            self.effects + other.effects,
        )


async def recover(ground: Ground, *, older_s: float | None = None) -> Recovered:
    """End writes whose lease ran out; carry out effects that nobody did for ``older_s``."""
    buckets = {each.id: each for each in await list_buckets(ground.catalog)}
    total = Recovered()
    while found := await take_expired(ground.catalog, most=_BATCH, lease_s=ground.limits.lease_s):
        done = [await _end(ground, buckets.get(intent.bucket_id), intent) for intent in found]
        total += Recovered(completed=sum(done), released=len(done) - sum(done))
    lease_s = ground.limits.lease_s
    older_s = lease_s if older_s is None else older_s
    how = {"older_s": older_s, "lease_s": lease_s}
    while effects := await take_effects(ground.catalog, **how, most=_BATCH):
        total += Recovered(effects=(count := await _carry_out(ground, buckets, effects)))
        if count == 0:  # with no wait the same would come again
            break
    return total


async def _end(ground: Ground, bucket: Bucket | None, intent: Intent) -> bool:
    """Roll one write forward, or release it; whether it counts now."""
    try:
        outcome = await _outcome(ground, bucket, intent) if bucket else None
        verdict = await ground.ends.submit(End(intent, outcome)) if outcome else None
    except PermanentError as error:
        # Its bytes may be whole and unreadable here, as with a key that was shredded, or the
        # catalog cannot hold it: it was never acknowledged. What there is stays in the store,
        # where a check names it, and does not hold up the others.
        _log.warning("a write cannot be recovered: %s", error)
        verdict = None
    if verdict is None:
        await drop(ground.catalog, [intent.write_id])
    elif intent.kind is WriteKind.COMPLETE:
        await clean(ground, intent.write_id)
    return isinstance(verdict, ObjectRow | Overtook)


async def _outcome(ground: Ground, bucket: Bucket, intent: Intent) -> Outcome | None:
    """What the store has of a write; None where it has nothing."""
    if intent.kind is WriteKind.REPLICA:
        return await arrived(ground, bucket, intent)
    key = stored_key(intent.key)
    try:
        version = await ground.store.head(bucket.name, key, version_id=intent.version_id)
    except NotFound as error:
        is_marker = error.fields.get("status") == 405 and intent.kind is WriteKind.DELETE
        return Outcome() if is_marker else None
    mark = mark_of(version)
    if mark is None or mark.write_id != intent.write_id:
        return None
    row = row_of(ground.site, bucket, version)
    kept = intent.details.get("kept", to_json(unmarked(version.attributes)))
    promised = intent.details.get("checksums", {})
    if row.seal:
        row = await find_in_store(ground, bucket, intent.key, intent.version_id)
        found = row.attributes.get("checksums", {})
        kept = {**kept, "checksums": found} if found else kept
        return Outcome(row.size_bytes, version.size_bytes, row.etag, row.seal, kept)
    etag = intent.details.get("etag", version.etag)
    sums: dict[str, str] = {}
    if promised or ("-" in etag and "etag" not in intent.details):
        etag, sums = await _digested(ground, bucket, version, promised)
        kept = {**kept, "checksums": sums} if sums else kept
    size = version.size_bytes
    return Outcome(size, size, etag, "", kept, is_damaged=sums != promised)


async def _digested(
    ground: Ground, bucket: Bucket, version: Version, promised: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """ETag and checksums of stored bytes, read again."""
    digest = Digest(promised, size_bytes=None)
    async with ground.store.get(bucket.name, version.key, version_id=version.version_id) as body:
        async for piece in body:
            digest.update(piece)
    return digest.etag, digest.values


async def _carry_out(ground: Ground, buckets: dict[int, Bucket], effects: Iterable[Effect]) -> int:
    done = []
    for effect in effects:
        bucket = buckets.get(effect.bucket_id)
        try:
            if bucket and effect.kind is EffectKind.ABORT:
                if not await drop_upload(ground, bucket, effect):
                    continue
            elif bucket:
                place = bucket, effect.key, effect.version_id
                bypass = bool(effect.details.get("bypass"))
                await carry_out(ground, *place, kind=effect.kind, bypass=bypass)
        except NotFound:
            pass
        except PermanentError as error:  # it stays, and does not hold up the others
            _log.warning("the store refuses what a row says: %s", error)
            continue
        done.append(effect.id)
    await done_effects(ground.catalog, done)
    return len(done)


class Keeper:
    """Renews the leases of our writes, and recovers those of others: at the start and then on."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        self._tasks = (
            asyncio.create_task(self._renew()),
            asyncio.create_task(self._recover()),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _renew(self) -> None:
        ground = self._ground
        while True:
            await asyncio.sleep(ground.limits.lease_s / 3)
            try:
                if ids := list(ground.under_way):
                    await renew(ground.catalog, ids, lease_s=ground.limits.lease_s)
            except RetryableError as error:
                # The lease is three tries long; a write that outlives it is told so at its end.
                _log.warning("leases could not be renewed: %s", error)

    async def _recover(self) -> None:
        ground = self._ground
        while True:
            try:
                await ready_months(ground.catalog, ground.clock.now())
                await forget_purges(ground.catalog)
                found = await recover(ground)
                if found != Recovered():
                    _log.info(
                        "recovered: %d completed, %d released", found.completed, found.released
                    )
            except EntrepotError as error:
                _log.warning("recovery will be tried again: %s", error)
            await asyncio.sleep(ground.limits.recover_every_s)
