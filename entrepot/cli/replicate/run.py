"""``entrepot replicate run``: a sweep as a run of Prefect."""

from pathlib import Path

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.flowrun import start, wait_option

DEPLOYMENT = "replicate/nightly"


@click.command("run")
@click.argument("rule", required=False)
@click.option("--bucket", "buckets", multiple=True, help="Only this bucket; may be repeated.")
@click.option("--prefix", default="", help="Only keys that start with this.")
@click.option("--dry-run", is_flag=True, help="Plan and count, but change nothing.")
@click.option("--save", is_flag=True, help="Keep the plan of a dry run, to be approved.")
@click.option(
    "--force-partial", is_flag=True, help="Also fill a site that lists far less than it did."
)
@click.option(
    "--rejoin", is_flag=True, help="Also merge sites that were apart for longer than the horizon."
)
@click.option(
    "--attributes",
    is_flag=True,
    help="Also compare tags and locks of versions that several sites hold (else once a day).",
)
@wait_option
@config_option
@json_option
def run_command(
    *,
    rule: str | None,
    buckets: tuple[str, ...],
    prefix: str,
    dry_run: bool,
    save: bool,
    force_partial: bool,
    rejoin: bool,
    attributes: bool,
    wait: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Sweep RULE now (every enabled rule where it is left out), as a Prefect run."""
    from entrepot.config import load
    from entrepot.errors import InvalidInput

    if save and not dry_run:
        raise InvalidInput("only the plan of a dry run can be kept", hint="--dry-run --save")
    parameters = {
        "rule": rule or "",
        "buckets": list(buckets),
        "prefix": prefix,
        "dry_run": dry_run,
        "save": save,
        "force_partial": force_partial,
        "rejoin": rejoin,
        "attributes": attributes,
    }
    run(start(load(config_path), DEPLOYMENT, parameters=parameters, wait=wait, as_json=as_json))
