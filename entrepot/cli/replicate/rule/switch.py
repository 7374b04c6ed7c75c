"""``entrepot replicate rule enable``, ``disable``, ``pause`` and ``resume``: whether now."""

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.replicate.run import DEPLOYMENT

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import Rule
    from entrepot.config import Config

Change = Callable[["Catalog"], Coroutine[Any, Any, "Rule"]]


@click.command("enable")
@click.argument("name")
@click.option("--seed/--no-seed", default=True, help="Sweep what is there already (default).")
@config_option
@json_option
def enable_command(*, name: str, seed: bool, config_path: Path | None, as_json: bool) -> None:
    """Let rule NAME work, and start a sweep that brings what is there already."""
    from entrepot.catalog.rules import set_enabled
    from entrepot.config import load

    config = load(config_path)
    run(_changed(config, lambda catalog: set_enabled(catalog, name=name, enabled=True)))
    started = run(_seed(config, name)) if seed else None
    if as_json:
        click.echo(json.dumps({"rule": name, "enabled": True, "run": started}))
        return
    click.echo(f"rule {name} is enabled")
    if started:
        click.echo(f"started {started['name']}: {started['url']}", err=True)


@click.command("disable")
@click.argument("name")
@config_option
@json_option
def disable_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Stop rule NAME, a sweep under way at its next batch. What it says stays."""
    from entrepot.catalog.rules import set_enabled
    from entrepot.config import load

    run(_changed(load(config_path), lambda catalog: set_enabled(catalog, name=name, enabled=False)))
    if as_json:
        click.echo(json.dumps({"rule": name, "enabled": False}))
    else:
        click.echo(f"rule {name} is disabled")


@click.command("pause")
@click.argument("name")
@click.option("--for", "duration", metavar="DURATION", help="Such as 2h; then it goes on.")
@click.option("--until", "until_text", metavar="TIME", help="ISO 8601, UTC without a zone.")
@config_option
@json_option
def pause_command(
    *,
    name: str,
    duration: str | None,
    until_text: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Let rule NAME rest, a sweep under way from its next batch on.

    Without --for or --until it rests until: entrepot replicate rule resume NAME
    """
    from entrepot.catalog.rules import pause
    from entrepot.config import load

    until = _until(duration, until_text)
    run(_changed(load(config_path), lambda catalog: pause(catalog, name=name, until=until)))
    shown = until.isoformat() if until else None
    if as_json:
        click.echo(json.dumps({"rule": name, "paused": True, "paused_until": shown}))
    else:
        click.echo(f"rule {name} is paused" + (f" until {shown}" if shown else ""))


@click.command("resume")
@click.argument("name")
@config_option
@json_option
def resume_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """End the pause of rule NAME; a sweep that waits goes on within seconds."""
    from entrepot.catalog.rules import resume
    from entrepot.config import load

    run(_changed(load(config_path), lambda catalog: resume(catalog, name=name)))
    if as_json:
        click.echo(json.dumps({"rule": name, "paused": False}))
    else:
        click.echo(f"rule {name} is not paused")


async def _changed(config: "Config", change: Change) -> "Rule":
    from entrepot.catalog.connect import Catalog

    async with Catalog.open(config.database_url()) as catalog:
        return await change(catalog)


async def _seed(config: "Config", name: str) -> dict[str, str]:
    from entrepot.gateway.assemble import prefect_api

    async with prefect_api(config) as api:
        started = await api.start(DEPLOYMENT, parameters={"request": {"rule": name}})
    return {"id": started.id, "name": started.name, "url": started.url}


def _until(duration: str | None, text: str | None) -> datetime | None:
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.errors import InvalidInput
    from entrepot.units import parse_duration_ms

    if duration and text:
        raise click.UsageError("either --for or --until")
    now = SYSTEM_CLOCK.now()
    if duration:
        try:
            return now + timedelta(milliseconds=parse_duration_ms(duration))
        except OverflowError as error:
            raise InvalidInput("a pause that long has no end", duration=duration) from error
    if not text:
        return None
    try:
        until = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            "not a time", hint="write it like 2026-03-01T18:00+01:00", until=text
        ) from error
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    if until <= now:
        raise InvalidInput("this time has passed", hint="give one to come", until=text)
    return until
