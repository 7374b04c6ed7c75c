"""Conflicts as a stream meets them: judged as a sweep would, into the same ledger.

A conflict is met where the write that lost was made, when the write that takes its place arrives:
once for each fork, at one site. Invariant: it is in the ledger before its event is struck off, and
told again it changes nothing.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from uuid import UUID

from entrepot.catalog.conflicts import has_lost, record_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import BucketNotFound, NotFound
from entrepot.replication.conflicts import Conflict, judged
from entrepot.replication.ledger import as_row
from entrepot.replication.plan import Facts
from entrepot.replication.policy import Policy
from entrepot.replication.run import SKEW_MS
from entrepot.replication.sites import Site
from entrepot.replication.skew import bound_ms, measure
from entrepot.replication.view import see
from entrepot.store.protocol import Version

MEASURE_EVERY_S = 300.0
"""As often as a sweep of every five minutes measures the clocks."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two writes, where it was made."""

    site: Site
    version_id: str
    time_ms: int
    is_delete_marker: bool


Met = Callable[[str, str, Side, Side], Awaitable[None]]
"""Is told of bucket, stored key, the write that is served now, and the one that was."""


class ConflictBook:
    """What one direction of a rule's stream tells the ledger; ``job_id`` is of its run."""

    def __init__(
        self, control: Catalog, *, rule: str, job_id: UUID, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._control = control
        self._rule, self._job_id = rule, job_id
        self._clock = clock
        self._bound_ms = 0
        self._measure_at_s: float | None = None

    async def met(self, bucket: str, key: str, served: Side, lost: Side) -> None:
        """Record the two, unless they are the same in all that readers see."""
        where = {"bucket": bucket, "key": key}
        if await has_lost(self._control, identity=lost.version_id, **where):
            return  # to what was served when it was met before, by a stream or a sweep
        # The first one is served of equal times: stamps decided.
        sites = served.site, lost.site
        heads = [await _head(bucket, key, each) for each in (served, lost)]
        history = [[head] for head in heads if head is not None]
        if len(history) < len(heads):  # removed since: there is nothing to take back
            return
        found = await judged(
            see(key, history, keeps=(True, True)),
            facts=Facts(horizon_ms=self._now_ms() + SKEW_MS, names=[each.name for each in sites]),
            policy=Policy(),
            sites=sites,
            bucket=bucket,
            bound_ms=await self._bound(sites),
        )
        if found is not None:
            row = as_row(_served(found.conflict, tied=served.time_ms == lost.time_ms))
            await record_conflicts(
                self._control, [row], rule=self._rule, bucket=bucket, job_id=self._job_id
            )

    async def _bound(self, sites: tuple[Site, Site]) -> int:
        now_s = self._clock.monotonic()
        if self._measure_at_s is None or now_s >= self._measure_at_s:
            skews = await measure(sites, clock=self._clock)
            self._bound_ms = bound_ms(skews, sites=len(sites))
            self._measure_at_s = now_s + MEASURE_EVERY_S
        return self._bound_ms

    def _now_ms(self) -> int:
        return round(self._clock.now().timestamp() * 1000)


async def _head(bucket: str, key: str, side: Side) -> Version | None:
    """The version as a listing shows it."""
    if side.is_delete_marker:
        return Version(key, side.version_id, side.time_ms, is_delete_marker=True)
    try:
        found = await side.site.store.head(bucket, key, version_id=side.version_id)
    except BucketNotFound:
        raise
    except NotFound:
        return None
    return replace(found, mtime_ms=side.time_ms)


def _served(found: Conflict, *, tied: bool) -> Conflict:
    """The streams' rules are those where the latest is served, as it came."""
    reason = "equal times, the later stamp" if tied else found.reason
    return replace(found, serves=found.contenders[found.winner].identity, reason=reason)
