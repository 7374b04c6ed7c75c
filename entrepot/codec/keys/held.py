"""Values that are fetched from a service which may be down, and held for a stated time.

The contract, with ``ttl_s`` seconds counted from the start of the fetch that a value came from:

- up to half of it, the value is given without asking;
- from half of it on, a use asks for a fresh one. While that fails, the value is given all the same;
  the failure is counted, and the next use after ``ttl_s / 20`` asks again;
- after ``ttl_s`` the value is never given: the fetch's answer is, or its error.

Whoever comes while a value is being fetched does not ask a second time. Memory: ``size_max``
values, of which the one not used for longest goes first. One event loop uses it; nothing runs in
the background.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from entrepot.clock import Clock
from entrepot.errors import EntrepotError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Item(Generic[V]):
    value: V = field(repr=False)
    since_s: float
    ask_again_s: float = 0.0


class Held(Generic[K, V]):
    """Values by name; ``failures`` counts fetches that failed while the value was still good."""

    def __init__(self, *, ttl_s: float, size_max: int, clock: Clock) -> None:
        self._ttl_s = ttl_s
        self._size_max = size_max
        self._clock = clock
        self._items: OrderedDict[K, _Item[V]] = OrderedDict()
        self._flights: dict[K, asyncio.Task[V]] = {}
        self.failures = 0

    async def get(self, name: K, fetch: Callable[[], Awaitable[V]]) -> V:
        """The value of ``name``, held or fetched; raises what ``fetch`` raises."""
        item, now_s = self._items.get(name), self._clock.monotonic()
        if item is None or now_s - item.since_s > self._ttl_s:
            return await self._fetched(name, fetch)
        self._items.move_to_end(name)
        is_fresh = now_s - item.since_s <= self._ttl_s / 2
        if is_fresh or now_s < item.ask_again_s or name in self._flights:
            return item.value
        try:
            return await self._fetched(name, fetch)
        except EntrepotError:
            self.failures += 1
            item.ask_again_s = self._clock.monotonic() + self._ttl_s / 20
            if self._clock.monotonic() - item.since_s > self._ttl_s:
                raise  # asking took so long that the value has aged out
            return item.value

    def put(self, name: K, value: V, *, since_s: float) -> None:
        """Hold ``value`` as if it were fetched at ``since_s`` of the clock's timer."""
        self._items[name] = _Item(value, since_s)
        self._items.move_to_end(name)
        while len(self._items) > self._size_max:
            self._items.popitem(last=False)

    def drop(self, name: K) -> None:
        """Forget the value, and what a fetch under way will bring."""
        self._items.pop(name, None)
        self._flights.pop(name, None)

    def names(self) -> list[K]:
        """What is held or being fetched."""
        return [*self._items, *(name for name in self._flights if name not in self._items)]

    async def _fetched(self, name: K, fetch: Callable[[], Awaitable[V]]) -> V:
        flight = self._flights.get(name)
        if flight is None:
            flight = asyncio.ensure_future(self._fly(name, fetch))
            self._flights[name] = flight
            flight.add_done_callback(_look_at_the_error)
        return await asyncio.shield(flight)  # one who gives up does not end it for the others

    async def _fly(self, name: K, fetch: Callable[[], Awaitable[V]]) -> V:
        since_s, own = self._clock.monotonic(), asyncio.current_task()
        try:
            value = await fetch()
            if self._flights.get(name) is own:  # else dropped meanwhile
                self.put(name, value, since_s=since_s)
            return value
        finally:
            if self._flights.get(name) is own:
                del self._flights[name]


def _look_at_the_error(flight: asyncio.Task[V]) -> None:
    # Its waiters may all have been cancelled; asyncio would report an error that nobody saw.
    if not flight.cancelled():
        flight.exception()
