"""From a ``Config`` to the parts of the gateway; the one place here that knows both."""

from functools import partial

from starlette.applications import Starlette

from entrepot.catalog.connect import Catalog
from entrepot.config import Config
from entrepot.gateway.app import create_app
from entrepot.gateway.notifications import Sender
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.sealing import Sealer
from entrepot.objects.open import open_ground

CONTROL_POOL = 10
"""Deliveries wait for Prefect without a connection, so a few serve all of them."""
SITE_POOL = 2
"""One scrape reads at a time, and somebody asks how things stand."""


def assemble(config: Config) -> Starlette:
    """The application for these settings; connects to nothing before it is served."""
    return create_app(
        control=Catalog.open(
            config.database_url(), pool_size=min(CONTROL_POOL, config.database.max_connections)
        ),
        sites={
            site.name: Catalog.open(site.database_url, pool_size=SITE_POOL)
            for site in config.sites()
        },
        prefect=prefect_api(config),
        sealer=Sealer(config.security.secrets_key),
        senders={
            site.name: Sender(site.notify_token, partial(open_ground, config, site))
            for site in config.sites()
            if site.notify_token is not None
        },
        serve_metrics=config.monitoring.metrics_enabled,
    )


def prefect_api(config: Config) -> PrefectApi:
    """The client of the configured Prefect server."""
    return PrefectApi(config.prefect.api_url, config.prefect.auth_string)


def webhook_url(config: Config, name: str) -> str:
    """Where senders reach the webhook ``name``."""
    host = config.server.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    base = config.server.public_url or f"http://{shown}:{config.server.port}"
    return f"{base.rstrip('/')}/webhooks/{name}"
