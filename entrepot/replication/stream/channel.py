"""One channel: what one site's outbox holds for one other site, brought there.

Invariant: an event is struck off when the target has the version on its disk, or has said for good
that it will not take it (a dead letter). What is brought is the state of a version, not the event:
several events of a version are one transport, and their order does not matter, because the target
orders by stamp. A target or a source that cannot be reached holds up this channel alone, and makes
no dead letters; they wait in the outbox.

An idle channel sends at once. Under load batches grow by themselves: while versions are under way
the next look takes all that came meanwhile. Memory: ``batch_size`` rows, ``workers`` bodies.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects import outbox
from entrepot.catalog.objects.outbox import Waiting
from entrepot.errors import EntrepotError, Fenced, PermanentError, RetryableError
from entrepot.store.retry import RetryPolicy, chance

POLL_S = 1.0
"""For a notification that was lost with its connection."""

STRIKE_EVERY_S = 0.05
"""Nobody waits for an event to be struck off: at 100 writes/s five of them are one statement."""


class Carrier(Protocol):
    """What brings versions from a source to a target; ``objects`` has the one.

    All of it raises ``RetryableError`` where an endpoint or a catalog cannot be reached.
    """

    async def source(self) -> Catalog:
        """The catalog whose outbox is worked off."""
        ...

    async def carry(self, item: Waiting) -> int:
        """Make the target have the version as it is now, or not have it; the bytes that went."""
        ...

    async def secure(self) -> None:
        """Return when all that was carried is on the target's disk."""
        ...

    async def ready(self) -> None:
        """Return where source and target can be reached."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a channel works: the guide's ``batch_size``, ``worker_threads`` and retry policy."""

    batch_size: int = 1000
    batch_timeout_s: float = 0.1
    workers: int = 32
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    give_up_s: float = 600.0
    """A version that fails while its sites answer is tried for so long, at growing distances."""


@dataclass(slots=True)
class Counts:
    """What a channel did since it was asked last."""

    shipped: int = 0
    shipped_bytes: int = 0
    errors: int = 0
    dead: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.shipped + other.shipped,
            self.shipped_bytes + other.shipped_bytes,
            self.errors + other.errors,
            self.dead + other.dead,
        )


class Channel:
    """``await channel.run()`` works until it is cancelled, or ``guard`` raises.

    Args:
        consumer: its name in the source's outbox.
        guard: raises ``Fenced`` once the work is somebody else's.
        resting: whether nothing is to be brought now; what waits goes on waiting.
    """

    def __init__(
        self,
        consumer: str,
        carrier: Carrier,
        *,
        options: Options,
        guard: Callable[[], None],
        resting: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.consumer = consumer
        self.down: EntrepotError | None = None
        """Why nothing moves, while nothing does."""
        self._carrier = carrier
        self._options = options
        self._guard = guard
        self._resting = resting
        self._sleep = sleep
        self._counts = Counts()
        self._in_flight: set[int] = set()
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(options.workers)
        self._healing = asyncio.Lock()
        self._ended: list[int] = []
        self._ended_bytes = 0
        self._errors = 0
        self._has_ended = asyncio.Event()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._wake.set()

    def take_counts(self) -> Counts:
        """What was done since the last call."""
        taken, self._counts = self._counts, Counts()
        return taken

    async def run(self) -> None:
        """Work off the outbox for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._strike_off())
            while True:
                self._guard()
                self._wake.clear()
                await self._rested()
                try:
                    found = await self._waiting()
                except RetryableError:
                    self._failed()
                    await self._heal()
                    continue
                for _, events in groupby(sorted(found, key=_version), key=_version):
                    group = tuple(events)
                    self._in_flight.update(each.id for each in group)
                    tasks.create_task(self._bring(group))
                if not found or len(self._in_flight) >= self._options.batch_size:
                    await self._woken(POLL_S)
                elif len(self._in_flight) >= self._options.workers:
                    await self._woken(self._options.batch_timeout_s)

    async def _waiting(self) -> list[Waiting]:
        room = self._options.batch_size - len(self._in_flight)
        if room <= 0:
            return []
        catalog = await self._carrier.source()
        return await outbox.waiting(catalog, self.consumer, skip=self._in_flight, most=room)

    async def _rested(self) -> None:
        while self._resting():
            self._guard()
            await asyncio.sleep(POLL_S)

    async def _woken(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # ``wait_for`` may lose a cancellation
                await self._wake.wait()

    async def _bring(self, events: Sequence[Waiting]) -> None:
        ids = [each.id for each in events]
        # The first says what is new about it; of what is gone the last does, that it was removed.
        item = events[-1] if events[-1].row is None else events[0]
        if await self._carried(item, ids):
            self._ended += ids
            self._has_ended.set()
        else:
            self._release(ids)
            self._wake.set()

    async def _carried(self, item: Waiting, ids: Sequence[int]) -> bool:
        """Whether the events are to be struck off; else they are given up, or read anew."""
        failures, waited_s = 0, 0.0
        while True:
            await self._rested()
            try:
                async with self._turns:  # not held while it waits: others go on
                    self._guard()
                    self._ended_bytes += await self._carrier.carry(item)
                return True
            except Fenced:
                raise
            except PermanentError as error:
                self._failed()
                await self._bury(ids, error, tries=failures + 1)
                return False
            except RetryableError as error:
                self._failed()
                failures += 1
                if failures % (self._options.retry.max_retries + 1) == 0:
                    if await self._heal():
                        return False
                    # The sites answer: it is a connection now and then, or this version.
                    if waited_s >= self._options.give_up_s:
                        await self._bury(ids, error, tries=failures)
                        return False
                wait_s = self._options.retry.wait_s(failures, chance())
                waited_s += wait_s
                await self._sleep(wait_s)

    async def _strike_off(self) -> None:
        """Acknowledge what has ended: one statement for all that ended during the last one."""
        while True:
            await self._has_ended.wait()
            await asyncio.sleep(STRIKE_EVERY_S)
            self._has_ended.clear()
            ids, self._ended = self._ended, []
            size_bytes, self._ended_bytes = self._ended_bytes, 0
            errors, self._errors = self._errors, 0
            try:
                if ids:
                    await self._carrier.secure()
                catalog = await self._carrier.source()
                await outbox.done(catalog, self.consumer, ids, size_bytes=size_bytes, errors=errors)
            except RetryableError:
                self._ended += ids
                self._ended_bytes += size_bytes
                self._errors += errors
                self._has_ended.set()
                await self._sleep(self._options.retry.wait_s(1, chance()))
                continue
            self._counts.shipped += len(ids)
            self._counts.shipped_bytes += size_bytes
            self._release(ids)

    def _release(self, ids: Sequence[int]) -> None:
        full = len(self._in_flight) >= self._options.workers
        self._in_flight.difference_update(ids)
        if full:
            self._wake.set()

    def _failed(self) -> None:
        self._counts.errors += 1
        self._errors += 1

    async def _bury(self, ids: Sequence[int], error: EntrepotError, *, tries: int) -> None:
        reason = f"{error}; {error.hint}" if error.hint else str(error)
        with suppress(RetryableError):  # then it is tried again
            catalog = await self._carrier.source()
            await outbox.bury(catalog, ids, tries=tries, reason=reason)
            self._counts.dead += len(ids)
            self._has_ended.set()  # and the errors are counted

    async def _heal(self) -> bool:
        """Wait until source and target can be reached; whether there was anything to wait for."""
        waited = self.down is not None
        async with self._healing:
            failures = 0
            while True:
                self._guard()
                try:
                    await self._carrier.ready()
                except EntrepotError as why:
                    waited, self.down = True, why
                    failures += 1
                    self._has_ended.set()
                    await self._sleep(self._options.retry.wait_s(failures, chance()))
                else:
                    self.down = None
                    return waited


def _version(item: Waiting) -> tuple[int, str, str]:
    return item.bucket_id, item.key, item.version_id


@asynccontextmanager
async def listening(
    open_catalog: Callable[[], Awaitable[Catalog]], wake: Callable[[], None]
) -> AsyncIterator[None]:
    """Calls ``wake`` for each commit that puts something into the outbox, and after each gap."""

    async def listen() -> None:
        while True:
            with suppress(EntrepotError):
                catalog = await open_catalog()
                async for _ in catalog.listen(outbox.CHANNEL):
                    wake()
            await asyncio.sleep(POLL_S)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
