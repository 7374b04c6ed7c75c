"""A rule's limits and hours, as its stream heeds them.

The budget is the rule's own, shared with its sweeps and whoever else works for it. While the
control catalog cannot be asked, a rule with limits sends nothing, and nothing becomes a dead letter
for that; a rule without limits asks nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable

from entrepot.errors import Paused, PermanentError, RetryableError
from entrepot.replication.standing import Standing

ASK_EVERY_S = 1.0


class Pace:
    """A ``Purse`` that waits for the control catalog, and whether the rule may run."""

    def __init__(
        self, standing: Standing, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._standing = standing
        self._sleep = sleep

    def is_resting(self) -> bool:
        """Whether nothing is to be brought now."""
        try:
            self._standing.check()
        except Paused:
            return True
        except PermanentError:  # the rule is gone: the stream ends by itself
            return False
        return False

    async def take(self, *, size_bytes: int = 0, requests: int = 0) -> None:
        """See ``Purse.take``."""
        while True:
            try:
                return await self._standing.budget.take(size_bytes=size_bytes, requests=requests)
            except RetryableError:
                await self._sleep(ASK_EVERY_S)

    def limits_bytes(self) -> bool:
        """See ``Purse.limits_bytes``."""
        return self._standing.budget.limits_bytes()
