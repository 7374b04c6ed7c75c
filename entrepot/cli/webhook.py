"""``entrepot webhook``: names under ``/webhooks/`` and the deployments they start."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click

_config = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="Settings to use."
)
_json = click.option("--json", "as_json", is_flag=True, help="Answer as one JSON object.")


@click.group("webhook")
def webhook() -> None:
    """Let others start flow runs by signed HTTP requests."""


@webhook.command("create")
@click.argument("name")
@click.option("--deployment", required=True, help="What it starts, as flow/deployment.")
@click.option("--allow", "allowed", multiple=True, help="A parameter that a payload may fill.")
@click.option(
    "--set", "fixed", multiple=True, metavar="KEY=VALUE", help="A parameter fixed for all runs."
)
@_config
@_json
def create(
    *,
    name: str,
    deployment: str,
    allowed: tuple[str, ...],
    fixed: tuple[str, ...],
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Create webhook NAME and print a command that sends it a delivery.

    The secret is shown this once.
    """
    from entrepot.catalog.connect import Catalog
    from entrepot.clock import new_id
    from entrepot.config import load
    from entrepot.gateway.assemble import prefect_api, webhook_url
    from entrepot.gateway.curl import curl_script
    from entrepot.gateway.registration import Registered, register
    from entrepot.gateway.sealing import Sealer

    config = load(config_path)

    async def run() -> Registered:
        async with Catalog.open(config.database_url()) as catalog, prefect_api(config) as prefect:
            return await register(
                name,
                catalog=catalog,
                prefect=prefect,
                sealer=Sealer(config.security.secrets_key),
                deployment=deployment,
                allowed=allowed,
                fixed=dict(_pair(item) for item in fixed),
            )

    made = asyncio.run(run())
    url = webhook_url(config, name)
    script = curl_script(url, secret=made.secret, delivery_id=f"msg_{new_id().hex}")
    if as_json:
        _print_json(
            name=name,
            url=url,
            deployment=made.deployment,
            allowed_parameters=made.allowed_parameters,
            fixed_parameters=made.fixed_parameters,
            secret=made.secret,
            curl=script,
        )
        return
    click.echo(f"# {url} starts {made.deployment}; the secret is shown this once.")
    click.echo(f"# A payload may fill: {', '.join(made.allowed_parameters) or 'nothing'}.")
    click.echo(script, nl=False)


@webhook.command("list")
@_config
@_json
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show the webhooks, without their secrets."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.webhooks import Webhook, list_webhooks
    from entrepot.config import load
    from entrepot.gateway.assemble import webhook_url

    config = load(config_path)

    async def run() -> tuple[Webhook, ...]:
        async with Catalog.open(config.database_url()) as catalog:
            return await list_webhooks(catalog)

    rows = [
        {
            "name": found.name,
            "url": webhook_url(config, found.name),
            "deployment": found.deployment,
            "allowed_parameters": found.allowed_parameters,
            "enabled": found.enabled,
            "created_at": found.created_at.isoformat(),
        }
        for found in asyncio.run(run())
    ]
    if as_json:
        _print_json(webhooks=rows)
        return
    if not rows:
        click.echo("no webhook yet; type: entrepot webhook create NAME --deployment FLOW/NAME")
    for row in rows:
        click.echo(f"{row['name']}  {row['deployment']}  {row['url']}")


@webhook.command("delete")
@click.argument("name")
@_config
@_json
def delete(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Delete webhook NAME and what is remembered of its deliveries; runs stay."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.webhooks import delete_webhook
    from entrepot.config import load

    config = load(config_path)

    async def run() -> None:
        async with Catalog.open(config.database_url()) as catalog:
            await delete_webhook(catalog, name=name)

    asyncio.run(run())
    if as_json:
        _print_json(deleted=name)
    else:
        click.echo(f"deleted {name}")


def _pair(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; a value that reads as JSON is that, any other is text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.BadParameter("expected KEY=VALUE", param_hint="--set")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _print_json(**fields: Any) -> None:
    click.echo(json.dumps(fields))
