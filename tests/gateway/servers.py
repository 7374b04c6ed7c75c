"""What the gateway is tested against: a real Prefect server, and itself under real uvicorn."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from starlette.types import ASGIApp

from entrepot.clock import SYSTEM_CLOCK
from entrepot.embedded.process import HOST, Child, Spec, free_port
from entrepot.gateway.server import listen, make_server

# What `prefect deploy` would store for a flow with one Pydantic parameter called `request`.
SCHEMA: dict[str, Any] = {
    "title": "Parameters",
    "type": "object",
    "properties": {"request": {"$ref": "#/definitions/SweepRequest", "position": 0}},
    "required": ["request"],
    "definitions": {
        "SweepRequest": {
            "title": "SweepRequest",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "rule": {"type": "string", "maxLength": 64},
                "prefix": {"type": "string", "default": ""},
                "dry_run": {"type": "boolean", "default": True},
                "shards": {"type": "integer", "minimum": 1, "maximum": 64},
                "buckets": {"type": "array", "items": {"type": "string"}, "default": []},
                "endpoint": {"type": "string"},
            },
            "required": ["rule"],
        }
    },
}
BUSY_TRIES, BUSY_PAUSE_S = 10, 0.5
DEFAULTS = {"request": {"rule": "nightly", "dry_run": False}}


class PrefectServer:
    """``prefect server start`` over SQLite in ``home``; can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.auth = SecretStr("tester:in-a-test-only")
        self.port = free_port()
        self.api_url = f"http://{HOST}:{self.port}/api"
        home.mkdir(parents=True, exist_ok=True)
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_API_AUTH_STRING": self.auth.get_secret_value(),
            "PREFECT_API_AUTH_STRING": self.auth.get_secret_value(),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
        }
        self._child = Child(
            Spec(
                name="prefect",
                command=(sys.executable, "-m", "prefect", "server", "start"),
                data_dir=home,
                log=home / "prefect.log",
                probe=self._ready,
                env=env,
                ready_timeout_s=180.0,
            )
        )

    def start(self) -> "PrefectServer":
        self._child.spawn()
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        self._child.stop()

    def _ready(self) -> bool:
        try:
            return self.request("GET", "/ready").is_success
        except httpx.TransportError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One call; again where the server's SQLite was busy, as Prefect's own client does."""
        user, _, password = self.auth.get_secret_value().partition(":")
        for _ in range(BUSY_TRIES):
            answer = httpx.request(
                method, self.api_url + path, json=body, auth=(user, password), trust_env=False
            )
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(BUSY_PAUSE_S)
        return answer

    def deploy(self, flow: str, name: str, *, enforce: bool = True) -> None:
        """Register a deployment as ``prefect deploy`` does, over REST."""
        made = self.request("POST", "/flows/", {"name": flow}).raise_for_status().json()
        body = {
            "flow_id": made["id"],
            "name": name,
            "parameters": DEFAULTS,
            "parameter_openapi_schema": SCHEMA,
            "enforce_parameter_schema": enforce,
            "tags": ["tested"],
        }
        self.request("POST", "/deployments/", body).raise_for_status()

    def runs(self, *, tag: str) -> list[dict[str, Any]]:
        """The flow runs that carry ``tag``."""
        body = {"flow_runs": {"tags": {"all_": [tag]}}, "limit": 200}
        found = self.request("POST", "/flow_runs/filter", body).raise_for_status().json()
        assert isinstance(found, list)
        return found


@dataclass(frozen=True)
class Address:
    """Where a gateway under test listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Address]:
    """``app`` under the production server, on a free port, in this loop."""
    with listen(HOST, 0) as listener:
        server = make_server(app)
        task = asyncio.create_task(server._serve([listener]))  # `serve` would take the signals
        deadline = SYSTEM_CLOCK.monotonic() + 20
        while not server.started:
            assert not task.done() and SYSTEM_CLOCK.monotonic() < deadline
            await asyncio.sleep(0.01)
        try:
            yield Address(HOST, listener.getsockname()[1])
        finally:
            server.should_exit = True
            await task
