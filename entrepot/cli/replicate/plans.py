"""``entrepot replicate plans`` and ``apply``: a dry run that was kept, looked at, and approved."""

from pathlib import Path
from typing import Any
from uuid import UUID

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.flowrun import start, wait_option
from entrepot.cli.replicate.run import DEPLOYMENT


@click.command("plans")
@click.argument("plan_id", required=False, metavar="[PLAN]", type=click.UUID)
@click.option("--most", default=50, type=click.IntRange(1, 10_000), help="How many keys or plans.")
@config_option
@json_option
def plans_command(
    *, plan_id: UUID | None, most: int, config_path: Path | None, as_json: bool
) -> None:
    """Show saved plans, or what PLAN would do, key by key."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.plans import list_plans
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            if plan_id is not None:
                return await _keys(catalog, plan_id, most)
            return [
                {
                    "id": str(plan.id),
                    "rule": plan.rule,
                    "bucket": plan.bucket,
                    "created_at": f"{plan.created_at:%Y-%m-%d %H:%M:%S}",
                    "differing": plan.totals.get("differing", 0),
                    "deletes": plan.totals.get("deletes", 0),
                    "applied_at": plan.applied_at,
                }
                for plan in await list_plans(catalog, limit=min(most, 1000))
            ]

    empty = "no plan yet; type: entrepot replicate run RULE --dry-run --save"
    answer(run(read()), as_json=as_json, empty=empty)


async def _keys(catalog: Any, plan_id: UUID, most: int) -> list[dict[str, Any]]:
    import json
    import zlib

    from entrepot.catalog.plans import get_plan, pages

    await get_plan(catalog, plan_id=plan_id)  # its pages are what they were
    rows: list[dict[str, Any]] = []
    async for body in pages(catalog, plan_id=plan_id):
        for line in zlib.decompress(body).splitlines():
            kept = json.loads(line)
            for action in kept["first"] + kept["then"]:
                targets = [site for site, _ in action.get("targets", ())] or [action["site"]]
                rows.append({"key": kept["key"], "do": action["do"], "at": targets})
            if len(rows) >= most:
                return rows[:most]
    return rows


@click.command("apply")
@click.argument("plan_id", metavar="PLAN", type=click.UUID)
@wait_option
@config_option
@json_option
def apply_command(*, plan_id: UUID, wait: bool, config_path: Path | None, as_json: bool) -> None:
    """Approve PLAN and carry out exactly that; a key that has moved since is left alone."""
    from entrepot.config import load

    parameters = {"plan": str(plan_id)}
    run(start(load(config_path), DEPLOYMENT, parameters=parameters, wait=wait, as_json=as_json))
