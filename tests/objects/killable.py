"""Writers that die, or freeze, at a chosen point of a write.

    python -m tests.objects.killable < settings-and-jobs

The first line holds settings, each further line is a job. Every job runs in a fork, a process of
its own, that does one operation and ends itself with SIGKILL (or SIGSTOP) at point ``at``. One
line of answer a job: ``{"points": ...}`` where it came to its end, ``{"killed": true}``, or
``{"stopped": pid}`` and, once somebody let it go on, a second line.

Words: *point* a place where a process may die: before and after each call of the store, before
and after each transaction of the catalog and just before its commit, and between two pieces of a
body. Points are numbered from 1 in the order in which a write passes them.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString, TypeVar
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog.connect import Catalog, Rows, Transaction
from entrepot.catalog.silence import WITHIN_S
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import EntrepotError
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import Ground, Limits
from entrepot.objects.removal import set_tags
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.stamp import HybridClock
from entrepot.store.protocol import Body, Store
from entrepot.store.s3 import S3Store
from entrepot.store.wrapper import Again, StoreWrapper
from tests.objects.worlds import ALL, key_ring

T = TypeVar("T")
MIN_SIZE_BYTES = 1000
"""Of compression here, so that small bodies are compressed."""


class Steps:
    """Counts points, once armed, and calls ``stop`` at the chosen one."""

    def __init__(self, stop: Callable[[], Awaitable[None]]) -> None:
        self._stop = stop
        self._at: int | None = None
        self._armed = False
        self.passed: list[str] = []

    def arm(self, at: int | None) -> None:
        """Count from here on; ``at`` None only counts."""
        self._at, self._armed, self.passed = at, True, []

    def disarm(self) -> None:
        self._armed = False

    async def pass_by(self, name: str) -> None:
        """One point."""
        if self._armed:
            self.passed.append(name)
            if len(self.passed) == self._at:
                await self._stop()


class SteppedStore(StoreWrapper):
    """A store with a point before and after each call that answers once, and before a ``get``."""

    def __init__(self, store: Store, steps: Steps) -> None:
        super().__init__(store)
        self._steps = steps

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        await self._steps.pass_by(f"before {verb}")
        answer = await super()._around(verb, call, again=again)
        await self._steps.pass_by(f"after {verb}")
        return answer

    @asynccontextmanager
    async def get(self, bucket: str, key: str, **how: Any) -> AsyncGenerator[Body, None]:
        """See ``ObjectStore.get``."""
        await self._steps.pass_by("before get")
        async with self._store.get(bucket, key, **how) as body:
            yield body


class SteppedCatalog(Catalog):
    """A catalog with a point before a transaction, before its commit and after it."""

    steps: Steps

    @asynccontextmanager
    async def begin(self, *, within_s: float = WITHIN_S) -> AsyncIterator[AsyncConnection]:
        """See ``Catalog.begin``."""
        await self.steps.pass_by("before a transaction")
        async with super().begin(within_s=within_s) as connection:
            yield connection
            await self.steps.pass_by("before its commit")
        await self.steps.pass_by("after its commit")

    @asynccontextmanager
    async def transaction(self, *, within_s: float = WITHIN_S) -> AsyncIterator[Transaction]:
        """See ``Catalog.transaction``."""
        await self.steps.pass_by("before a transaction")
        async with super().transaction(within_s=within_s) as transaction:
            yield transaction
            await self.steps.pass_by("before its commit")
        await self.steps.pass_by("after its commit")

    async def ask(
        self, statement: LiteralString, given: Mapping[str, Any], *, within_s: float = WITHIN_S
    ) -> Rows:
        """See ``Catalog.ask``."""
        await self.steps.pass_by("before a statement")
        rows = await super().ask(statement, given, within_s=within_s)
        await self.steps.pass_by("after a statement")
        return rows


@asynccontextmanager
async def stepped(
    site: dict[str, str],
    steps: Steps,
    *,
    lease_s: float = 600.0,
    clock: Clock = SYSTEM_CLOCK,
    around: Callable[[Store], Store] = lambda store: store,
) -> AsyncGenerator[Objects, None]:
    """A service with points; no keeper, so that nothing happens but what is asked for."""
    async with AsyncExitStack() as stack:
        bare = S3Store(
            endpoint=site["endpoint"],
            access_key=site["access_key"],
            secret_key=SecretStr(site["secret_key"]),
        )
        stack.push_async_callback(bare.close)
        catalog = await stack.enter_async_context(SteppedCatalog.open(site["dsn"], pool_size=4))
        catalog.steps = steps
        ring = key_ring(Path(site["keys"]))
        stack.push_async_callback(ring.close)
        limits = Limits(lease_s=lease_s, recover_every_s=600.0)
        store = SteppedStore(around(bare), steps)
        ground = Ground("site-a", store, catalog, ring, ALL, limits=limits, clock=clock)
        await ground.start()
        yield Objects(ground, min_size_bytes=MIN_SIZE_BYTES)


def body_of(key: str, size: int) -> bytes:
    """The bytes that a job for ``key`` writes: they differ by key, and compress."""
    return (f"new bytes of {key} " * (size // 12 + 1)).encode()[:size]


async def _pieces(steps: Steps, body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        if start:
            await steps.pass_by("between two pieces")
        yield body[start : start + size]


async def perform(objects: Objects, steps: Steps, job: dict[str, Any]) -> str:
    """Do the job's operation; the id of the version that it made or changed."""
    bucket, key, kind = job["bucket"], job["key"], job["kind"]
    body = body_of(key, job.get("size", 20_000))
    if kind == "put":
        row = await objects.put(bucket, key, body)
    elif kind == "put-sums":
        row = await objects.put(bucket, key, body, wish=Wish(checksums=job["checksums"]))
    elif kind == "put-if":
        wish = Wish(condition=Condition(if_match=("*",)))
        row = await objects.put(bucket, key, body, wish=wish)
    elif kind in ("put-stream", "put-unknown"):
        size = len(body) if kind == "put-stream" else None
        pieces = _pieces(steps, body, len(body) // 3 + 1)
        row = await objects.put(bucket, key, pieces, size_bytes=size)
    elif kind == "copy":
        row = await objects.copy(bucket, key, source=(bucket, job["source"], None))
    elif kind == "complete":
        named = [(number, etag) for number, etag in job["parts"]]
        row = await objects.complete_upload(bucket, key, UUID(job["upload"]), named)
    elif kind == "tag":
        found = await objects.ground.bucket(bucket)
        version, tags = job["version"], {"colour": "new"}
        row = await set_tags(objects.ground, found, key, version, tags, actor="")
    else:
        assert kind in ("delete", "remove")
        version_id = job["version"] if kind == "remove" else None
        gone = await objects.delete(bucket, key, version_id=version_id)
        assert gone is not None
        row = gone
    return row.version_id


async def _run(site: dict[str, str], job: dict[str, Any]) -> dict[str, Any]:
    async def end_ourselves() -> None:
        os.kill(os.getpid(), signal.Signals[job.get("signal", "SIGKILL")])

    steps = Steps(end_ourselves)
    async with stepped(site, steps) as objects:
        await objects.ground.bucket(job["bucket"])
        objects.ground.hybrid = HybridClock()  # knows no floor: every run has to keep one
        steps.arm(job["at"])
        try:
            version = await perform(objects, steps, job)
        except EntrepotError as error:
            return {"error": type(error).__name__, "points": steps.passed}
        finally:
            steps.disarm()
    return {"version": version, "points": steps.passed}


def fork(job: Coroutine[Any, Any, dict[str, Any]]) -> None:
    """Run a job in a process of its own and say how it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        answer = asyncio.run(job)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    job.close()
    os.close(writer)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        print(json.dumps({"stopped": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read() or b"{}")
    if os.WIFSIGNALED(status):
        answer["killed"] = os.WTERMSIG(status) == signal.SIGKILL
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Read settings and jobs from standard input, one a line."""
    site = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        fork(_run(site, json.loads(line)))


if __name__ == "__main__":
    main()
