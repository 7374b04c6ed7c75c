"""A bounded pool of connections to one catalog.

Invariant: a ``Catalog`` never holds more than ``pool_size`` connections and ``PIPELINES`` more for
the hot path, every wait in it has a limit that the server cannot break (``silence``), and a
connection that was closed while it was idle is not used. It belongs to the event loop that first
used it: open one for each loop.

What every request needs goes by ``pipeline``, several statements in one round trip: through
SQLAlchemy one by one, a commit cost three times the CPU of the PUT that it was for.

Words: *DSN* a Postgres URL, ``postgresql://user:password@host:port/database``.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from select import POLLIN, poll
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from pydantic import SecretStr
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from entrepot.catalog.pipeline import Ask, Pipelines, Rows, Transaction
from entrepot.catalog.silence import LOOK_S, WITHIN_S, Silence, Watched
from entrepot.catalog.translate import translated
from entrepot.errors import InvalidInput, Unavailable

__all__ = ["PIPELINES", "POOL_MAX", "Ask", "Catalog", "Rows", "Transaction", "async_url"]

POOL_MAX = 100
"""Postgres itself ships with 100 connections for everybody."""

PIPELINES = 4
"""Writes that begin, writes that end, and two lookups or listings."""

# A catalog statement takes milliseconds. What takes longer waits for a lock or a dead peer, and a
# retry with a fresh connection helps more than patience. Times are in UTC whatever the server's
# zone is. No plan depends on values here, because every lookup is by the first columns of an index;
# planning anew what reads a split table took ten times as long as running it.
_SESSION = (
    "-c timezone=UTC -c statement_timeout=60s -c lock_timeout=15s "
    "-c idle_in_transaction_session_timeout=60s -c plan_cache_mode=force_generic_plan"
)
_DEFAULTS = {
    "application_name": "entrepot",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # milliseconds
    "options": _SESSION,
}
_POOL_TIMEOUT_S = 30

SOON = "SET LOCAL synchronous_commit = off"
"""Before a transaction that need not be on disk when it ends; see ``Catalog.secure``."""


def async_url(dsn: str | SecretStr) -> URL:
    """``dsn`` for SQLAlchemy over psycopg 3, with our limits where it names none.

    Raises ``InvalidInput`` (without the DSN, which may hold a password).
    """
    plain = dsn.get_secret_value() if isinstance(dsn, SecretStr) else dsn
    try:
        url = make_url(plain)
    except (exc.ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidInput(
            "the catalog's address is not a postgres url",
            hint="postgresql://user:password@host:5432/database",
        )
    return url.set(drivername="postgresql+psycopg", query={**_DEFAULTS, **url.query})


class Catalog:
    """One catalog's pool; ``async with Catalog.open(dsn) as catalog``."""

    def __init__(self, url: URL, *, pool_size: int) -> None:
        self._url = url
        self._silence = Silence(self._look)
        self._engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_S,
            hide_parameters=True,
            connect_args={"async_creator_fn": self._silence.connect},
        )
        event.listen(self._engine.sync_engine, "checkout", _check_idle)
        self._pipelines = Pipelines(self._connect, self._silence, most=PIPELINES)

    @classmethod
    def open(cls, dsn: str | SecretStr, *, pool_size: int = 4) -> Self:
        """A pool that connects when it is first used; ``InvalidInput`` for a bad DSN or size."""
        if not 1 <= pool_size <= POOL_MAX:
            raise InvalidInput("pool size is out of range", pool_size=pool_size, most=POOL_MAX)
        return cls(async_url(dsn), pool_size=pool_size)

    async def _connect(self) -> Watched:
        _, given = self._engine.dialect.create_connect_args(self._url)
        return await self._silence.connect(**given, autocommit=True)

    async def close(self) -> None:
        """Close the connections; the object may be used again and then connects anew."""
        await self._silence.close()
        self._pipelines.close()
        with translated():
            await self._engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def begin(self, *, within_s: float = WITHIN_S) -> AsyncIterator[AsyncConnection]:
        """One transaction (read committed): commits at the end of the body, else rolls back.

        Raises ``Unavailable`` where another try may help, and no later than ``within_s`` after a
        statement was sent. One that is raised by the commit itself may come after the commit took
        effect, so what runs in here must bear being run twice.
        """
        self._silence.check(within_s)
        with translated():
            async with self._held(within_s) as connection, connection.begin():
                yield connection

    @asynccontextmanager
    async def _held(self, within_s: float) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool, on which no answer is awaited for longer than ``within_s``."""
        waiting = asyncio.timeout(within_s)
        try:
            async with waiting, self._engine.connect() as connection:
                if not waiting.expired():
                    waiting.reschedule(None)  # each round trip has its own limit
                driver: Watched
                driver = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
                driver.within_s = within_s
                try:
                    yield connection
                finally:
                    if driver.is_silent:
                        self._silence.noticed(within_s)
                        await connection.invalidate()
        except TimeoutError:
            if not waiting.expired():
                raise
            raise Unavailable("no connection to the catalog became free in time") from None

    async def ask(
        self, statement: LiteralString, given: Mapping[str, Any], *, within_s: float = WITHIN_S
    ) -> Rows:
        """One statement as a transaction of its own, in one round trip; its rows."""
        self._silence.check(within_s)
        return await self._ask(statement, given, within_s)

    async def _ask(
        self, statement: LiteralString, given: Mapping[str, Any], within_s: float
    ) -> Rows:
        with translated():
            async with self._pipelines.one(within_s) as pipeline:
                [rows] = await pipeline.run((statement, given), limit_s=within_s)
                return rows

    async def _look(self) -> None:
        await self._ask("SELECT 1", {}, LOOK_S)

    async def ask_soon(self, statement: LiteralString, given: Mapping[str, Any]) -> Rows:
        """The same, without waiting for the disk: if the server dies now, it may be undone."""
        async with self.transaction() as transaction:
            _, rows = await transaction.at_once((SOON, {}), (statement, given), commit=True)
        return rows

    async def secure(self) -> None:
        """Return when all that was committed before is on disk."""
        # A commit is waited for only where its transaction wrote something.
        await self.ask("SELECT pg_logical_emit_message(true, 'entrepot', '')", {})

    async def listen(self, channel: LiteralString) -> AsyncGenerator[None, None]:
        """Yields once it listens, and then for each notification, on a connection of its own.

        Raises ``Unavailable`` when that breaks. What was notified before is not told.
        """
        _, given = self._engine.dialect.create_connect_args(self._url)
        with translated():
            connection = await psycopg.AsyncConnection.connect(**given, autocommit=True)
            try:
                await connection.execute(f"LISTEN {channel}")
                yield
                async for _ in connection.notifies():
                    yield
            finally:
                await connection.close()

    @asynccontextmanager
    async def transaction(self, *, within_s: float = WITHIN_S) -> AsyncIterator[Transaction]:
        """Like ``begin``, on the hot path."""
        self._silence.check(within_s)
        with translated():
            async with self._pipelines.transaction(within_s) as transaction:
                yield transaction


def _check_idle(connection: Any, _record: object, _proxy: object) -> None:
    """Refuse a connection whose peer has closed it, which spares a ping: one round trip each use.

    Postgres says nothing to an idle connection but that it is being closed.
    """
    waiting = poll()
    waiting.register(connection.driver_connection.fileno(), POLLIN)
    if waiting.poll(0):
        raise exc.InvalidatePoolError("the connection was closed while it was idle")
