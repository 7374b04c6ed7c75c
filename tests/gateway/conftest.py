"""One Prefect server, one control catalog, one site catalog and one gateway for the suite."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.rules import save_rule
from entrepot.catalog.sites import set_capabilities, upsert_site
from entrepot.catalog.tokens import Scope
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.postgres import PostgresServer
from entrepot.gateway.app import create_app
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.registration import register
from entrepot.gateway.sealing import Sealer
from entrepot.gateway.signature import parse_secret, sign
from entrepot.metrics import Metrics
from tests.gateway.callers import ALL, As, Caller, token
from tests.gateway.servers import Address, PrefectServer, serving

DEPLOYMENT = "sweep/nightly"
BODY_TIMEOUT_S = 1.0


class ShiftedClock:
    """The machine's clock, moved; the gateway's idea of now."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()


@dataclass
class Sender:
    """One who holds a webhook's secret; ``send`` posts what it is told, well signed or not."""

    client: httpx.AsyncClient
    address: Address
    name: str
    secret: bytes
    prefect: PrefectServer

    def headers(
        self, body: bytes, *, delivery_id: str | None = None, timestamp: int | None = None
    ) -> dict[str, str]:
        delivery_id = delivery_id or f"msg_{new_id().hex}"
        if timestamp is None:
            timestamp = int(datetime.now(UTC).timestamp())
        text = f"{delivery_id}.{timestamp}.".encode() + body
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(text, secret=self.secret).decode(),
        }

    async def send(
        self,
        body: bytes = b"{}",
        *,
        delivery_id: str | None = None,
        timestamp: int | None = None,
        **changed: str,
    ) -> httpx.Response:
        headers = self.headers(body, delivery_id=delivery_id, timestamp=timestamp)
        headers |= {f"webhook-{name}": value for name, value in changed.items()}
        return await self.client.post(self.url, content=body, headers=headers)

    @property
    def url(self) -> str:
        return f"{self.address.url}/webhooks/{self.name}"

    def runs(self) -> list[dict[str, Any]]:
        """What Prefect has because of this webhook."""
        return self.prefect.runs(tag=f"webhook:{self.name}")


@pytest.fixture(scope="session")
def prefect_server(servers_dir: Path) -> Iterator[PrefectServer]:
    """A running Prefect server with the deployment ``sweep/nightly``."""
    server = PrefectServer(servers_dir / "gateway-prefect")
    try:
        server.start()
        server.deploy("sweep", "nightly")
        server.deploy("replicate", "nightly")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def sealer() -> Sealer:
    return Sealer(SecretStr(Fernet.generate_key().decode()))


@pytest.fixture(scope="session")
async def control_dsn(postgres: PostgresServer) -> str:
    """A migrated control catalog."""
    dsn = postgres.create_database("gateway_control")
    await migrate(dsn, kind=CatalogKind.CONTROL)
    return dsn


@pytest.fixture(scope="session")
async def site_dsn(postgres: PostgresServer) -> str:
    """A migrated site catalog."""
    dsn = postgres.create_database("gateway_site")
    await migrate(dsn, kind=CatalogKind.SITE)
    return dsn


@pytest.fixture(scope="session")
async def control(control_dsn: str) -> AsyncIterator[Catalog]:
    async with Catalog.open(control_dsn) as catalog:
        yield catalog


@pytest.fixture(scope="session")
async def prefect(prefect_server: PrefectServer) -> AsyncIterator[PrefectApi]:
    async with PrefectApi(prefect_server.api_url, prefect_server.auth) as api:
        yield api


@pytest.fixture(scope="session")
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture(scope="session")
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(scope="session")
async def address(
    *,
    control_dsn: str,
    site_dsn: str,
    prefect_server: PrefectServer,
    sealer: Sealer,
    clock: ShiftedClock,
    metrics: Metrics,
) -> AsyncIterator[Address]:
    """The gateway, listening."""
    app = create_app(
        control=Catalog.open(control_dsn, pool_size=10),
        sites={"a": Catalog.open(site_dsn, pool_size=1)},
        prefect=PrefectApi(prefect_server.api_url, prefect_server.auth),
        sealer=sealer,
        clock=clock,
        metrics=metrics,
        body_timeout_s=BODY_TIMEOUT_S,
    )
    async with serving(app) as address:
        yield address


@pytest.fixture(scope="session")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        yield client


MakeSender = Callable[..., Any]


@pytest.fixture
def make_sender(
    *,
    client: httpx.AsyncClient,
    address: Address,
    control: Catalog,
    prefect: PrefectApi,
    prefect_server: PrefectServer,
    sealer: Sealer,
) -> MakeSender:
    """``await make_sender(allowed=..., fixed=...)``: a sender for a new webhook."""

    async def make(**declared: Any) -> Sender:
        name = f"hook-{new_id().hex[:12]}"
        made = await register(
            name,
            catalog=control,
            prefect=prefect,
            sealer=sealer,
            **{"deployment": DEPLOYMENT, **declared},
        )
        return Sender(client, address, name, parse_secret(made.secret), prefect_server)

    return make


@pytest.fixture
async def sender(make_sender: MakeSender) -> Sender:
    """A sender for a webhook that allows ``dry_run`` and ``prefix`` and fixes ``rule``."""
    made = await make_sender(allowed=("dry_run", "prefix", "shards"), fixed={"rule": "fixed"})
    assert isinstance(made, Sender)
    return made


@pytest.fixture
def caller(client: httpx.AsyncClient, address: Address) -> As:
    return lambda text: Caller(client, f"{address.url}/api/v1", text)


@pytest.fixture
async def both(control: Catalog, caller: As) -> Caller:
    """A caller that may do all."""
    return caller((await token(control, *Scope)).text)


@pytest.fixture
async def rule(control: Catalog) -> str:
    """A rule over two sites that can do all."""
    for rank, site in enumerate(("site-a", "site-b")):
        await upsert_site(control, name=site, endpoint=f"http://{site}", region="", rank=rank)
        await set_capabilities(control, name=site, capabilities=ALL, probed_at=SYSTEM_CLOCK.now())
    name = f"rule-{new_id().hex[:8]}"
    await save_rule(control, name=name, buckets=["photos"], sites=["site-a", "site-b"])
    return name
