"""One process's purse of a rule's budget: it takes slices from all workers' and spends them.

Invariant: in any stretch of time the purses of one rule together spend at most rate x time plus
``BURST_S`` seconds of the rate. A slice is at most ``SLICE_S`` of the rate and is lost when it was
not spent ``KEEP_S`` after it began; nothing is ever given back.

How much is taken at once follows what is used: twice the last slice while slices are used up, only
what is needed after one was lost. So a busy worker asks twice a second, and an idle one does not
take from the others what it will not use.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from entrepot.catalog.budgets import Reserved
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.timetable import Rate

SLICE_S: Final = 0.5
KEEP_S: Final = 0.5
BURST_S: Final = SLICE_S + KEEP_S


class Reserve(Protocol):
    """Takes seconds of the rule's time, as ``catalog.budgets.reserve`` does."""

    async def __call__(self, *, bytes_s: float = 0.0, requests_s: float = 0.0) -> Reserved:
        """How long to wait until the time taken begins."""
        ...


@dataclass(slots=True)
class _Purse:
    """What is left of the last slice, in bytes or requests."""

    left: int = 0
    keep_until: float = 0.0
    next_slice: int = 1
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Budget:
    """``await budget.take(size_bytes=..., requests=1)`` before something is sent.

    Args:
        rate: what holds now; asked before each slice, so it may change at any time.
    """

    def __init__(
        self,
        reserve: Reserve,
        *,
        rate: Callable[[], Rate],
        clock: Clock = SYSTEM_CLOCK,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reserve = reserve
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._bytes = _Purse()
        self._requests = _Purse()

    async def take(self, *, size_bytes: int = 0, requests: int = 0) -> None:
        """Wait until so much may be sent; callers are served in the order in which they came."""
        await self._spend(self._requests, requests)
        await self._spend(self._bytes, size_bytes)

    def limits_bytes(self) -> bool:
        """Whether bytes are limited now."""
        return self._rate().bytes_per_s is not None

    async def _spend(self, purse: _Purse, amount: int) -> None:
        if not amount or self._per_s(purse) is None:
            return
        async with purse.turn:
            while amount and (per_s := self._per_s(purse)) is not None:
                now = self._clock.monotonic()
                if now >= purse.keep_until and purse.left:
                    purse.left, purse.next_slice = 0, 1
                if not purse.left:
                    await self._fill(purse, amount, per_s, now)
                    continue
                used = min(amount, purse.left)
                purse.left -= used
                amount -= used

    async def _fill(self, purse: _Purse, amount: int, per_s: int, now: float) -> None:
        most = max(1, int(per_s * SLICE_S))
        wanted = min(most, max(amount, purse.next_slice))
        wait_s = await self._wait(purse, wanted / per_s)
        if wait_s > 0:
            await self._sleep(wait_s)
        purse.left = wanted
        purse.next_slice = min(most, wanted * 2)
        purse.keep_until = now + max(wait_s, 0.0) + KEEP_S

    def _per_s(self, purse: _Purse) -> int | None:
        rate = self._rate()
        return rate.bytes_per_s if purse is self._bytes else rate.requests_per_s

    async def _wait(self, purse: _Purse, span_s: float) -> float:
        if purse is self._bytes:
            return (await self._reserve(bytes_s=span_s)).bytes_wait_s
        return (await self._reserve(requests_s=span_s)).requests_wait_s
