"""Three ways to speak S3, each as somebody who knows it would use it, and one measurement of one.

    python -m bench.clients CLIENT OPERATION BUCKET COUNT SIZE_BYTES < endpoint.json

Each measurement has a process of its own: what an earlier one left in the allocator made reading
64 MiB ten times dearer. A client opens its connections in each call and closes them at its end.
Bodies are counted and dropped as they arrive. It ends with one JSON line of seconds, wall and CPU.
"""

import asyncio
import gc
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import click
import uvloop
from pydantic import SecretStr
from urllib3 import PoolManager

from bench import data
from bench.data import Dataset
from bench.measure import MIB, Endpoint
from entrepot.errors import IntegrityError
from entrepot.store.protocol import Page
from entrepot.store.s3 import S3Store

IN_FLIGHT = 16
T = TypeVar("T")
Client = Mapping[str, Callable[..., Any]]
"""What it offers by name: ``put`` of a bucket and bodies by key, ``get`` of a bucket and keys
(answers with sizes by key), and listings of a bucket, which count the entries that they read."""


def _blocking(work: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: uvloop.run(work(*args))


async def _each(work: Callable[[str], Awaitable[T]], keys: Sequence[str]) -> dict[str, T]:
    """``work`` for every key: ``IN_FLIGHT`` workers share one iterator."""
    left, found = iter(keys), {}

    async def worker() -> None:
        for key in left:
            found[key] = await work(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())
    return found


def ours(endpoint: Endpoint) -> Client:
    """``entrepot.store.s3`` under uvloop; entries are decoded, except where it says not."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[S3Store]:
        secret = SecretStr(endpoint.secret_key)
        store = S3Store(endpoint=endpoint.url, access_key=endpoint.access_key, secret_key=secret)
        try:
            yield store
        finally:
            await store.close()

    async def put(bucket: str, bodies: Mapping[str, bytes]) -> object:
        async with opened() as store:
            return await _each(lambda key: store.put(bucket, key, bodies[key]), [*bodies])

    async def get(bucket: str, keys: Sequence[str]) -> Mapping[str, int]:
        async def one(key: str) -> int:
            async with store.get(bucket, key) as body:
                return sum([len(piece) async for piece in body])

        async with opened() as store:
            return await _each(one, keys)

    def count(method: str, entries: Callable[[Page], int]) -> Callable[[str], int]:
        async def work(bucket: str) -> int:
            async with opened() as store:
                return sum([entries(page) async for page in getattr(store, method)(bucket)])

        return _blocking(work)

    def decoded(page: Page) -> int:
        return len(page.versions)

    return {
        "put": _blocking(put),
        "get": _blocking(get),
        "list": count("list", decoded),
        "versions": count("versions", decoded),
        "versions, undecoded": count("versions", len),
    }


def sdk(endpoint: Endpoint) -> Client:
    """The ``minio`` package in threads, one PUT an object and a connection for each thread."""

    def opened() -> Any:
        return data.client(endpoint, http_client=PoolManager(maxsize=IN_FLIGHT))

    def put(bucket: str, bodies: Mapping[str, bytes]) -> object:
        client = opened()

        def one(key: str) -> None:
            body, size = io.BytesIO(bodies[key]), len(bodies[key])
            client.put_object(bucket, key, body, size, part_size=max(5 * MIB, size))

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(one, bodies))

    def get(bucket: str, keys: Sequence[str]) -> Mapping[str, int]:
        client = opened()

        def one(key: str) -> int:
            with client.get_object(bucket, key) as reply:
                return sum(len(piece) for piece in reply.stream(MIB))

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return dict(zip(keys, pool.map(one, keys), strict=True))

    def count(bucket: str, *, metadata: bool = False, **options: Any) -> int:
        found = opened().list_objects(bucket, recursive=True, **options)
        return sum(1 for entry in found if entry.metadata or not metadata)

    def with_metadata(bucket: str) -> int:
        # The SDK ignores its own include_user_meta where versions are asked for.
        query = {"metadata": "true"}
        return count(bucket, metadata=True, include_version=True, extra_query_params=query)

    return {
        "put": put,
        "get": get,
        "list": count,
        "versions": partial(count, include_version=True),
        "versions with metadata": with_metadata,
    }


def obstore(endpoint: Endpoint) -> Client:
    """``obstore`` awaited under uvloop, one PUT an object; it knows no versions."""

    async def put(bucket: str, bodies: Mapping[str, bytes]) -> object:
        store = data.store(endpoint, bucket)
        return await _each(
            lambda key: store.put_async(key, bodies[key], use_multipart=False), [*bodies]
        )

    async def get(bucket: str, keys: Sequence[str]) -> Mapping[str, int]:
        async def one(key: str) -> int:
            pieces = (await store.get_async(key)).stream(min_chunk_size=1)
            return sum([len(piece) async for piece in pieces])

        store = data.store(endpoint, bucket)
        return await _each(one, keys)

    async def count(bucket: str) -> int:
        pages = data.store(endpoint, bucket).list(chunk_size=1000)
        return sum([len(page) async for page in pages])

    return {"put": _blocking(put), "get": _blocking(get), "list": _blocking(count)}


CLIENTS: Mapping[str, Callable[[Endpoint], Client]] = {
    "ours": ours,
    "minio": sdk,
    "obstore": obstore,
}


def timed(work: Callable[..., T], *args: Any) -> tuple[float, float, T]:
    """Wall and CPU seconds of ``work(*args)``, and its answer; earlier writes are on the disk."""
    os.sync()
    gc.collect()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    answer = work(*args)
    return time.perf_counter() - wall_s, time.process_time() - cpu_s, answer


def measured(client: Client, operation: str, bucket: str, dataset: Dataset) -> tuple[float, float]:
    """Wall and CPU seconds; ``IntegrityError`` where something is missing in what was read."""
    keys = [dataset.key(index) for index in range(dataset.count)]
    args: list[Any] = [bucket]
    if operation == "put":
        args.append({key: dataset.body(index) for index, key in enumerate(keys)})
    elif operation == "get":
        args.append(keys)
    wall_s, cpu_s, answer = timed(client[operation], *args)
    whole = dict.fromkeys(keys, dataset.size_bytes) if operation == "get" else dataset.count
    if operation != "put" and answer != whole:
        raise IntegrityError("not everything was read", operation=operation, bucket=bucket)
    return wall_s, cpu_s


@click.command()
@click.argument("client", type=click.Choice([*CLIENTS]))
@click.argument("operation")
@click.argument("bucket")
@click.argument("count", type=int)
@click.argument("size_bytes", type=int)
def main(*, client: str, operation: str, bucket: str, count: int, size_bytes: int) -> None:
    """Measure one operation of one client."""
    endpoint = Endpoint(**json.load(sys.stdin))
    found = CLIENTS[client](endpoint)
    print(json.dumps(measured(found, operation, bucket, Dataset(count, size_bytes))))


if __name__ == "__main__":
    main()
