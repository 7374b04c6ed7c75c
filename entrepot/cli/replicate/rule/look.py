"""``entrepot replicate rule list`` and ``show``: rules as they stand."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.catalog.rules import Rule
    from entrepot.catalog.sites import Site


@click.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show every rule."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import list_rules
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [
                {
                    "name": rule.name,
                    "buckets": rule.buckets,
                    "prefix": rule.prefix,
                    "sites": rule.sites,
                    "mode": str(rule.mode),
                    "enabled": rule.enabled,
                    "now": _now(rule),
                }
                for rule in await list_rules(catalog)
            ]

    answer(run(read()), as_json=as_json, empty="no rule yet; type: entrepot replicate rule add")


@click.command("show")
@click.argument("name")
@config_option
@json_option
def show_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Show all that rule NAME says, what it may do now, and what its sites cannot keep."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import get_rule
    from entrepot.catalog.sites import list_sites
    from entrepot.config import load

    async def read() -> "tuple[Rule, tuple[Site, ...]]":
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return await get_rule(catalog, name=name), await list_sites(catalog)

    found = shown(*run(read()))
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [{"field": field, "value": _text(value)} for field, value in found.items()]
    answer(rows, as_json=False, empty="")


def shown(rule: "Rule", sites: "tuple[Site, ...]") -> dict[str, Any]:
    """A rule as JSON, with what follows from it now."""
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.replication.hours import rate_of
    from entrepot.replication.promises import gaps

    return rule.model_dump(mode="json") | {
        "now": _now(rule),
        "rate_now": str(rate_of(rule, SYSTEM_CLOCK.now())),
        "gaps": gaps(rule, sites),
    }


def _now(rule: "Rule") -> str:
    """Whether it may run now, in words."""
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.replication.hours import Allowed, may_run

    found = may_run(rule, SYSTEM_CLOCK.now())
    if isinstance(found, Allowed):
        return "may run"
    return f"{found.why}, until {found.until:%Y-%m-%d %H:%M:%S} UTC" if found.until else found.why


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key or '(all)'}: {text}" for key, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
