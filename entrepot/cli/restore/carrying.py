"""``entrepot restore apply`` and ``undo``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.flowrun import start, wait_option

if TYPE_CHECKING:
    from entrepot.backup.apply import Applied
    from entrepot.config import Config

DEPLOYMENT = "restore/on-demand"

here_option = click.option(
    "--here", is_flag=True, help="In this process, where Prefect is not to be had."
)


@click.command("apply")
@click.argument("plan_id", metavar="PLAN", type=click.UUID)
@here_option
@wait_option
@config_option
@json_option
def apply_command(
    *, plan_id: UUID, here: bool, wait: bool, config_path: Path | None, as_json: bool
) -> None:
    """Approve PLAN and carry out exactly that; a key that has moved since is left alone.

    Nothing is destroyed: what comes back is a new version, what is hidden gets a delete marker.
    """
    from entrepot.config import load

    config = load(config_path)
    if here:
        _say(run(_apply(config, plan_id, back=False)), as_json=as_json)
        return
    run(start(config, DEPLOYMENT, parameters={"plan": str(plan_id)}, wait=wait, as_json=as_json))


@click.command("undo")
@click.argument("plan_id", metavar="PLAN", type=click.UUID)
@here_option
@wait_option
@config_option
@json_option
def undo_command(
    *, plan_id: UUID, here: bool, wait: bool, config_path: Path | None, as_json: bool
) -> None:
    """Bring back what there was before PLAN was applied; that can be undone in turn."""
    from entrepot.config import load

    config = load(config_path)
    if here:
        _say(run(_apply(config, plan_id, back=True)), as_json=as_json)
        return
    run(start(config, DEPLOYMENT, parameters={"undo": str(plan_id)}, wait=wait, as_json=as_json))


async def _apply(config: "Config", plan_id: UUID, *, back: bool) -> "tuple[UUID, Applied]":
    from entrepot.backup.apply import apply_restore, find_plan
    from entrepot.catalog.connect import Catalog
    from entrepot.cli.object.opening import actor
    from entrepot.cli.restore.opening import opened
    from entrepot.cli.sites import first

    async with Catalog.open(config.database_url(), pool_size=1) as control:
        plan = await find_plan(control, plan_id, back=back)
    async with opened(config, first(config, plan.totals["site"]), plan.totals["vault"]) as place:
        applied = await apply_restore(
            place.control,
            plan,
            await place.target(plan.bucket),
            vault=place.vault,
            holder=actor(),
        )
        return plan.id, applied


def _say(came: "tuple[UUID, Applied]", *, as_json: bool) -> None:
    plan_id, applied = came
    if as_json:
        found = {"plan_id": str(plan_id), **applied.counts(), "findings": applied.findings}
        click.echo(json.dumps(found))
    else:
        counts = ", ".join(f"{number} {name}" for name, number in applied.counts().items())
        click.echo(f"{plan_id}: {counts}")
        for each in applied.findings:
            click.echo(f"  {each['what']}: {each['key']!r}: {each['why']}", err=True)
    if applied.failed:
        raise SystemExit(1)
