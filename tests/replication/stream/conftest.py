"""Three sites for the tests of a session, each with a MinIO and a catalog; a control catalog."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer, Notify
from entrepot.embedded.postgres import PostgresServer
from entrepot.embedded.process import HOST, free_port
from entrepot.testing.proxy import BreakableProxy
from tests.objects.worlds import s3_store
from tests.replication.stream.adopted import TOKEN, Told, gateway
from tests.replication.stream.worlds import Place, World, site_of
from tests.replication.worlds import client as user_of

NAMES = ("site-a", "site-b", "site-c")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def dsns(postgres: PostgresServer) -> dict[str, str]:
    """The catalogs of the sites, and ``control``."""
    found = {}
    for name in (*NAMES, "control"):
        found[name] = postgres.create_database(f"stream_{name.replace('-', '_')}")
        kind = CatalogKind.CONTROL if name == "control" else CatalogKind.SITE
        await migrate(found[name], kind=kind)
    return found


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream-keys")
    path.chmod(0o700)
    return path


@pytest_asyncio.fixture
async def world(
    dsns: dict[str, str],
    minio_a: MinioServer,
    minio_b: MinioServer,
    minio_c: MinioServer,
    keys_dir: Path,
) -> AsyncIterator[World]:
    """Three sites, and nothing that waits at any of them."""
    async with AsyncExitStack() as stack:
        sites = {}
        for name, server in zip(NAMES, (minio_a, minio_b, minio_c), strict=True):
            store = s3_store(server)
            stack.push_async_callback(store.close)
            place = Place(name, dsns[name], store)
            sites[name] = await stack.enter_async_context(site_of(place, keys_dir))
        control = await stack.enter_async_context(Catalog.open(dsns["control"]))
        yield World(sites, control, dsns["control"])


@pytest.fixture(scope="session")
def notify_port() -> int:
    """Where the gateway of ``told`` listens; its stores know it from their start."""
    return free_port()


@pytest.fixture(scope="session")
def telling(servers_dir: Path, notify_port: int) -> Iterator[dict[str, MinioServer]]:
    """Two MinIO servers that send notifications."""
    servers = {}
    try:
        for name in NAMES[:2]:
            data_dir = servers_dir / f"telling-{name}"
            url = f"http://{HOST}:{notify_port}/webhooks/notifications/{name}"
            servers[name] = MinioServer(
                data_dir,
                MinioCredentials(new_token(8), SecretStr(new_token(24))),
                notify=Notify(url, TOKEN, data_dir / "queue"),
            )
            servers[name].start()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest_asyncio.fixture
async def told(
    dsns: dict[str, str], telling: dict[str, MinioServer], keys_dir: Path, notify_port: int
) -> AsyncIterator[Told]:
    """Two sites whose stores tell a gateway, and nothing that waits."""
    async with AsyncExitStack() as stack:
        sites, proxies, behind = {}, {}, {}
        for name, server in telling.items():
            store = s3_store(server)
            stack.push_async_callback(store.close)
            place = Place(name, dsns[name], store)
            sites[name] = await stack.enter_async_context(site_of(place, keys_dir))
            dsn = make_url(dsns[name])
            assert dsn.port
            proxies[name] = await stack.enter_async_context(BreakableProxy(HOST, dsn.port))
            behind[name] = dsn.set(port=proxies[name].port).render_as_string(hide_password=False)
        control = await stack.enter_async_context(Catalog.open(dsns["control"]))
        world = World(sites, control, dsns["control"])
        users = {name: user_of(server) for name, server in telling.items()}
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
        told = Told(world, telling, users, f"http://{HOST}:{notify_port}", proxies, client)
        await stack.enter_async_context(
            gateway(
                port=notify_port,
                control_dsn=dsns["control"],
                servers=telling,
                dsns=behind,
                keys=keys_dir,
                metrics=told.metrics,
            )
        )
        yield told
