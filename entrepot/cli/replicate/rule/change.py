"""``entrepot replicate rule add``, ``edit`` and ``remove``: what rules say."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import check_name, config_option, json_option, run
from entrepot.cli.replicate.rule.options import rule_options, said

if TYPE_CHECKING:
    from entrepot.catalog.rules import Rule


@click.command("add")
@click.argument("name")
@rule_options
@click.option("--disabled", is_flag=True, help="Do not replicate by it yet.")
@config_option
@json_option
def add_command(
    *, name: str, disabled: bool, config_path: Path | None, as_json: bool, **given: Any
) -> None:
    """Add rule NAME, or say it anew.

    What is there already is seeded by the next sweep: entrepot replicate run NAME.
    """
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rule import rule_spec
    from entrepot.catalog.rules import put_rule
    from entrepot.catalog.sites import list_sites
    from entrepot.config import load
    from entrepot.replication.promises import check_promises
    from entrepot.terms import Travel

    check_name(name)
    usual = tuple(each for each in Travel if each is not Travel.VERSION_DELETES)
    if given["tags"]:
        usual = tuple(each for each in usual if each is not Travel.DELETE_MARKERS)
    fields = said(given, travels=usual)

    async def save() -> "Rule":
        async with Catalog.open(load(config_path).database_url()) as catalog:
            sites = await list_sites(catalog)
            known = tuple(site.name for site in sites)
            spec = rule_spec({"buckets": (), "sites": known} | fields)
            _check_known(spec.sites, known)
            check_promises(spec, sites)
            return await put_rule(catalog, name=name, spec=spec, enabled=not disabled)

    rule = run(save())
    if as_json:
        click.echo(json.dumps(rule.model_dump(mode="json")))
        return
    click.echo(f"rule {name}: {', '.join(rule.buckets)} at {', '.join(rule.sites)}")
    click.echo(f"to seed what is there already: entrepot replicate run {name}", err=True)


@click.command("edit")
@click.argument("name")
@rule_options
@click.option("--unset", multiple=True, metavar="FIELD", help="Back to its default.")
@config_option
@json_option
def edit_command(
    *, name: str, unset: tuple[str, ...], config_path: Path | None, as_json: bool, **given: Any
) -> None:
    """Change what rule NAME says; what is not given stays as it is.

    A rule that covers more than before is seeded by the next sweep.
    """
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rule import RuleSpec, rule_spec, widened
    from entrepot.catalog.rules import Rule, change_rule
    from entrepot.catalog.sites import list_sites
    from entrepot.config import load
    from entrepot.errors import InvalidInput
    from entrepot.replication.promises import check_promises

    if unknown := sorted(set(unset) - set(RuleSpec.model_fields)):
        raise InvalidInput(
            f"a rule has no field {unknown[0]}", hint=f"one of: {', '.join(RuleSpec.model_fields)}"
        )

    async def save() -> tuple[Rule, Rule]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            sites = await list_sites(catalog)

            def change(rule: Rule) -> RuleSpec:
                before = {
                    field: value
                    for field, value in rule.spec.model_dump(mode="json").items()
                    if field not in unset
                }
                spec = rule_spec(before | said(given, travels=rule.travels))
                _check_known(spec.sites, tuple(site.name for site in sites))
                check_promises(spec, sites)
                return spec

            return await change_rule(catalog, name=name, change=change)

    before, after = run(save())
    if as_json:
        click.echo(json.dumps(after.model_dump(mode="json")))
        return
    click.echo(f"rule {name}: {', '.join(after.buckets)} at {', '.join(after.sites)}")
    if widened(before, after):
        click.echo(f"it covers more now, to seed that: entrepot replicate run {name}", err=True)


@click.command("remove")
@click.argument("name")
@config_option
@json_option
def remove_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Forget rule NAME. No object is touched."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import delete_rule
    from entrepot.config import load

    async def remove() -> None:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            await delete_rule(catalog, name=name)

    run(remove())
    if as_json:
        click.echo(json.dumps({"removed": name}))
    else:
        click.echo(f"rule {name} is gone; its buckets stay as they are")


def _check_known(sites: tuple[str, ...], known: tuple[str, ...]) -> None:
    from entrepot.errors import InvalidInput

    if unknown := sorted(set(sites) - set(known)):
        raise InvalidInput(f"there is no site {unknown[0]}", hint=f"one of: {', '.join(known)}")
