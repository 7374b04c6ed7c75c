"""The ``config.yaml`` that describes the local stack to every other part of entrepot.

It holds no secret: credentials are ``${VARIABLES}`` of the ``secrets.env`` beside it. Invariant:
a file that a person changed is never overwritten.
"""

import hashlib

import yaml

from entrepot.embedded.paths import DataDir, write_text
from entrepot.embedded.plan import REGION, Plan
from entrepot.embedded.postgres import SUPERUSER
from entrepot.embedded.process import HOST

CONTROL_DATABASE = "entrepot_control"
CONTROL_USER = "entrepot"
_HEADER = "# Written by `entrepot up`. Once you change it, it is yours and stays as it is.\n"


def render(plan: Plan, data: DataDir) -> str:
    """The configuration of the planned stack, as YAML."""
    told = {"notify_token": "${ENTREPOT_NOTIFY_TOKEN}"} if plan.tells else {}
    endpoints = [f"http://{HOST}:{plan.ports[name]}" for name in plan.site_names]
    settings = {
        "server": {"host": HOST, "port": plan.ports["gateway"], "tls": {"enabled": False}},
        "minio": {
            "endpoint": endpoints[0],
            "access_key": "${ENTREPOT_MINIO_ACCESS_KEY}",
            "secret_key": "${ENTREPOT_MINIO_SECRET_KEY}",
            "region": REGION,
        },
        "replication": {
            "regions": [
                {"name": name, "endpoint": endpoint, "region": REGION, **told}
                for name, endpoint in zip(plan.site_names, endpoints, strict=True)
            ]
        },
        "database": {
            "host": HOST,
            "port": plan.ports["postgres"],
            "name": CONTROL_DATABASE,
            "user": CONTROL_USER,
            "password": "${ENTREPOT_DB_PASSWORD}",
        },
        "prefect": {
            "api_url": f"http://{HOST}:{plan.ports['prefect']}/api",
            "auth_string": "${ENTREPOT_PREFECT_AUTH}",
        },
        "encryption": {
            "ring": str(data.keys),
            "local": {"path": str(data.root_key)},
        },
        "backup": {
            "vaults": [{"name": "local", "site": plan.site_names[-1], "bucket": "entrepot-vault"}],
            "clusters": [{"name": "local", "vault": "local", "conninfo": _superuser(plan)}],
        },
        "security": {"secrets_key": "${ENTREPOT_SECRETS_KEY}"},
    }
    return _HEADER + yaml.safe_dump(settings, sort_keys=False)


def _superuser(plan: Plan) -> str:
    where = f"host={HOST} port={plan.ports['postgres']} user={SUPERUSER}"
    return where + " password=${ENTREPOT_POSTGRES_SUPERUSER_PASSWORD}"


def write_config(data: DataDir, plan: Plan) -> tuple[Plan, bool]:
    """Write it unless a person changed it; the plan that remembers it, and whether it was written.

    The text that was not written goes beside it, as ``config.generated.yaml``.
    """
    text = render(plan, data)
    current = data.config.read_text() if data.config.exists() else None
    if current is not None and _sha256(current) not in (plan.config_sha256, _sha256(text)):
        write_text(data.config.with_name("config.generated.yaml"), text)
        return plan, False
    write_text(data.config, text)
    return plan.model_copy(update={"config_sha256": _sha256(text)}), True


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
