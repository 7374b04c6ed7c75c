"""``entrepot token``: who may call the API."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from entrepot.cli.common import answer, check_name, config_option, json_option, run

SCOPES = ("replication:read", "replication:write")
"""Those of ``catalog.tokens``, written out, so that ``--help`` imports nothing."""
LIFE_MAX_MS = 10 * 365 * 86_400_000


@click.group("token")
def token_group() -> None:
    """Let programs call the API with bearer tokens."""


@token_group.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("replication:read",),
    show_default=True,
    help="What it is for; may be repeated.",
)
@click.option(
    "--for",
    "duration",
    default="90d",
    show_default=True,
    metavar="DURATION",
    help="How long it is valid.",
)
@config_option
@json_option
def add_command(
    *, name: str, scopes: tuple[str, ...], duration: str, config_path: Path | None, as_json: bool
) -> None:
    """Make token NAME and print it, this once: only a digest of it is stored."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tokens import Scope, add_token
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.config import load
    from entrepot.errors import InvalidInput
    from entrepot.gateway.api.bearer import new_bearer
    from entrepot.units import parse_duration_ms

    check_name(name)
    life_ms = parse_duration_ms(duration)
    if not 0 < life_ms <= LIFE_MAX_MS:
        raise InvalidInput("a token lives from a moment to ten years", hint="--for 90d")
    bearer = new_bearer()
    expires_at = SYSTEM_CLOCK.now() + timedelta(milliseconds=life_ms)

    async def save() -> None:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            await add_token(
                catalog,
                id=bearer.id,
                name=name,
                scopes=[Scope(scope) for scope in scopes],
                token_sha256=bearer.sha256,
                expires_at=expires_at,
            )

    run(save())
    if as_json:
        shown = {"name": name, "token": bearer.text, "scopes": sorted(scopes)}
        click.echo(json.dumps(shown | {"expires_at": expires_at.isoformat()}))
        return
    click.echo(bearer.text)
    click.echo(f"token {name} until {expires_at:%Y-%m-%d}; it is shown this once", err=True)


@token_group.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show the tokens, without their texts."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tokens import list_tokens
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        now = SYSTEM_CLOCK.now()
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [
                {
                    "name": token.name,
                    "id": token.id,
                    "scopes": token.scopes,
                    "expires_at": token.expires_at.isoformat(timespec="seconds"),
                    "valid": token.is_valid(now),
                }
                for token in await list_tokens(catalog)
            ]

    answer(run(read()), as_json=as_json, empty="no token yet; type: entrepot token add NAME")


@token_group.command("revoke")
@click.argument("name")
@config_option
@json_option
def revoke_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """End token NAME now; the next request with it is refused."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tokens import revoke_token
    from entrepot.config import load

    async def revoke() -> None:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            await revoke_token(catalog, name=name)

    run(revoke())
    if as_json:
        click.echo(json.dumps({"revoked": name}))
    else:
        click.echo(f"token {name} is revoked")
