"""A server that says nothing: how long its answer is awaited, and who need not ask meanwhile.

Postgres' own limits are the server's. One that was stopped, or whose packets are lost, keeps none
of them, and a statement that is cancelled waits for that server too. So each round trip has a limit
here, and at its end the socket is shut down: the driver sees a connection that broke, as after a
crash, and every caller knows what to do about that.

Invariant: a round trip ends within its limit, whatever the server does. Once one was in vain, uses
that would wait no longer are refused at once until a look at the server, which keeps nobody
waiting, was answered.

Words: *silence* no answer within the limit. *Look* one ``SELECT 1`` with a limit of its own.
"""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from select import POLLIN, poll
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import EntrepotError, RetryableError, Unavailable

HASTY_S = 3.0
"""For who has another way to go on, as a read of a key has: it takes milliseconds otherwise."""
WITHIN_S = 20.0
"""For everybody else: longer than the server lets a statement wait for a lock (15 s)."""
PATIENT_S = 65.0
"""For statements that read a great deal: longer than the server lets any statement run (60 s)."""

LOOK_S = 2.0
REST_S = 1.0
"""From one look to the next."""

T = TypeVar("T")


class Watched(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection on which no answer is awaited for longer than ``within_s``."""

    within_s: float = WITHIN_S
    is_silent: bool = False
    _timer: asyncio.TimerHandle

    async def wait(self, gen: PQGen[T], *how: Any, **named: Any) -> T:
        """See psycopg: every round trip of a connection passes here."""
        self._set_timer()
        try:
            return await super().wait(gen, *how, **named)
        finally:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.within_s, self._end)

    def _end(self) -> None:
        with suppress(psycopg.Error, OSError):  # it was closed just now
            waiting = poll()
            waiting.register(self.pgconn.socket, POLLIN)
            if waiting.poll(0):  # it has answered, and it is we who were busy or stopped
                self._set_timer()
                return
            self.is_silent = True
            with socket.fromfd(self.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM) as ours:
                ours.shutdown(socket.SHUT_RDWR)


class Silence:
    """What is known of one server's silence. ``look`` asks it something that takes no time."""

    def __init__(
        self, look: Callable[[], Awaitable[object]], *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._look = look
        self._clock = clock
        self._in_vain_s = 0.0
        self._next_look = 0.0
        self._looking: asyncio.Task[None] | None = None

    def check(self, within_s: float) -> None:
        """``Unavailable`` where a use that waits for so long would wait in vain."""
        if within_s > self._in_vain_s:
            return
        if self._looking is None and self._clock.monotonic() >= self._next_look:
            self._looking = asyncio.create_task(self._look_once(), name="look at a silent catalog")
        raise Unavailable("the catalog does not answer", hint="entrepot status")

    def noticed(self, waited_s: float) -> None:
        """Somebody waited for so long, and nothing came.

        One who was in a hurry speaks for the hurried only: the server may be busy.
        """
        self._in_vain_s = max(self._in_vain_s, HASTY_S if waited_s <= HASTY_S else math.inf)
        self._next_look = self._clock.monotonic() + REST_S

    async def connect(self, *given: Any, **named: Any) -> Watched:
        """A new connection; a server that accepts one and says no more is noticed."""
        began = self._clock.monotonic()
        try:
            return await Watched.connect(*given, **named)
        except psycopg.errors.ConnectionTimeout:
            self.noticed(WITHIN_S)
            raise
        except asyncio.CancelledError:
            if self._clock.monotonic() - began >= LOOK_S:  # else it was a caller who left
                self.noticed(HASTY_S)
            raise

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_once(self) -> None:
        try:
            await self._look()
        except RetryableError:
            self._next_look = self._clock.monotonic() + REST_S
        except EntrepotError:  # a refusal is an answer
            self._in_vain_s = 0.0
        else:
            self._in_vain_s = 0.0
        finally:
            self._looking = None
