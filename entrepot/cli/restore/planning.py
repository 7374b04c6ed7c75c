"""``entrepot restore plan`` and ``status``."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.sites import site_option

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.plans import Plan


@click.command("plan")
@click.argument("vault")
@click.argument("bucket")
@click.option("--at", metavar="TIME", help="Such as 2026-11-25T14:05:00Z; else the last snapshot.")
@click.option("--snapshot", metavar="NAME", help="From this one; else the first that knows TIME.")
@click.option("--prefix", "prefixes", multiple=True, help="Only keys that start so; repeatable.")
@click.option("--into", metavar="BUCKET", help="Into this bucket, which has none of the keys.")
@click.option("--into-site", metavar="SITE", help="Where that bucket is; the same site by default.")
@site_option
@config_option
@json_option
def plan_command(
    *,
    vault: str,
    bucket: str,
    at: str | None,
    snapshot: str | None,
    prefixes: tuple[str, ...],
    into: str | None,
    into_site: str | None,
    site_name: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Plan BUCKET as it was at an instant, from VAULT. Changes nothing; the plan is kept.

    It says what would be added, reverted, and hidden by a delete marker.
    """
    from entrepot.backup.planning import plan_restore, wanted
    from entrepot.cli.object.opening import actor
    from entrepot.cli.restore.opening import opened
    from entrepot.cli.sites import first
    from entrepot.config import load

    config = load(config_path)
    source = first(config, site_name)
    target_site = first(config, into_site) if into_site else source
    at_ms = _at_ms(at) if at else None

    async def make() -> "Plan":
        async with opened(config, target_site, vault) as place:
            want = await wanted(
                place.of_vault(),
                vault,
                site=source.name,
                bucket=bucket,
                at_ms=at_ms,
                snapshot=snapshot,
                prefixes=prefixes,
            )
            target = await place.target(into or bucket, want.prefixes)
            return await plan_restore(place.control, place.of_vault(), target, want, holder=actor())

    row = _row(run(make()))
    if as_json:
        click.echo(json.dumps(row))
        return
    for name, value in row.items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
    click.echo(f"to carry it out: entrepot restore apply {row['plan_id']}", err=True)


def _at_ms(text: str) -> int:
    """An instant, its zone given."""
    from entrepot.errors import InvalidInput

    hint = "such as 2026-11-25T14:05:00Z, or 2026-11-25T14:05:00+01:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput("this is no time", hint=hint, time=text) from error
    if moment.tzinfo is None:
        raise InvalidInput("the time has no zone", hint=hint, time=text)
    return round(moment.timestamp() * 1000)


def _row(plan: "Plan") -> dict[str, Any]:
    from entrepot.backup.planning import shown

    said = plan.totals
    names = ("add", "revert", "hide", "bytes", "unchanged", "lost", "lost_keys", "seconds", "basis")
    return {
        "plan_id": str(plan.id),
        "time": shown(said["at_ms"]),
        **{name: said[name] for name in names},
        "snapshot": said["snapshot"],
        "known_since": shown(said["since_ms"]) if said["since_ms"] else None,
    }


@click.command("status")
@click.argument("plan_id", required=False, metavar="[PLAN]", type=click.UUID)
@click.option("--most", default=50, type=click.IntRange(1, 10_000), help="How many keys or plans.")
@config_option
@json_option
def status_command(
    *, plan_id: UUID | None, most: int, config_path: Path | None, as_json: bool
) -> None:
    """Show the plans of restores and what came of them, or what PLAN does key by key."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.plans import list_plans
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with Catalog.open(load(config_path).database_url()) as control:
            if plan_id is not None:
                return await _keys(control, plan_id, most)
            plans = await list_plans(control, limit=min(most, 1000), restores=True)
            return _listed(plans)

    empty = "no plan yet; type: entrepot restore plan VAULT BUCKET"
    answer(run(read()), as_json=as_json, empty=empty)


def _listed(plans: "tuple[Plan, ...]") -> list[dict[str, Any]]:
    came = {plan.totals["undoes"]: plan for plan in plans if "undoes" in plan.totals}
    rows = []
    for plan in plans:
        said, back = plan.totals, came.get(str(plan.id))
        done = back.totals["done"] if back else {}
        rows.append(
            {
                "plan_id": str(plan.id),
                "bucket": f"{said['site']}/{plan.bucket}",
                "undoes": said.get("undoes"),
                **{name: said[name] for name in ("add", "revert", "hide", "bytes")},
                "applied_at": plan.applied_at,
                **{name: done.get(name) for name in ("done", "moved", "failed")},
            }
        )
    return rows


async def _keys(control: "Catalog", plan_id: UUID, most: int) -> list[dict[str, Any]]:
    from entrepot.backup.planning import load_actions
    from entrepot.catalog.plans import get_plan, pages

    await get_plan(control, plan_id=plan_id)  # its pages are what they were
    rows: list[dict[str, Any]] = []
    async for body in pages(control, plan_id=plan_id):
        for action in load_actions(body):
            if len(rows) >= most:
                return rows
            rows.append(
                {
                    "key": action.key,
                    "do": action.do.value,
                    "over": action.over_id,
                    "version_id": action.version_id,
                    "bytes": action.size_bytes,
                }
            )
    return rows
