"""Prefect's server and worker as child processes; Prefect itself is never imported here.

Invariant: both see only the settings given here (no profile, no variable of the caller's shell),
the API demands the authentication string, and the key that encrypts blocks is not in the database
that holds them.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import httpx
from pydantic import SecretStr

from entrepot.clock import SYSTEM_CLOCK
from entrepot.embedded.paths import DataDir, make_dir
from entrepot.embedded.process import HOST, Spec

WORK_POOL = "entrepot"
DATABASE = "prefect"


@dataclass(frozen=True)
class PrefectConfig:
    """What the server and its clients must agree on."""

    data: DataDir
    port: int
    postgres_port: int
    auth: SecretStr
    db_password: SecretStr
    encryption_key: SecretStr

    @property
    def ui_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"


def client_env(config: PrefectConfig) -> dict[str, str]:
    """Variables of a process that talks to the server: a flow, the worker, the command line."""
    return {
        "PREFECT_API_URL": config.api_url,
        "PREFECT_API_AUTH_STRING": config.auth.get_secret_value(),
        "PREFECT_HOME": str(config.data.prefect),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def without_prefect(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` without PREFECT_*: a PREFECT_API_KEY, for one, would win over our string (401)."""
    return {key: value for key, value in env.items() if not key.startswith("PREFECT_")}


def server_spec(config: PrefectConfig) -> Spec:
    """How Prefect's server is started (API, UI and its background services in one process)."""
    home = make_dir(config.data.prefect, mode=0o700)
    password = config.db_password.get_secret_value()
    database = f"{DATABASE}:{password}@{HOST}:{config.postgres_port}/{DATABASE}"
    env = client_env(config) | {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(config.port),
        "PREFECT_SERVER_API_AUTH_STRING": config.auth.get_secret_value(),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}",
        # The default of 10 s is short for a busy laptop; a statement that passes it loses events.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "30",
        "PREFECT_SERVER_ENCRYPTION_KEY": config.encryption_key.get_secret_value(),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3D",  # three days
        # In memory, the default, a restart of the server would lose who holds a limit.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_UI_API_URL": config.api_url,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    return Spec(
        name="prefect",
        command=(sys.executable, "-m", "prefect", "server", "start"),
        data_dir=config.data.root,
        log=config.data.logs / "prefect.log",
        probe=lambda: _get_ok(f"{config.api_url}/ready"),
        env=without_prefect(os.environ) | env,
        cwd=home,
        port=config.port,
        url=config.ui_url,
        ready_timeout_s=300.0,  # the first start migrates the database
    )


def worker_spec(config: PrefectConfig, *, env: dict[str, str]) -> Spec:
    """How the worker is started; ``env`` is what its flows need. It creates a missing pool."""
    spec = Spec(
        name="worker",
        command=(
            *(sys.executable, "-m", "prefect", "worker", "start"),
            *("--pool", WORK_POOL, "--type", "process", "--name", "embedded"),
        ),
        data_dir=config.data.root,
        log=config.data.logs / "worker.log",
        probe=bool,
        env=without_prefect(os.environ)
        | client_env(config)
        | {"PREFECT_WORKER_QUERY_SECONDS": "2"}  # how long a new run waits; the default is 10
        | env,
        cwd=make_dir(config.data.prefect, mode=0o700),
        url=f"{config.ui_url}/work-pools/work-pool/{WORK_POOL}",
    )
    since = SYSTEM_CLOCK.now()
    return replace(spec, probe=lambda: _worker_beats(config, since))


def gateway_spec(data: DataDir, *, port: int, env: dict[str, str]) -> Spec:
    """How the gateway is started, with the stack's own configuration."""
    url = f"http://{HOST}:{port}"
    return Spec(
        name="gateway",
        command=(sys.executable, "-m", "entrepot.cli", "serve"),
        data_dir=data.root,
        log=data.logs / "gateway.log",
        probe=lambda: _get_ok(f"{url}/healthz"),
        env=without_prefect(os.environ) | env,
        cwd=data.root,
        port=port,
        url=url,
    )


def _get_ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _worker_beats(config: PrefectConfig, since: datetime) -> bool:
    """Whether a worker of our pool gave a sign of life after ``since``."""
    user, _, password = config.auth.get_secret_value().partition(":")
    try:
        answer = httpx.post(
            f"{config.api_url}/work_pools/{WORK_POOL}/workers/filter",
            json={"limit": 10},
            auth=(user, password),
            timeout=5.0,
            trust_env=False,
        )
    except httpx.TransportError:
        return False
    if answer.status_code != httpx.codes.OK:
        return False
    beats = [worker["last_heartbeat_time"] for worker in answer.json()]
    return any(beat and datetime.fromisoformat(beat) >= since for beat in beats)
