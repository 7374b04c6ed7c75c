"""The servers of a planned stack, in the order in which they start.

Postgres first, for everything asks it; then the sites; then Prefect's server, its worker, and the
gateway.
"""

from pathlib import Path

from entrepot.embedded.configfile import CONTROL_DATABASE, CONTROL_USER
from entrepot.embedded.minio import MinioCredentials, Notify, minio_spec
from entrepot.embedded.paths import DataDir
from entrepot.embedded.plan import Plan, catalog_name
from entrepot.embedded.postgres import Database, Postgres
from entrepot.embedded.prefect_server import (
    DATABASE,
    PrefectConfig,
    client_env,
    gateway_spec,
    server_spec,
    worker_spec,
)
from entrepot.embedded.process import HOST, Spec
from entrepot.embedded.secrets import Secrets


def specs(data: DataDir, plan: Plan, found: Secrets, *, minio: Path) -> list[Spec]:
    """How to start each; creates what they need on disk. Raises ``SetupError``."""
    started = [_postgres(data, plan, found).prepare()]
    for name in plan.site_names:
        started.append(
            minio_spec(
                data.site(name),
                name=name,
                binary=minio,
                port=plan.ports[name],
                credentials=MinioCredentials(
                    found.minio_access_key.get_secret_value(), found.minio_secret_key
                ),
                stack=data.root,
                log=data.logs / f"{name}.log",
                notify=_notify(data, plan, found, name) if plan.tells else None,
            )
        )
    env = process_env(data, plan, found)
    if plan.prefect:
        config = prefect_config(data, plan, found)
        started += [server_spec(config), worker_spec(config, env=env)]
    if plan.gateway:
        started.append(gateway_spec(data, port=plan.ports["gateway"], env=env))
    return started


def process_env(data: DataDir, plan: Plan, found: Secrets) -> dict[str, str]:
    """What a process of ours needs to find the stack; it reads the secrets from their file."""
    return client_env(prefect_config(data, plan, found)) | {
        "ENTREPOT_DATA": str(data.root),
        "ENTREPOT_CONFIG": str(data.config),
    }


def prefect_config(data: DataDir, plan: Plan, found: Secrets) -> PrefectConfig:
    """Prefect's part of the plan."""
    return PrefectConfig(
        data=data,
        port=plan.ports["prefect"],
        postgres_port=plan.ports["postgres"],
        auth=found.prefect_auth,
        db_password=found.prefect_db_password,
        encryption_key=found.prefect_encryption_key,
    )


def _notify(data: DataDir, plan: Plan, found: Secrets, site: str) -> Notify:
    drive = data.site(site)
    url = f"http://{HOST}:{plan.ports['gateway']}/webhooks/notifications/{site}"
    return Notify(url, found.notify_token, drive.parent / f".{drive.name}-notifications")


def _postgres(data: DataDir, plan: Plan, found: Secrets) -> Postgres:
    ours = [CONTROL_DATABASE, *map(catalog_name, plan.site_names)]
    return Postgres(
        data.postgres,
        password=found.postgres_superuser_password,
        port=plan.ports["postgres"],
        stack=data.root,
        log=data.logs / "postgres.log",
        databases=(
            Database(DATABASE, DATABASE, found.prefect_db_password, ("pg_trgm",)),
            *(Database(name, CONTROL_USER, found.db_password) for name in ours),
        ),
    )
