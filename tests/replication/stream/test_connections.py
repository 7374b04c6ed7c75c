"""Bodies that are read while they are written: they never wait for each other's connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio

from entrepot.catalog.connect import Catalog
from entrepot.embedded.minio import MinioServer
from entrepot.replication.stream.channel import Options
from entrepot.replication.stream.engine import subscribe_site
from entrepot.store.s3 import S3Store
from tests.objects.worlds import new_bucket_name
from tests.replication.stream.worlds import (
    Place,
    World,
    assert_equal,
    drained,
    route_over,
    running,
    site_of,
)

SITES = ("site-a", "site-b")
CONNECTIONS = 4
LONG = b"0123456789abcdef" * (2 << 16)  # 2 MiB: not read whole


@pytest_asyncio.fixture
async def narrow(
    dsns: dict[str, str], minio_a: MinioServer, minio_b: MinioServer, keys_dir: Path
) -> AsyncIterator[World]:
    """Two sites with few connections to their stores."""
    async with AsyncExitStack() as stack:
        sites = {}
        for name, server in zip(SITES, (minio_a, minio_b), strict=True):
            store = S3Store(
                endpoint=server.endpoint,
                access_key=server.access_key,
                secret_key=server.secret_key,
                max_connections=CONNECTIONS,
            )
            stack.push_async_callback(store.close)
            objects = await stack.enter_async_context(
                site_of(Place(name, dsns[name], store), keys_dir)
            )
            objects.ground.streams = asyncio.Semaphore(CONNECTIONS // 2)
            sites[name] = objects
        control = await stack.enter_async_context(Catalog.open(dsns["control"]))
        yield World(sites, control, dsns["control"])


async def test_copies_side_by_side(narrow: World) -> None:
    objects, bucket = narrow["site-a"], new_bucket_name()
    await objects.create_bucket(bucket, tenant_id="acme")
    await objects.put(bucket, "source", LONG)
    where = bucket, "source", None
    async with asyncio.timeout(30):
        rows = await asyncio.gather(
            *(objects.copy(bucket, f"k{n}", source=where) for n in range(CONNECTIONS * 2))
        )
    assert {row.size_bytes for row in rows} == {len(LONG)}


async def test_both_directions_of_a_stream(narrow: World) -> None:
    bucket = await narrow.bucket(new_bucket_name())
    route = route_over(bucket, SITES)
    for name in SITES:
        await subscribe_site(narrow[name].ground.catalog, route, name)
        for number in range(CONNECTIONS * 4):
            await narrow[name].put(bucket, f"{name}-{number}", LONG)
    # More workers than connections, as there are more than streams in a stream's default.
    async with running(narrow.stream(route, options=Options(workers=CONNECTIONS * 2))):
        await drained(narrow)
    await assert_equal(narrow, bucket, count=CONNECTIONS * 8)
