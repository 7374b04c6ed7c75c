"""The processes of ``bench.lag``: the stream, and the one that writes at A and looks at B.

    python -m bench.lag_sides WORK.json

``stream`` runs a rule's stream until its standard input ends. ``drive`` writes objects at A, at a
fixed rate whatever becomes of them or one after the other, and asks B for each version by its id
until it is there: both sides are asked as often. It ends with one JSON line.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from uuid import UUID

import click
import uvloop
from pydantic import SecretStr

from bench.data import Dataset
from bench.measure import Endpoint
from entrepot.catalog.connect import Catalog
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import NotFound
from entrepot.objects.ground import Ground
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping
from entrepot.replication.stream.conflicts import ConflictBook
from entrepot.replication.stream.engine import Route, Stream
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store

RULE = "bench"
SITES = ("site-a", "site-b")
GIVE_UP_S = 60.0
WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Work:
    """What a process is told. ``rate_per_s`` 0 is one writer that waits for each object."""

    role: str
    side: str
    endpoints: list[Endpoint]
    dsns: list[str]
    control: str
    keys: str
    bucket: str
    rate_per_s: float
    seconds: float
    size_bytes: int
    look_every_s: float
    look_at: int = 1

    @classmethod
    def load(cls, path: Path) -> "Work":
        told = json.loads(path.read_text())
        return cls(endpoints=[Endpoint(**each) for each in told.pop("endpoints")], **told)


@asynccontextmanager
async def site(work: Work, number: int) -> AsyncGenerator[Objects, None]:
    """The service at one of the two sites, as a gateway or a worker opens it."""
    async with AsyncExitStack() as stack:
        store = _store(work.endpoints[number])
        stack.push_async_callback(store.close)
        catalog = await stack.enter_async_context(Catalog.open(work.dsns[number], pool_size=6))
        keys = Path(work.keys)
        ring = KeyRing(keys / "ring", LocalRoot.from_file(keys / "root.key"))
        stack.push_async_callback(ring.close)
        capabilities = frozenset(Capability)
        ground = Ground(SITES[number], RetryStore(store), catalog, ring, capabilities)
        yield await stack.enter_async_context(Objects.open(ground))


def _store(endpoint: Endpoint) -> S3Store:
    return S3Store(
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=SecretStr(endpoint.secret_key),
    )


async def stream(work: Work) -> None:
    """Replicate until standard input ends."""
    async with AsyncExitStack() as stack:
        opened = {
            name: await stack.enter_async_context(site(work, number))
            for number, name in enumerate(SITES)
        }
        control = await stack.enter_async_context(Catalog.open(work.control))

        async def open_site(name: str) -> Objects:
            return opened[name]

        async def open_catalog(name: str) -> Catalog:
            return opened[name].ground.catalog

        def carrier(source: str, target: str, job_id: UUID) -> Shipping:
            met = ConflictBook(control, rule=RULE, job_id=job_id).met
            return Shipping(open_site, source=source, target=target, rule=RULE, met=met)

        route = Route(RULE, (work.bucket,), "", SITES, SITES)
        running = asyncio.create_task(
            Stream(route, control, open_catalog, carrier).run(holder="bench")
        )
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@dataclass(slots=True)
class Drive:
    """Writes, and looks for what was written; times are of one monotonic clock."""

    put: Callable[[str, bytes], Awaitable[str]]
    look: Callable[[str, str], Awaitable[object]]
    work: Work
    lags_ms: list[float] = field(default_factory=list)

    async def one(self, key: str, body: bytes, *, look: bool = True) -> None:
        """One object: written, and found at the other site."""
        version_id = await self.put(key, body)
        written = time.perf_counter()
        while look:
            try:
                await self.look(key, version_id)
            except NotFound:
                if time.perf_counter() - written > GIVE_UP_S:
                    raise
                await asyncio.sleep(self.work.look_every_s)
            else:
                self.lags_ms.append((time.perf_counter() - written) * 1000)
                return

    async def all(self) -> dict[str, float]:
        """At the rate that is asked for, or one after the other."""
        dataset = Dataset(100, self.work.size_bytes)
        bodies = [dataset.body(index) for index in range(dataset.count)]
        salt = f"{self.work.side}-{self.work.rate_per_s:g}-{time.time_ns()}"
        for number in range(WARM_UP):
            await self.one(f"warm/{salt}-{number}", bodies[number])
        self.lags_ms.clear()
        began, number = time.perf_counter(), 0
        async with asyncio.TaskGroup() as tasks:
            while time.perf_counter() - began < self.work.seconds:
                key, body = f"{number % 10}/{salt}-{number}", bodies[number % len(bodies)]
                looked_at = number % self.work.look_at == 0
                number += 1
                if not self.work.rate_per_s:
                    await self.one(key, body)
                    continue
                tasks.create_task(self.one(key, body, look=looked_at))
                due = began + number / self.work.rate_per_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            wrote_s = time.perf_counter() - began
        cuts = quantiles(self.lags_ms, n=100)
        rate = number / wrote_s
        return {"p50_ms": cuts[49], "p99_ms": cuts[98], "rate_per_s": rate, "count": number}


async def drive(work: Work) -> dict[str, float]:
    """Drive our service, or the bare servers between which MinIO replicates by itself."""
    async with AsyncExitStack() as stack:
        if work.side == "ours":
            a = await stack.enter_async_context(site(work, 0))
            b = await stack.enter_async_context(site(work, 1))

            async def put(key: str, body: bytes) -> str:
                return (await a.put(work.bucket, key, body)).version_id

            async def look(key: str, version_id: str) -> object:
                return await b.head(work.bucket, key, version_id=version_id)

        else:
            stores = [_store(endpoint) for endpoint in work.endpoints]
            for each in stores:
                stack.push_async_callback(each.close)

            async def put(key: str, body: bytes) -> str:
                return (await stores[0].put(work.bucket, key, body)).version_id

            async def look(key: str, version_id: str) -> object:
                return await stores[1].head(work.bucket, key, version_id=version_id)

        return await Drive(put, look, work).all()


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
def main(*, work: Path) -> None:
    """Do one work."""
    told = Work.load(work)
    if told.role == "stream":
        uvloop.run(stream(told))
    else:
        print(json.dumps(uvloop.run(drive(told))))


if __name__ == "__main__":
    main()
