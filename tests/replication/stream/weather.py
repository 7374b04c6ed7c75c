"""What may go wrong between a process and the stores and catalogs of sites; clocks that are off."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, LiteralString, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog.connect import Catalog, Rows, Transaction
from entrepot.catalog.silence import WITHIN_S
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import AccessDenied, Unavailable
from entrepot.store.protocol import Body, Page, Store
from entrepot.store.wrapper import Again, StoreWrapper

T = TypeVar("T")


class Crash(Exception):
    """A process that is gone."""


class Skewed:
    """A site's clock: all go on together, each off by something of its own."""

    def __init__(self, began: datetime, ticks: list[int], offset_ms: int) -> None:
        self._began, self._ticks, self._offset_ms = began, ticks, offset_ms

    def now(self) -> datetime:
        self._ticks[0] += 1
        # Every third look is in the millisecond of the one before: ties happen.
        ms = self._ticks[0] - self._ticks[0] // 3 + self._offset_ms
        return self._began + timedelta(milliseconds=ms)

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()


@dataclass
class Weather:
    """What goes wrong for one process; ``off`` are sites that it cannot reach."""

    chance: random.Random
    faults: float = 0.0
    off: set[str] = field(default_factory=set)
    is_dead: bool = False

    async def around(
        self, site: str, call: Callable[[], Awaitable[T]], *, twice: bool = False
    ) -> T:
        async with self.over(site) as what:
            answer = await call()
            return await call() if what == "twice" and twice else answer

    @asynccontextmanager
    async def over(self, site: str) -> AsyncGenerator[str, None]:
        """Around one request."""
        if self.is_dead:
            raise Crash
        if site in self.off:
            raise Unavailable("cut off")
        for _ in range(self.chance.randrange(4)):  # others may come first
            await asyncio.sleep(0)
        what = ""
        if self.chance.random() < self.faults:
            kinds = ["refused", "denied", "answer lost", "twice", "crash", "crash after"]
            what = self.chance.choice(kinds)
        self._before(what)
        yield what
        self._after(what)

    def _before(self, what: str) -> None:
        if what == "refused":
            raise Unavailable("refused")
        if what == "denied":
            raise AccessDenied("denied")
        if what == "crash" or self.is_dead:
            self.is_dead = True
            raise Crash

    def _after(self, what: str) -> None:
        if what == "crash after":
            self.is_dead = True
        if self.is_dead:
            raise Crash
        if what == "answer lost":
            raise Unavailable("the answer was lost")


class WeakStore(StoreWrapper):
    """Between a process and a site's store."""

    def __init__(self, store: Store, site: str, weather: Weather) -> None:
        super().__init__(store)
        self._site, self._weather = site, weather

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        twice = again is Again.ALWAYS and verb != "copy"
        return await self._weather.around(self._site, call, twice=twice)

    @asynccontextmanager
    async def get(self, bucket: str, key: str, **how: Any) -> AsyncGenerator[Body, None]:
        """See ``ObjectStore.get``."""
        async with self._weather.over(self._site), self._store.get(bucket, key, **how) as body:
            yield body

    async def versions(self, bucket: str, **how: Any) -> AsyncIterator[Page]:
        """See ``ObjectStore.versions``."""
        async for page in self._store.versions(bucket, **how):
            async with self._weather.over(self._site):
                yield page


class WeakCatalog(Catalog):
    """Between a process and a site's catalog; a copy for each process shares its connections."""

    site: str
    weather: Weather

    @asynccontextmanager
    async def begin(self, *, within_s: float = WITHIN_S) -> AsyncIterator[AsyncConnection]:
        """See ``Catalog.begin``."""
        async with self.weather.over(self.site), super().begin(within_s=within_s) as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self, *, within_s: float = WITHIN_S) -> AsyncIterator[Transaction]:
        """See ``Catalog.transaction``."""
        async with self.weather.over(self.site), super().transaction(within_s=within_s) as one:
            yield one

    async def ask(
        self, statement: LiteralString, given: Mapping[str, Any], *, within_s: float = WITHIN_S
    ) -> Rows:
        """See ``Catalog.ask``."""
        asked = super().ask
        return await self.weather.around(
            self.site, lambda: asked(statement, given, within_s=within_s)
        )
