"""``entrepot replicate settings``: the settings of a rule's buckets, made equal at its sites."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.config import Config
    from entrepot.replication.configuration.plan import Action


@click.command("settings")
@click.argument("rule")
@click.option("--bucket", "buckets", multiple=True, help="Only this bucket; may be repeated.")
@click.option("--apply", "applied", is_flag=True, help="Carry it out.")
@click.option("--remove", is_flag=True, help="Also remove what the authority does not have.")
@config_option
@json_option
def settings_command(
    *,
    rule: str,
    buckets: tuple[str, ...],
    applied: bool,
    remove: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Compare versioning, default retention, policy, CORS, lifecycle and tags of buckets.

    The site of the lowest rank is the authority; with --apply the others follow it. A retention is
    never loosened and versioning never switched off. Exit status 1 where differences are left.
    """
    from entrepot.config import load

    found = run(_settings(load(config_path), rule, buckets, applied=applied, remove=remove))
    rows = [
        {
            "bucket": bucket,
            "site": action.site,
            "setting": action.setting,
            "step": str(action.step),
            "done": done,
            "before": action.before,
            "after": action.after,
            "why": action.why,
        }
        for bucket, action, done in found
    ]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        answer(rows, as_json=False, empty="the settings are the same at all sites")
    if not all(done for _, _, done in found):
        raise SystemExit(1)


async def _settings(
    config: "Config", rule: str, buckets: tuple[str, ...], *, applied: bool, remove: bool
) -> "list[tuple[str, Action, bool]]":
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import get_rule
    from entrepot.cli.replicate.opening import opened_sites
    from entrepot.replication.configuration.apply import apply, read
    from entrepot.replication.configuration.plan import plan
    from entrepot.replication.proof.evidence import wanted_of

    found = []
    async with Catalog.open(config.database_url()) as control:
        known = await get_rule(control, name=rule)
        async with opened_sites(config, control, known.sites) as sites:
            for bucket in wanted_of(known, buckets=buckets).buckets:
                actions = plan(await read(sites, bucket), remove=remove)
                done = await apply(sites, bucket, actions) if applied else []
                found += [(bucket, action, action in done) for action in actions]
    return found
