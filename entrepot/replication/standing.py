"""A rule as it stands while somebody works by it: what it allows now, and how fast.

Invariant: a change of the rule is seen within ``LOOK_EVERY_S`` and obeyed at the next batch; while
the catalog cannot be reached the last rule that was read holds (and leases run out anyway).
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from entrepot.catalog.budgets import Reserved, reserve
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import Rule, get_rule
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import Paused, PermanentError, RetryableError
from entrepot.replication.budget import Budget
from entrepot.replication.hours import Wait, can_wait, may_run, rate_of
from entrepot.timetable import Rate

T = TypeVar("T")

LOOK_EVERY_S: Final = 5.0


class Standing:
    """``async with Standing(catalog, rule) as standing: ... standing.check()``

    ``budget`` is for a ``ThrottledStore``: all workers of the rule share it.
    """

    def __init__(
        self,
        catalog: Catalog,
        rule: Rule,
        *,
        clock: Clock = SYSTEM_CLOCK,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.rule = rule
        self._catalog = catalog
        self._clock = clock
        self._sleep = sleep
        self._gone: PermanentError | None = None
        self._looking: asyncio.Task[None] | None = None
        self.budget = Budget(self._reserve, rate=self.rate, clock=clock)

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._keep_looking(), name=f"rule {self.rule.name}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    @property
    def is_gone(self) -> bool:
        """Whether there was no such rule when it was looked at last."""
        return self._gone is not None

    def check(self) -> None:
        """Call before each batch: ``Paused`` where the rule may not run, ``NotFound`` if gone."""
        if self._gone is not None:
            raise self._gone
        answer = may_run(self.rule, self._clock.now())
        if isinstance(answer, Wait):
            raise _paused(self.rule, answer)

    async def wait(self) -> None:
        """Return when the rule may run.

        Raises ``Paused`` where nobody knows when that is, or it is ``WAIT_MAX_S`` away.
        """
        while True:
            await self.look()
            now = self._clock.now()
            answer = may_run(self.rule, now)
            if not isinstance(answer, Wait):
                return
            if answer.until is None or not can_wait(answer, now):
                raise _paused(self.rule, answer)
            await self._sleep(min((answer.until - now).total_seconds(), LOOK_EVERY_S))

    def rate(self) -> Rate:
        """What holds now."""
        return rate_of(self.rule, self._clock.now())

    async def look(self) -> None:
        """Read the rule again."""
        try:
            self.rule = await get_rule(self._catalog, name=self.rule.name)
        except PermanentError as error:
            self._gone = error
            raise

    async def _keep_looking(self) -> None:
        while True:
            await self._sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except RetryableError:
                continue
            except PermanentError:
                return

    async def _reserve(self, *, bytes_s: float = 0.0, requests_s: float = 0.0) -> Reserved:
        return await reserve(
            self._catalog, rule=self.rule.name, bytes_s=bytes_s, requests_s=requests_s
        )


async def resting(work: Callable[[], Awaitable[T]], standing: Standing | None) -> T:
    """What ``work`` gives; where it is ``Paused``, it is begun again when the rule may run."""
    while True:
        try:
            return await work()
        except Paused:
            if standing is None:
                raise
            await standing.wait()


def _paused(rule: Rule, answer: Wait) -> Paused:
    command = "resume" if rule.paused else "show" if rule.enabled else "enable"
    return Paused(
        f"not now: {answer.why}",
        hint=f"entrepot replicate rule {command} {rule.name}",
        rule=rule.name,
        until=answer.until.isoformat() if answer.until else "somebody says so",
    )
