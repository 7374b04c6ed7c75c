"""The hot path to Postgres: several statements in one round trip, at a third of the usual cost.

psycopg's own pipeline waits on the socket again for each statement (10 of them: 0.55 ms of CPU,
here 0.16; tried with 3.3.4). So this drives ``psycopg.pq``, psycopg's layer over libpq, by one
callback on the socket; values are still converted by psycopg.

Invariant: a connection that failed, ran out of time or lost its caller in the middle is closed and
never used again, without a word to the server, which may be hanging. Closing waits for nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from itertools import accumulate, count
from select import POLLIN, poll
from typing import Any, Final, LiteralString

import psycopg
from psycopg import pq
from psycopg.abc import Transformer
from psycopg.adapt import PyFormat
from psycopg.adapt import Transformer as NewTransformer
from psycopg.errors import error_from_result

from entrepot.catalog.silence import WITHIN_S, Silence
from entrepot.errors import Unavailable

Ask = tuple[LiteralString, Mapping[str, Any]]
"""A statement as psycopg takes it (``%(name)s``), and what it is given."""

Rows = list[tuple[Any, ...]]
Connect = Callable[[], Awaitable["psycopg.AsyncConnection[Any]"]]

FREE_TIMEOUT_S: Final = 30.0

_PLACE: Final = re.compile(r"%\((\w+)\)s|%%")
_BEGIN: Final[Ask] = ("BEGIN", {})
_COMMIT: Final[Ask] = ("COMMIT", {})
_ROLLBACK: Final[Ask] = ("ROLLBACK", {})


@lru_cache(maxsize=1000)  # statements are constants
def _compiled(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with numbered places, and the names that go there."""
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        if not (name := found[1]):
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PLACE.sub(place, statement).encode(), tuple(names)


class Pipeline:
    """One connection; one caller at a time."""

    def __init__(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._socket = self._pg.socket
        self._loop = asyncio.get_running_loop()
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._names = count()
        self._done: asyncio.Future[None] | None = None
        self._results: list[pq.abc.PGresult] = []
        self._is_writing = False
        self.is_closed = False
        self.is_silent = False
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._read)

    @property
    def has_failed(self) -> bool:
        """Whether it cannot be used again: Postgres says nothing to who asks nothing, but goodbye.

        Spares a ping, a round trip each use.
        """
        return self.is_closed or self._has_input()

    def _has_input(self) -> bool:
        waiting = poll()
        waiting.register(self._socket, POLLIN)
        return bool(waiting.poll(0))

    @property
    def is_in_transaction(self) -> bool:
        """Whether there is something to commit or to roll back."""
        return self._pg.transaction_status != pq.TransactionStatus.IDLE

    async def run(self, *asked: Ask, limit_s: float = WITHIN_S) -> list[Rows]:
        """All of them in one round trip; the rows of each, or the error of the first that failed.

        Each sees what those before it did, and what others committed before it ran. Without a
        transaction around it they are one of their own.
        """
        transformer: Transformer = NewTransformer(self._connection)
        known = len(self._prepared)
        try:
            counts = [self._send(transformer, *ask) for ask in asked]
            self._pg.pipeline_sync()
            self._results, self._done = [], self._loop.create_future()
            self._flush()
            await self._answered(self._done, limit_s)
        except TimeoutError as error:
            self.is_silent = True
            self.close()
            raise Unavailable(
                "the catalog did not answer in time", hint="entrepot status", limit_s=limit_s
            ) from error
        except BaseException:
            self.close()
            raise
        results = self._results
        for each in results:
            if each.status == pq.ExecStatus.FATAL_ERROR:
                for new in list(self._prepared)[known:]:  # the server may not have got that far
                    del self._prepared[new]
                raise error_from_result(each, encoding="utf-8")
        ends = accumulate(counts)  # a statement's own result is its last
        return [_rows(transformer, results[end - 1]) for end in ends]

    async def _answered(self, done: asyncio.Future[None], limit_s: float) -> None:
        while not done.done():
            await asyncio.wait([done], timeout=limit_s)
            if not (done.done() or self._has_input()):  # else it was we who were busy or stopped
                raise TimeoutError
        await done

    def _send(
        self, transformer: Transformer, statement: LiteralString, given: Mapping[str, Any]
    ) -> int:
        """Hand a statement to libpq; how many results it will have."""
        text, names = _compiled(statement)
        values = transformer.dump_sequence(
            [given[name] for name in names], [PyFormat.AUTO] * len(names)
        )
        types, formats = transformer.types or (), transformer.formats
        prepared = self._prepared.get((text, types))
        is_new = prepared is None
        if prepared is None:
            prepared = self._prepared[text, types] = b"hot%d" % next(self._names)
            self._pg.send_prepare(prepared, text, types)
        self._pg.send_query_prepared(prepared, values, formats)
        return 2 if is_new else 1

    def _flush(self) -> None:
        """Send what libpq holds; what the socket does not take goes when it can."""
        try:
            is_left = bool(self._pg.flush())
        except psycopg.Error as error:
            self._fail(error)
            return
        if is_left != self._is_writing:
            self._is_writing = is_left
            if is_left:
                self._loop.add_writer(self._socket, self._flush)
            else:
                self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            self._pg.consume_input()
            while self._done is not None and not self._pg.is_busy():
                result = self._pg.get_result()  # None between the results of two statements
                if result is None:
                    continue
                if result.status != pq.ExecStatus.PIPELINE_SYNC:
                    self._results.append(result)
                    continue
                done, self._done = self._done, None
                if not done.done():
                    done.set_result(None)
        except psycopg.Error as error:
            self._fail(error)

    def _fail(self, error: psycopg.Error) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_exception(error)
            done.exception()  # who waited may have left, which is nothing to complain of
        self.close()

    def close(self) -> None:
        """End the connection at once; again does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._pg.finish()
        if self._done is not None:
            self._fail(psycopg.OperationalError("the connection was closed"))


def _rows(transformer: Transformer, result: pq.abc.PGresult) -> Rows:
    if not result.ntuples:
        return []
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


class Pipelines:
    """At most ``most`` of them; those that are free are used again, the latest first."""

    def __init__(self, connect: Connect, silence: Silence, *, most: int) -> None:
        self._connect = connect
        self._silence = silence
        self._free = asyncio.Semaphore(most)
        self._idle: list[Pipeline] = []
        self._lent: set[Pipeline] = set()

    @asynccontextmanager
    async def one(self, within_s: float) -> AsyncIterator[Pipeline]:
        """A connection for the block. What the block left open of a transaction is rolled back."""
        try:
            async with asyncio.timeout(min(within_s, FREE_TIMEOUT_S)):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable("no connection to the catalog became free in time") from error
        try:
            pipeline = await self._open(within_s)
            self._lent.add(pipeline)
            try:
                yield pipeline
            finally:
                if not pipeline.is_closed and pipeline.is_in_transaction:
                    with suppress(psycopg.Error, Unavailable):  # it is closed then
                        await pipeline.run(_ROLLBACK, limit_s=within_s)
                if pipeline.is_silent:
                    self._silence.noticed(within_s)
                self._lent.discard(pipeline)
                if not pipeline.is_closed:
                    self._idle.append(pipeline)
        finally:
            self._free.release()

    @asynccontextmanager
    async def transaction(self, within_s: float) -> AsyncIterator["Transaction"]:
        """A transaction for the block: committed at its end, unless the block did or raised."""
        async with self.one(within_s) as pipeline:
            yield Transaction(pipeline, within_s)
            if pipeline.is_in_transaction:
                await pipeline.run(_COMMIT, limit_s=within_s)

    async def _open(self, within_s: float) -> Pipeline:
        while self._idle:
            pipeline = self._idle.pop()
            if not pipeline.has_failed:
                return pipeline
            pipeline.close()
        try:
            async with asyncio.timeout(within_s):
                return Pipeline(await self._connect())
        except TimeoutError as error:
            raise Unavailable("the catalog cannot be reached in time") from error

    def close(self) -> None:
        """Close all of them; who waits for one of them is told that it failed."""
        for pipeline in (*self._idle, *self._lent):
            pipeline.close()
        self._idle = []


class Transaction:
    """Round trips of one transaction on a pipeline: the first begins it, one may end it."""

    def __init__(self, pipeline: Pipeline, within_s: float) -> None:
        self._pipeline = pipeline
        self._within_s = within_s
        self._has_begun = False

    async def at_once(self, *asked: Ask, commit: bool = False) -> list[Rows]:
        """Several statements in one round trip; ``commit``: the transaction ends with them."""
        first = () if self._has_begun else (_BEGIN,)
        self._has_begun = True
        last = (_COMMIT,) if commit else ()
        found = await self._pipeline.run(*first, *asked, *last, limit_s=self._within_s)
        return found[len(first) : len(first) + len(asked)]
