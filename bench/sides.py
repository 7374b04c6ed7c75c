"""The service over objects and the bare store, each put to the same work, and one measurement.

    python -m bench.sides WORK.json

Like ``bench.clients``, each measurement has a process of its own. Connections are open and caches
warm before its clock starts. It ends with one JSON line: seconds, wall and CPU, and milliseconds of
single requests.
"""

import asyncio
import gc
import json
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from pathlib import Path
from statistics import quantiles

import click
import uvloop
from pydantic import SecretStr

from bench import data
from bench.data import BASE_MTIME_S, Dataset
from bench.measure import MIB, Endpoint
from entrepot.catalog.connect import Catalog
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import IntegrityError
from entrepot.objects.ground import Ground
from entrepot.objects.service import Objects
from entrepot.store.protocol import Attributes, Capability, Source
from entrepot.store.s3 import S3Store

CONNECTIONS = 32
"""Of either side to the store; more than any case has callers."""

POOL = 6
"""Ours to the catalog: what its lanes can use at once."""

PIECE_BYTES = 256 * 1024
"""Of a stream: what one read of a socket brings."""

METADATA = {"entrepot-write": f"{BASE_MTIME_S * 1000}.site-a.{'0' * 8}~{'0' * 36}"}
"""As much as ours writes beside the bytes, so that both sides store the same."""


KINDS: Mapping[str, Mapping[str, bool]] = {
    "plain": {},
    "encrypted": {"encrypted": True},
    "compressed": {"compressed": True},
    "both": {"encrypted": True, "compressed": True},
}


@dataclass(frozen=True, slots=True)
class Text(Dataset):
    """Lines of JSON that compress to about 40 %, as logs do."""

    def body(self, index: int, *, salt: str = "") -> bytes:
        head = f"{salt} {index}\n".encode()
        return (head + _lines() * (self.size_bytes // MIB + 1))[: self.size_bytes]


@lru_cache(maxsize=1)
def _lines() -> bytes:
    """A MiB of them. The codec compresses each MiB by itself, so repeating it gains nothing."""
    names = shake_256(b"lines").hexdigest(MIB // 2)
    lines = (
        f'{{"id": {number}, "name": "{names[number * 64 : number * 64 + 64]}", "ok": true}}\n'
        for number in range(12_000)
    )
    return "".join(lines).encode()[:MIB]


@dataclass(frozen=True, slots=True)
class Work:
    """What its process is told. ``dsn`` and ``keys`` are of the catalog and the key ring."""

    endpoint: Endpoint
    dsn: str
    keys: str
    side: str
    verb: str
    bucket: str
    dataset: Dataset
    kind: str = "plain"
    callers: int = 1

    @classmethod
    def load(cls, path: Path) -> "Work":
        told = json.loads(path.read_text())
        kind = Text if told["kind"] in ("compressed", "both") else Dataset
        endpoint, dataset = Endpoint(**told.pop("endpoint")), kind(**told.pop("dataset"))
        return cls(endpoint=endpoint, dataset=dataset, **told)


@dataclass(frozen=True, slots=True)
class Side:
    """The verbs of one side on one bucket; ``pages`` gives the keys of each page."""

    create: Callable[[], Awaitable[object]]
    put: Callable[[str, Source, int | None], Awaitable[object]]
    get: Callable[[str], AbstractAsyncContextManager[AsyncIterable[bytes]]]
    pages: Callable[[], AsyncIterator[list[str]]]


@asynccontextmanager
async def _store(work: Work) -> AsyncGenerator[S3Store, None]:
    store = S3Store(
        endpoint=work.endpoint.url,
        access_key=work.endpoint.access_key,
        secret_key=SecretStr(work.endpoint.secret_key),
        max_connections=CONNECTIONS,
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def direct(work: Work) -> AsyncGenerator[Side, None]:
    """The bare store; a versioned bucket, and a body in memory is sent with its MD5."""
    async with _store(work) as store:

        async def pages() -> AsyncIterator[list[str]]:
            async for page in store.list(work.bucket):
                yield [entry.key for entry in page.versions]

        def put(key: str, source: Source, size_bytes: int | None) -> Awaitable[object]:
            kept = Attributes(metadata=METADATA)
            return store.put(work.bucket, key, source, size_bytes=size_bytes, attributes=kept)

        yield Side(
            create=lambda: store.create(work.bucket, versioned=True),
            put=put,
            get=lambda key: store.get(work.bucket, key),
            pages=pages,
        )


@asynccontextmanager
async def ours(work: Work) -> AsyncGenerator[Side, None]:
    """The service; it comes and goes with the block, as a server's would."""
    root, ring = Path(work.keys) / "root.key", Path(work.keys) / "ring"
    if not root.exists():
        LocalRoot.create_file(root)
    keys = KeyRing(ring, LocalRoot.from_file(root))
    async with _store(work) as store, Catalog.open(work.dsn, pool_size=POOL) as catalog:
        ground = Ground("site-a", store, catalog, keys, frozenset(Capability))
        try:
            async with Objects.open(ground) as objects:
                yield _service(objects, work)
        finally:
            await keys.close()


def _service(objects: Objects, work: Work) -> Side:
    async def pages() -> AsyncIterator[list[str]]:
        after = ""
        while page := await objects.list(work.bucket, after=after):
            yield [entry.key for entry in page]
            after = page[-1].key

    return Side(
        create=lambda: objects.create_bucket(work.bucket, tenant_id="bench", **KINDS[work.kind]),
        put=lambda key, source, size: objects.put(work.bucket, key, source, size_bytes=size),
        get=lambda key: objects.get(work.bucket, key),
        pages=pages,
    )


async def _timed(work: Work) -> dict[str, float]:
    """Wall and CPU seconds of the work, and for single requests the milliseconds of one."""
    async with {"direct": direct, "ours": ours}[work.side](work) as side:
        if work.verb in ("put", "create", "streams"):
            await side.create()
        if work.verb == "create":
            return {}
        if work.verb == "list":
            return await _listed(side, work)
        if work.verb == "streams":
            return await _clocked(_streams(side, work))
        request = _request(side, work)
        for _ in range(2):  # the second time no connection is opened any more
            await _each(request, list(range(min(work.callers, work.dataset.count))), work.callers)
        took_ms: list[float] = []
        found = await _clocked(_each(request, range(work.dataset.count), work.callers, took_ms))
        cuts = quantiles(took_ms, n=100) if len(took_ms) > 1 else took_ms * 99
        return found | {"p50_ms": cuts[49], "p99_ms": cuts[98]}


async def _clocked(work: Awaitable[object]) -> dict[str, float]:
    os.sync()
    gc.collect()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await work
    return {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}


async def _each(
    request: Callable[[int], Awaitable[object]],
    indexes: Sequence[int],
    callers: int,
    took_ms: list[float] | None = None,
) -> None:
    """``request`` for every index: the callers share one iterator."""
    left = iter(indexes)

    async def caller() -> None:
        for index in left:
            started = time.perf_counter()
            await request(index)
            if took_ms is not None:
                took_ms.append((time.perf_counter() - started) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())


def _request(side: Side, work: Work) -> Callable[[int], Awaitable[object]]:
    """A put or a get of the object with that index; large bodies are streams of known length."""
    dataset = work.dataset
    if work.verb == "get":

        async def get(index: int) -> None:
            async with side.get(dataset.key(index)) as body:
                size_bytes = sum([len(piece) async for piece in body])
            if size_bytes != dataset.size_bytes:
                raise IntegrityError("not everything was read", key=dataset.key(index))

        return get
    bodies = [dataset.body(index) for index in range(dataset.count)]
    if dataset.size_bytes <= data.TAR_MAX_BYTES:
        return lambda index: side.put(dataset.key(index), bodies[index], None)
    cut = [
        [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)] for body in bodies
    ]
    return lambda index: side.put(dataset.key(index), _stream(cut[index]), dataset.size_bytes)


async def _stream(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _listed(side: Side, work: Work) -> dict[str, float]:
    async def listed() -> None:
        keys = [key async for page in side.pages() for key in page]
        if len(keys) != work.dataset.count or keys[0] != first or keys[-1] != last:
            raise IntegrityError("not everything was listed", bucket=work.bucket)

    names = [work.dataset.key(index) for index in range(work.dataset.count)]
    first, last = min(names), max(names)
    await anext(side.pages())
    return await _clocked(listed())


async def _streams(side: Side, work: Work) -> None:
    """Put so many bodies at once, which exist nowhere whole and whose length is not said."""

    async def generated() -> AsyncIterator[bytes]:
        block = memoryview(_lines())
        for start in range(0, work.dataset.size_bytes, PIECE_BYTES):
            at = start % MIB
            yield bytes(block[at : at + PIECE_BYTES])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for index in range(work.dataset.count):
            group.create_task(_put(side, work.dataset.key(index), generated()))


async def _put(side: Side, key: str, source: AsyncIterator[bytes]) -> None:
    await side.put(key, source, None)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
def main(*, work: Path) -> None:
    """Measure one work of one side."""
    print(json.dumps(uvloop.run(_timed(Work.load(work)))))


if __name__ == "__main__":
    main()
