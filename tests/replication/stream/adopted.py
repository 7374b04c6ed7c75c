"""Sites whose MinIO tells a gateway what is written to adopted buckets; their users have boto3."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet
from pydantic import SecretStr

from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import lag_of
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.process import HOST
from entrepot.gateway.app import create_app
from entrepot.gateway.notifications import Sender
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.sealing import Sealer
from entrepot.gateway.server import listen, make_server
from entrepot.metrics import Metrics
from entrepot.objects.adopted import follow
from entrepot.objects.ground import Ground
from entrepot.store.protocol import Capability
from entrepot.testing.proxy import BreakableProxy
from tests.objects.worlds import key_ring, s3_store
from tests.replication.stream.worlds import World, drained, until

TOKEN = SecretStr("a-token-of-tests-only")


@dataclass
class Told:
    """Two sites of a stream, a gateway that both stores notify, and a user at each."""

    world: World
    servers: Mapping[str, MinioServer]
    users: Mapping[str, Any]
    url: str
    catalogs: Mapping[str, BreakableProxy]
    """What the gateway reaches the sites' catalogs through."""
    client: httpx.AsyncClient
    metrics: Metrics = field(default_factory=Metrics)

    async def bucket(self, name: str, *, locked: bool = False, followed: bool = True) -> str:
        """Make a bucket at every site, as its user would, and adopt it."""
        for site, user in self.users.items():
            await asyncio.to_thread(
                user.create_bucket, Bucket=name, ObjectLockEnabledForBucket=locked
            )
            on = {"Status": "Enabled"}
            await asyncio.to_thread(
                user.put_bucket_versioning, Bucket=name, VersioningConfiguration=on
            )
            await self.world[site].adopt_bucket(name, tenant_id="acme")
            if followed:
                await follow(self.world[site].ground.store, name)
        return name

    async def does(self, site: str, verb: str, **what: Any) -> Any:
        """A user's request, straight to the store."""
        return await asyncio.to_thread(getattr(self.users[site], verb), **what)

    async def post(
        self, site: str, body: bytes, *, token: str | None = TOKEN.get_secret_value()
    ) -> httpx.Response:
        """Send the gateway what a store may, or what passes for it."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        url = f"{self.url}/webhooks/notifications/{site}"
        return await self.client.post(url, content=body, headers=headers)

    async def history(self, site: str, bucket: str) -> list[tuple[Any, ...]]:
        """All that must be equal at every site, as the store has it."""
        store, found = self.world[site].ground.store, []
        async for page in store.versions(bucket, details=True):
            for each in page.versions:
                found.append(
                    (
                        *(each.key, each.version_id, each.mtime_ms, each.size_bytes, each.etag),
                        *(each.is_delete_marker, each.attributes, each.lock),
                    )
                )
        return found

    async def equal(self, bucket: str, *, count: int) -> None:
        """Wait until every site has the same history of so many versions."""

        async def holds() -> bool:
            found = [await self.history(site, bucket) for site in self.users]
            return all(len(each) == count and each == found[0] for each in found)

        try:
            await until(holds, timeout_s=60)
        except TimeoutError:
            found = {site: await self.history(site, bucket) for site in self.users}
            raise AssertionError(found) from None

    async def quiet(self, *, timeout_s: float = 20.0) -> None:
        """Wait until no store has anything to tell, and nothing waits in an outbox."""

        async def nothing_is_queued() -> bool:
            return not any(any(queue_of(each).rglob("*.event")) for each in self.servers.values())

        await until(nothing_is_queued, timeout_s=60)
        await drained(self.world, timeout_s=timeout_s)

    async def shipped(self, rule: str) -> dict[str, int]:
        """How many events each site brought to the others, by where they were made."""
        catalogs = {site: self.world[site].ground.catalog for site in self.users}
        found = await lag_of(catalogs, rule=rule)
        return {each.source: each.shipped for each in found}

    def heard(self, site: str, outcome: str) -> int:
        """How many notifications of a site came to this."""
        return int(self.metrics.notifications.labels(site, outcome)._value.get())


def queue_of(server: MinioServer) -> Path:
    """Where a server keeps what it could not tell."""
    return server.data_dir / "queue"


@asynccontextmanager
async def gateway(
    *,
    port: int,
    host: str = HOST,
    control_dsn: str,
    servers: Mapping[str, MinioServer],
    dsns: Mapping[str, str],
    keys: Path,
    metrics: Metrics,
) -> AsyncGenerator[None, None]:
    """A real gateway; ``dsns`` are those of the sites' catalogs as it reaches them."""

    def opener(site: str) -> Callable[[], Any]:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Ground, None]:
            async with AsyncExitStack() as stack:
                store = s3_store(servers[site])
                stack.push_async_callback(store.close)
                ring = key_ring(keys)
                stack.push_async_callback(ring.close)
                catalog = await stack.enter_async_context(Catalog.open(dsns[site], pool_size=4))
                yield Ground(site, store, catalog, ring, frozenset[Capability]())

        return opened

    app = create_app(
        control=Catalog.open(control_dsn, pool_size=2),
        sites={},
        prefect=PrefectApi(f"http://{HOST}:9/api", None),
        sealer=Sealer(SecretStr(Fernet.generate_key().decode())),
        senders={site: Sender(TOKEN, opener(site)) for site in servers},
        metrics=metrics,
        body_timeout_s=2.0,
    )
    with listen(host, port) as listener:
        server = make_server(app)
        task = asyncio.create_task(server._serve([listener]))

        async def is_up() -> bool:
            assert not task.done(), task
            return server.started

        await until(is_up)
        try:
            yield
        finally:
            server.should_exit = True
            await task
