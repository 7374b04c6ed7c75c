"""A rule's stream: who ships to whom, and one run that works until somebody takes over.

Invariant: one run works on a rule at a time, decided by Postgres (a job with lease and epoch, as a
sweep's). The lease is a courtesy here: two runs that overlap do the same twice, and every step
bears that. So a run whose control catalog is out of reach goes on; one that was taken over stops.

Each site ships what was written there to every other site of the rule, and never what it received:
with three sites a write goes out twice from where it was made, and no loop is possible.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self
from uuid import UUID

from entrepot.catalog import jobs
from entrepot.catalog.buckets import Bucket, list_buckets
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lease import Lease
from entrepot.catalog.objects import outbox
from entrepot.catalog.rules import Rule
from entrepot.catalog.states import BucketMode, JobState
from entrepot.catalog.streams import (
    announce_heir,
    forget_heir,
    has_heir,
    record_window,
)
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import Busy, EntrepotError, RetryableError, Unavailable
from entrepot.replication.stream.channel import Carrier, Channel, Counts, Options, listening
from entrepot.terms import Travel

KIND = "replicate_stream"
LEASE_S = 6.0
"""A killed stream is followed after this long at most; three beats of 2 s."""
WINDOW_S = 5.0
"""What is reported at once; also how soon a change of rules is seen."""
_CLAIM_EVERY_S = 0.5
_ALWAYS_S = 366 * 86_400.0

OpenCatalog = Callable[[str], Awaitable[Catalog]]
"""The catalog of a site by its name."""

CarrierOf = Callable[[str, str, UUID], Carrier]
"""What brings versions from a source to a target, in the run of that job."""


class Ended(StrEnum):
    """Why a run ended."""

    HEIR = "heir"  # another run waited for it
    CHANGED = "changed"  # the rule is another one now, or is gone
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Direction:
    """From where to where."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Route:
    """What of a rule a stream needs; ``sources`` are the sites whose writes go to the others.

    ``minting`` are sites whose endpoints choose version ids: the sweep alone brings versions of
    adopted buckets there.
    """

    rule: str
    buckets: tuple[str, ...]
    prefix: str
    sites: tuple[str, ...]
    sources: tuple[str, ...]
    travels: tuple[Travel, ...] = tuple(
        each for each in Travel if each is not Travel.VERSION_DELETES
    )
    minting: tuple[str, ...] = ()
    tag_filter: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: Rule, *, minting: Iterable[str] = ()) -> Self:
        """The route of a rule: every site ships, or the one source of a one-way rule."""
        sources = rule.sites if rule.source is None else (rule.source,)
        mints = tuple(name for name in rule.sites if name in set(minting))
        what = rule.travels, mints, rule.tag_filter
        return cls(rule.name, rule.buckets, rule.prefix, rule.sites, sources, *what)

    @property
    def is_one_way(self) -> bool:
        """Whether other sites' own writes stay where they are."""
        return len(self.sources) == 1

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Who ships to whom."""
        return tuple(Direction(a, b) for a in self.sources for b in self.sites if a != b)


@dataclass(slots=True)
class Stream:
    """A rule's stream as this process runs it."""

    route: Route
    control: Catalog
    open_catalog: OpenCatalog
    carrier_of: CarrierOf
    options: Options = field(default_factory=Options)
    window_s: float = WINDOW_S
    lease_s: float = LEASE_S
    clock: Clock = SYSTEM_CLOCK
    route_now: Callable[[], Awaitable[Route | None]] | None = None
    """The route as the rule is now; another one, or None, ends the stream."""
    resting: Callable[[], bool] = lambda: False
    """Whether the rule may not run now: the stream stays, and brings nothing."""
    channels: dict[Direction, Channel] = field(default_factory=dict)

    async def run(
        self, *, holder: str, flow_run_id: str | None = None, for_s: float = _ALWAYS_S
    ) -> tuple[Counts, Ended]:
        """Wait for the run before to end, then work; until an heir waits, or ``for_s`` are over.

        Raises ``Fenced`` where another run took over.
        """
        claim = await self._claimed(holder, flow_run_id)
        await forget_heir(self.control, self.route.rule)
        deadline = self.clock.monotonic() + for_s
        async with Lease(self.control, claim, lease_s=self.lease_s) as lease:
            total, why = await self._work(_courteous(lease), deadline, claim.job_id)
            report = {"shipped": total.shipped, "errors": total.errors, "dead": total.dead}
            await jobs.finish(self.control, claim, state=JobState.COMPLETED, report=report)
        return total, why

    async def _claimed(self, holder: str, flow_run_id: str | None) -> jobs.Claim:
        while True:
            try:
                return await jobs.claim(
                    self.control,
                    kind=KIND,
                    subject=self.route.rule,
                    holder=holder,
                    lease_s=self.lease_s,
                    resume_within_s=_ALWAYS_S,
                    flow_run_id=flow_run_id,
                )
            except Busy:
                await announce_heir(self.control, self.route.rule)
                await asyncio.sleep(_CLAIM_EVERY_S)

    async def _work(
        self, guard: Callable[[], None], deadline: float, job_id: UUID
    ) -> tuple[Counts, Ended]:
        for each in self.route.directions:
            self.channels[each] = Channel(
                outbox.consumer_name(self.route.rule, each.target),
                self.carrier_of(each.source, each.target, job_id),
                options=self.options,
                guard=guard,
                resting=self.resting,
            )
        working = [asyncio.create_task(each.run()) for each in self.channels.values()]
        async with AsyncExitStack() as stack:
            for source in {each.source for each in self.channels}:
                opening, waking = self._opening(source), self._waking(source)
                await stack.enter_async_context(listening(opening, waking))
            watching = asyncio.create_task(self._windows(deadline))
            try:
                await asyncio.wait([watching, *working], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (watching, *working):
                    task.cancel()
                await asyncio.wait([watching, *working])
        for task in working:
            if not task.cancelled() and (error := task.exception()):
                raise _first(error)
        return watching.result()

    def _opening(self, source: str) -> Callable[[], Awaitable[Catalog]]:
        return lambda: self.open_catalog(source)

    def _waking(self, source: str) -> Callable[[], None]:
        mine = [channel for each, channel in self.channels.items() if each.source == source]

        def wake() -> None:
            for channel in mine:
                channel.wake()

        return wake

    async def _windows(self, deadline: float) -> tuple[Counts, Ended]:
        """Subscribe, and say every few seconds what was done; returns when it is time to end."""
        total = Counts()
        while True:
            began = self.clock.monotonic()
            await asyncio.gather(*map(self._subscribed, self.route.sources))
            await asyncio.sleep(min(self.window_s, max(0.0, deadline - began)))
            counts = sum((each.take_counts() for each in self.channels.values()), start=Counts())
            total += counts
            with suppress(RetryableError):
                await self._record(counts, self.clock.monotonic() - began)
                if await has_heir(self.control, self.route.rule):
                    return total, Ended.HEIR
                if self.route_now and await self.route_now() != self.route:
                    return total, Ended.CHANGED
            if self.clock.monotonic() >= deadline:
                return total, Ended.TIME

    async def _record(self, counts: Counts, seconds: float) -> None:
        catalogs = {}
        for site in self.route.sites:
            with suppress(EntrepotError):
                catalogs[site] = await self.open_catalog(site)
        await record_window(
            self.control,
            catalogs,
            rule=self.route.rule,
            seconds=seconds,
            shipped=counts.shipped,
            shipped_bytes=counts.shipped_bytes,
            errors=counts.errors,
        )

    async def _subscribed(self, site: str) -> None:
        with suppress(RetryableError):  # the next window tries again
            await subscribe_site(await self.open_catalog(site), self.route, site)


async def subscribe_site(catalog: Catalog, route: Route, site: str) -> None:
    """Have the buckets of a rule followed at a site where it ships from."""
    known = {each.name: each for each in await list_buckets(catalog)}
    buckets = [known[name] for name in route.buckets if name in known]
    for each in route.directions:
        if each.source == site:
            name = outbox.consumer_name(route.rule, each.target)
            ids = [bucket.id for bucket in buckets if _goes(bucket, each.target, route)]
            await outbox.subscribe(catalog, name=name, bucket_ids=ids, prefix=route.prefix)


def _goes(bucket: Bucket, target: str, route: Route) -> bool:
    return bucket.mode is BucketMode.MANAGED or target not in route.minting


async def forget_others(catalog: Catalog, routes: Iterable[Route]) -> None:
    """Forget what waits for rules, or sites of rules, that are no more."""
    wanted = {
        outbox.consumer_name(route.rule, each.target)
        for route in routes
        for each in route.directions
    }
    for name in await outbox.consumers(catalog):
        if name not in wanted:
            await outbox.unsubscribe(catalog, name=name)


def _courteous(lease: Lease) -> Callable[[], None]:
    def guard() -> None:
        with suppress(Unavailable):  # nobody can have taken over who had to ask as well
            lease.check()

    return guard


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
