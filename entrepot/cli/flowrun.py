"""Starting a deployment through Prefect and waiting for it, as several commands do."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from entrepot.config import Config

wait_option = click.option(
    "--wait/--no-wait", default=True, help="Wait until the run has ended (default), or not."
)
WAIT_MAX_S = 24 * 3600.0


async def start(
    config: "Config", deployment: str, *, parameters: Mapping[str, Any], wait: bool, as_json: bool
) -> None:
    """Start a run, say its URL, and wait for its end; exit status 1 where it did not complete."""
    from entrepot.gateway.prefect_api import PrefectApi

    async with PrefectApi(config.prefect.api_url, config.prefect.auth_string) as api:
        run = await api.start(deployment, parameters={"request": dict(parameters)})
        if not as_json:
            click.echo(f"started {run.name}: {run.url}", err=True)
        if wait:
            run = await api.wait(run.id, timeout_s=WAIT_MAX_S, on_change=_say_state(as_json))
    if as_json:
        shown = {"id": run.id, "name": run.name, "url": run.url, "state": run.state}
        click.echo(json.dumps(shown | {"message": run.message}))
    if wait and run.state != "COMPLETED":
        if not as_json:
            click.echo(f"error: {run.message or run.state}\nhint: see {run.url}", err=True)
        raise SystemExit(1)


def _say_state(as_json: bool) -> Any:
    def say(run: Any) -> None:
        if not as_json:
            click.echo(f"  {run.state.lower()}", err=True)

    return say
