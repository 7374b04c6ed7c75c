"""Tries again what may succeed later, and nothing else.

Invariant: only errors that ``is_retryable`` are retried, at most ``max_retries`` times a call,
and never where a second try could do harm or send other bytes:

- A body is sent again only if it can be had again: ``bytes``, or a ``Replay``. An iterator is
  spent by its first try, so that try is the only one.
- A conditional put, ``complete``, ``create`` and ``drop`` change their own condition, so after a
  lost answer a second try would report the first one's success as a failure. They are tried
  again only on ``Throttled``, which says that nothing was done; otherwise the caller looks.
- A put, delete or copy whose answer was lost may leave a twin version; an ``Origin`` prevents it.
- A listing goes on behind the last entry that was handed out; nothing is handed out twice.
- Opening a ``get`` is retried; a body that breaks in the middle is not resumed: the current
  version may be another by now. A caller that wants the rest asks by version id and offset.

Waits double from ``initial_backoff_ms`` to ``max_backoff_ms``, each shortened by chance, so that
clients that failed together do not come back together.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from entrepot.clock import new_bytes
from entrepot.errors import InvalidInput, RetryableError, Throttled
from entrepot.store.protocol import PAGE_MAX, Body, Page, Store, Version
from entrepot.store.wrapper import Again, StoreWrapper

T = TypeVar("T")


def chance() -> float:
    """A random number from 0 (inclusive) to 1 (exclusive)."""
    return int.from_bytes(new_bytes(4), "big") / 2**32


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which wait; ``jitter`` is the share of a wait that chance may cut."""

    max_retries: int = 3
    initial_backoff_ms: int = 100
    max_backoff_ms: int = 5000
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.max_retries <= 100 or not 0 <= self.jitter <= 1:
            raise InvalidInput("a retry policy has 0 to 100 retries and a jitter of 0 to 1")
        if not 0 <= self.initial_backoff_ms <= self.max_backoff_ms:
            raise InvalidInput("a retry policy's first wait is at most its longest")

    def wait_s(self, failures: int, random: float) -> float:
        """Seconds to wait after that many failures in a row (from 1)."""
        wait_ms = min(self.max_backoff_ms, self.initial_backoff_ms * 2.0 ** (failures - 1))
        return wait_ms / 1000 * (1 - self.jitter * random)


class RetryStore(StoreWrapper):
    """A ``Store`` that tries again; ``put`` and ``part`` also take a ``Replay`` as their source."""

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy = RetryPolicy(),
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = chance,
    ) -> None:
        super().__init__(store)
        self._policy = policy
        self._sleep = sleep
        self._random = random

    def over(self, wrap: Callable[[Store], Store]) -> "RetryStore":
        """The same tries over a wrapper of the same store, which sees each of them."""
        return RetryStore(wrap(self._store), self._policy, sleep=self._sleep, random=self._random)

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        failures = 0
        while True:
            try:
                return await call()
            except RetryableError as error:
                undone = again is Again.UNDONE and isinstance(error, Throttled)
                if again is not Again.ALWAYS and not undone:
                    raise
                failures += 1
                await self._pause(verb, failures, error)

    async def _pause(self, verb: str, failures: int, error: RetryableError) -> None:
        if failures > self._policy.max_retries:
            error.add_note(f"{verb} was tried {failures} times")
            raise error
        await self._sleep(self._policy.wait_s(failures, self._random()))

    @asynccontextmanager
    async def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        stop: int | None = None,
        part: int | None = None,
    ) -> AsyncGenerator[Body, None]:
        """See ``ObjectStore.get``; only the opening is retried."""
        async with AsyncExitStack() as stack:
            yield await self._around(
                "get",
                lambda: stack.enter_async_context(
                    self._store.get(
                        bucket, key, version_id=version_id, start=start, stop=stop, part=part
                    )
                ),
                again=Again.ALWAYS,
            )

    async def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncGenerator[Page, None]:
        """See ``ObjectStore.list``; ``max_retries`` counts failures in a row."""
        failures = 0
        while True:
            pages = self._store.list(
                bucket, prefix=prefix, after=after, delimiter=delimiter, page_size=page_size
            )
            try:
                async with _closing(pages):
                    async for page in pages:
                        failures = 0
                        if page.tokens:
                            after = page.decode(page.tokens[-1]).key
                        yield page
                return
            except RetryableError as error:
                failures += 1
                await self._pause("list", failures, error)

    async def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """See ``ObjectStore.versions``; ``max_retries`` counts failures in a row."""
        failures = 0
        place = _Place(after)
        while True:
            pages = self._store.versions(
                bucket, prefix=prefix, after=place.after, page_size=page_size, details=details
            )
            try:
                async with _closing(pages):
                    async for page in pages:
                        failures = 0
                        rest = place.rest(page)
                        place.note(rest)
                        yield rest
                return
            except RetryableError as error:
                failures += 1
                place.resuming = place.last is not None
                await self._pause("versions", failures, error)


@dataclass(slots=True)
class _Place:
    """How far a listing of versions got. A key's versions can be cut by a page's end.

    ``after`` is the greatest key known to be handed out whole, ``last`` the last version handed
    out, ``ties`` the ids handed out of its key and time (they tell twins of one time apart).
    """

    after: str
    last: Version | None = None
    ties: set[str] = field(default_factory=set)
    resuming: bool = False

    def note(self, page: Page) -> None:
        """Remember that ``page`` is handed out."""
        if not page.tokens:
            return
        before, self.last = self.last, page.decode(page.tokens[-1])
        if before and before.key != self.last.key:
            self.after = before.key
        if before and (before.key, before.mtime_ms) != (self.last.key, self.last.mtime_ms):
            self.ties = set()
        for token in reversed(page.tokens):
            version = page.decode(token)
            if version.key != self.last.key:
                self.after = version.key
                return
            if version.mtime_ms == self.last.mtime_ms:
                self.ties.add(version.version_id)

    def rest(self, page: Page) -> Page:
        """What of ``page``, from a listing begun again, was not handed out before."""
        if not (self.resuming and self.last):
            return page
        found = page.versions
        self.resuming = not found or found[-1].key.encode() <= self.last.key.encode()
        fresh = [
            token
            for token, version in zip(page.tokens, found, strict=True)
            if self._is_new(version)
        ]
        return Page(tokens=fresh, decode=page.decode)

    def _is_new(self, version: Version) -> bool:
        last = self.last
        if last is None or version.key != last.key:
            return last is None or version.key.encode() > last.key.encode()
        return version.mtime_ms <= last.mtime_ms and version.version_id not in self.ties


@asynccontextmanager
async def _closing(pages: AsyncIterator[Page]) -> AsyncGenerator[None, None]:
    """Close a listing that is left early, where it can be closed."""
    try:
        yield
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()
