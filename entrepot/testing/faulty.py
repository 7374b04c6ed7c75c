"""A store that breaks on cue.

Each verb has a queue of faults; a call takes the next one, and with an empty queue it just
works. ``left`` says which faults were never met, so that a test can hold that its script was
played to the end; ``calls`` lists the verbs in the order they came.

    FaultyStore(MemoryStore(), {"put": [LoseAnswer(), OK], "get": [Truncate(after_bytes=3)]})

Words: *refused* the call fails and nothing was done; *lost answer* it was done, and the caller
is told that it failed.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from entrepot.errors import EntrepotError, Unavailable
from entrepot.store.protocol import PAGE_MAX, Body, Page, Store, Version
from entrepot.store.wrapper import Again, StoreWrapper

T = TypeVar("T")


def _lost() -> EntrepotError:
    return Unavailable("connection was lost (scripted)")


@dataclass(frozen=True, slots=True)
class Works:
    """No fault this time."""


OK = Works()


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail before anything is done."""

    error: EntrepotError = field(default_factory=_lost)


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Do it, then fail."""

    error: EntrepotError = field(default_factory=_lost)


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait, then do it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Truncate:
    """A body read ends after so many bytes: with ``error``, or silently if that is ``None``."""

    after_bytes: int
    error: EntrepotError | None = field(default_factory=_lost)


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A body read has one byte inverted, at that offset of what is read."""

    at_byte: int = 0


@dataclass(frozen=True, slots=True)
class BreakListing:
    """A listing fails after so many pages."""

    after_pages: int
    error: EntrepotError = field(default_factory=_lost)


@dataclass(frozen=True, slots=True)
class Stale:
    """A listing answers these pages, taken earlier, whatever is there now."""

    pages: Sequence[Page]


Fault = Works | Refuse | LoseAnswer | Delay | Truncate | Corrupt | BreakListing | Stale


class FaultyStore(StoreWrapper):
    """A ``Store`` over ``store`` that plays ``script``, a queue of faults for each verb."""

    def __init__(
        self,
        store: Store,
        script: Mapping[str, Sequence[Fault]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(store)
        unknown = [verb for verb in script if not hasattr(StoreWrapper, verb)]
        assert not unknown, f"no such verbs: {unknown}"
        self._script = {verb: deque(faults) for verb, faults in script.items()}
        self._sleep = sleep
        self.calls: list[str] = []

    @property
    def left(self) -> Mapping[str, tuple[Fault, ...]]:
        """Faults that no call has met yet."""
        return {verb: tuple(faults) for verb, faults in self._script.items() if faults}

    def _next(self, verb: str) -> Fault:
        self.calls.append(verb)
        faults = self._script.get(verb)
        return faults.popleft() if faults else OK

    async def _before(self, fault: Fault) -> None:
        if isinstance(fault, Delay):
            await self._sleep(fault.seconds)
        if isinstance(fault, Refuse):
            raise fault.error

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        fault = self._next(verb)
        await self._before(fault)
        answer = await super()._around(verb, call, again=again)
        if isinstance(fault, LoseAnswer):
            raise fault.error
        return answer

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
        """See ``ObjectStore.get``."""
        fault = self._next("get")
        await self._before(fault)
        async with self._store.get(
            bucket, key, version_id=version_id, start=start, stop=stop, part=part
        ) as body:
            yield _FaultyBody(body, fault)

    async def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncGenerator[Page, None]:
        """See ``ObjectStore.list``."""
        pages = self._store.list(
            bucket, prefix=prefix, after=after, delimiter=delimiter, page_size=page_size
        )
        async for page in self._broken("list", pages):
            yield page

    async def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """See ``ObjectStore.versions``."""
        pages = self._store.versions(
            bucket, prefix=prefix, after=after, page_size=page_size, details=details
        )
        async for page in self._broken("versions", pages):
            yield page

    async def _broken(self, verb: str, pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
        fault = self._next(verb)
        await self._before(fault)
        if isinstance(fault, Stale):
            for page in fault.pages:
                yield page
            return
        count = 0
        async for page in pages:
            if isinstance(fault, BreakListing) and count == fault.after_pages:
                raise fault.error
            yield page
            count += 1
        if isinstance(fault, LoseAnswer | BreakListing):
            raise fault.error


class _FaultyBody:
    def __init__(self, body: Body, fault: Fault) -> None:
        self.version: Version = body.version
        self.length: int = body.length
        self._body = body
        self._fault = fault

    async def __aiter__(self) -> AsyncIterator[bytes]:
        fault, offset = self._fault, 0
        async for whole in self._body:
            stop = offset + len(whole)
            piece = bytearray(whole)
            if isinstance(fault, Corrupt) and offset <= fault.at_byte < stop:
                piece[fault.at_byte - offset] ^= 0xFF
            if isinstance(fault, Truncate) and stop > fault.after_bytes:
                if kept := piece[: max(fault.after_bytes - offset, 0)]:
                    yield bytes(kept)
                if fault.error:
                    raise fault.error
                return
            yield bytes(piece)
            offset = stop
        if isinstance(fault, LoseAnswer):
            raise fault.error

    async def read(self) -> bytes:
        """See ``Body.read``."""
        return b"".join([piece async for piece in self])
