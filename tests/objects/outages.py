"""A site that fails on cue: services over scripted stores, proxies and servers of a test's own."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_id
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.objects.ground import Ground
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from entrepot.store.protocol import Store
from entrepot.store.retry import RetryPolicy, RetryStore
from entrepot.store.s3 import S3Store
from entrepot.testing.faulty import Fault, FaultyStore
from tests.objects.conftest import KINDS
from tests.objects.test_kill import assert_whole, expire
from tests.objects.test_service import read
from tests.objects.worlds import ALL, SLOW, key_ring, new_bucket_name

QUICKLY = RetryPolicy(max_retries=4, initial_backoff_ms=1, max_backoff_ms=5)


class World:
    """A site of a test's own catalog; services on it are opened as the test wants them."""

    def __init__(self, dsn: str, minio: MinioServer, keys: Path) -> None:
        self.dsn, self.minio, self.keys = dsn, minio, keys

    @asynccontextmanager
    async def opened(
        self,
        *,
        endpoint: str = "",
        dsn: str = "",
        wrap: Callable[[Store], Store] = lambda store: store,
        read_timeout_s: float = 60.0,
        pool_size: int = 6,
    ) -> AsyncIterator[Objects]:
        """A service without keeper: nothing is recovered unless the test asks."""
        bare = S3Store(
            endpoint=endpoint or self.minio.endpoint,
            access_key=self.minio.access_key,
            secret_key=self.minio.secret_key,
            read_timeout_s=read_timeout_s,
        )
        ring = key_ring(self.keys)
        async with Catalog.open(dsn or self.dsn, pool_size=pool_size) as catalog:
            try:
                ground = Ground("site-a", wrap(bare), catalog, ring, ALL, limits=SLOW)
                await ground.start()
                yield Objects(ground, min_size_bytes=1000)
            finally:
                await ring.close()
                await bare.close()

    @asynccontextmanager
    async def scripted(
        self, script: Mapping[str, Sequence[Fault]], *, retries: bool = False
    ) -> AsyncIterator[Objects]:
        """A service over a store that plays the script to its end."""
        made: list[FaultyStore] = []

        def wrap(store: Store) -> Store:
            made.append(FaultyStore(store, script))
            return RetryStore(made[0], QUICKLY) if retries else made[0]

        async with self.opened(wrap=wrap) as objects:
            yield objects
        assert not made[0].left

    async def bucket(self, kind: str = "plain") -> str:
        """A new bucket, made through a service without faults."""
        name = new_bucket_name()
        async with self.opened() as objects:
            await objects.create_bucket(name, tenant_id="acme", **KINDS[kind])
        return name

    async def after(self, bucket: str, bodies: Mapping[str, bytes | None]) -> None:
        """Recover; then these keys and no others have these bodies, and all holds."""
        async with self.opened() as objects:
            await expire(objects.ground.catalog)
            await recover(objects.ground, older_s=0)
            listed = {entry.key for entry in await objects.list(bucket)}
            assert listed == {key for key, body in bodies.items() if body is not None}
            for key in listed:
                assert await read(objects, bucket, key) == bodies[key]
            await assert_whole(objects, bucket)


def private(path: Path) -> Path:
    """The same path, for nobody else."""
    path.chmod(0o700)
    return path


async def new_world(postgres: PostgresServer, minio: MinioServer, keys: Path) -> World:
    dsn = postgres.create_database(f"faults_{new_id().hex[:12]}")
    await migrate(dsn, kind=CatalogKind.SITE)
    return World(dsn, minio, private(keys))


def pid_of(server: MinioServer | PostgresServer) -> int:
    assert server._child
    assert server._child.pid
    return server._child.pid
