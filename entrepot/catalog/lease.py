"""Keeps a claim alive while its holder works.

Invariant: ``check()`` passes only while the database is known to honour the lease; the deadline is
counted from before each renewal was sent, so it never lies later than the database's own. A lease
belongs to one event loop, the one that entered it; a second loop needs a claim of its own.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from entrepot.catalog.connect import Catalog
from entrepot.catalog.jobs import Claim, release, renew
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import PermanentError, RetryableError, Unavailable

_BEATS = 3
"""Renewals in one lease: two may be lost before it ends."""


class Lease:
    """``async with Lease(catalog, claim, lease_s=30) as lease: ... lease.check()``

    Entering renews at once (``Fenced`` if the claim is stale), then every third of ``lease_s``
    in the background. Leaving, also by an error, releases the job for the next claim, unless
    ``release_after`` is off because others work in the name of the same claim.
    """

    def __init__(
        self,
        catalog: Catalog,
        claim: Claim,
        *,
        lease_s: float,
        release_after: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.claim = claim
        self._catalog = catalog
        self._lease_s = lease_s
        self._release_after = release_after
        self._clock = clock
        self._deadline = 0.0
        self._lost: PermanentError | None = None
        self._last_failure: RetryableError | None = None
        self._beat: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._renew()
        self._beat = asyncio.create_task(self._keep(), name=f"lease {self.claim.subject}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait([self._beat])
        if not self._release_after:
            return
        with suppress(RetryableError):  # the lease then simply runs out
            await release(self._catalog, self.claim)

    def check(self) -> None:
        """Call before each write outside the catalog.

        Raises ``Fenced`` once the job is another's, ``Unavailable`` once the lease ran out
        because the catalog could not be reached; that may heal.
        """
        if self._lost is not None:
            raise self._lost
        if self._clock.monotonic() >= self._deadline:
            raise Unavailable(
                "the lease ran out before it could be renewed", job=str(self.claim.job_id)
            ) from self._last_failure

    async def _renew(self) -> None:
        sent = self._clock.monotonic()
        await renew(self._catalog, self.claim, lease_s=self._lease_s)
        self._deadline = sent + self._lease_s

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / _BEATS)
            try:
                await self._renew()
            except RetryableError as failure:
                self._last_failure = failure
            except PermanentError as failure:
                self._lost = failure
                return
