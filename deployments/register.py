"""Bringing blocks, work pool, queues, deployments, automation to a Prefect server; idempotent.

Blocks that differ are overwritten: config.yaml is where sites and catalogs are changed. Schedules
that a person changed are kept (``schedules``).
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    temporary_settings,
)
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from blocks import CatalogBlock, ReplicationRule, S3Site
from blocks.catalog import CONTROL
from deployments import schedules
from deployments.silence import watch_for_silence
from entrepot.config import Config
from entrepot.errors import AccessDenied, SetupError, Unavailable

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")
QUEUES = {"critical": 1, "default": 2, "bulk": 3}
"""Queue and priority: a restore never waits for a backup."""
DEPLOY_TIMEOUT_S = 180


def register(
    config: Config,
    *,
    capabilities: Mapping[str, list[str]],
    env: Mapping[str, str],
    progress: Callable[[str], None],
) -> None:
    """Make the server know everything that ``config`` describes.

    Args:
        capabilities: what each site's endpoint was probed to do.
        env: the environment of the Prefect command that reads prefect.yaml.

    Raises ``Unavailable`` where no server answers, ``AccessDenied`` where it wants other
    credentials.
    """
    auth = config.prefect.auth_string
    settings = {
        PREFECT_API_URL: config.prefect.api_url,
        PREFECT_API_AUTH_STRING: auth.get_secret_value() if auth else None,
        PREFECT_API_KEY: None,  # it would win over the authentication string
    }
    with temporary_settings(updates=settings), _answered(config.prefect.api_url):
        progress("blocks")
        _save_blocks(config, capabilities)
        progress("work pool and queues")
        with get_client(sync_client=True) as client:
            _make_pool(client, config.prefect.work_pool)
            watch_for_silence(client)
            progress("deployments")
            kept = schedules.changed(client, PREFECT_FILE)
            with schedules.without(PREFECT_FILE, kept) as path:
                _deploy(path, dict(env) | _client_env(config))
            schedules.remember(client, PREFECT_FILE, kept=kept)
    for name in sorted(kept):
        progress(f"the schedule of {name} was changed in Prefect and is kept")


@contextmanager
def _answered(url: str) -> Iterator[None]:
    """Run the body; a server that is not there or refuses us is one of our errors."""
    try:
        yield
    except httpx.TransportError as error:
        raise Unavailable(
            f"prefect does not answer: {type(error).__name__}", hint="entrepot status", url=url
        ) from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in {401, 403}:
            raise AccessDenied(
                "prefect refuses the authentication string", hint="set prefect.auth_string"
            ) from error
        raise Unavailable(f"prefect answers {status}", hint="entrepot status", url=url) from error


def _client_env(config: Config) -> dict[str, str]:
    auth = config.prefect.auth_string
    found = {"PREFECT_API_URL": config.prefect.api_url, "NO_COLOR": "1"}
    return found | ({"PREFECT_API_AUTH_STRING": auth.get_secret_value()} if auth else {})


def _save_blocks(config: Config, capabilities: Mapping[str, list[str]]) -> None:
    ReplicationRule.register_type_and_schema()
    CatalogBlock(dsn=config.database_url()).save(CONTROL, overwrite=True)
    for site in config.sites():
        CatalogBlock(dsn=SecretStr(site.database_url.get_secret_value())).save(
            site.name, overwrite=True
        )
        S3Site(
            endpoint=site.endpoint,
            region=site.region,
            rank=site.rank,
            access_key=site.access_key,
            secret_key=site.secret_key,
            capabilities=capabilities[site.name],
        ).save(site.name, overwrite=True)


def _make_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template)
        )
    for queue, priority in QUEUES.items():
        try:
            client.create_work_queue(name=queue, work_pool_name=pool, priority=priority)
        except ObjectAlreadyExists:
            continue


def _deploy(path: Path, env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        [*command, "--prefect-file", str(path)],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=DEPLOY_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SetupError(
            "prefect did not take the deployments: " + (done.stderr or done.stdout)[-800:].strip(),
            hint="is the server up? entrepot status",
        )
