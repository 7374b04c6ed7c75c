"""``entrepot replicate verify``: the sites of a rule compared, with a certificate of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.config import Config
    from entrepot.replication.proof.statement import Verdict, Wanted

SHOWN = 20


@click.command("verify")
@click.argument("rule")
@click.option("--bucket", "buckets", multiple=True, help="Only this bucket; may be repeated.")
@click.option("--prefix", default="", help="Only keys that start with this.")
@click.option(
    "--level",
    type=click.Choice(["listing", "attributes", "content"]),
    default="attributes",
    show_default=True,
    help="How deep: what listings tell; metadata, tags and locks too; the bytes as well.",
)
@click.option(
    "--sample",
    type=click.IntRange(0, 1000),
    default=1000,
    show_default=True,
    help="Of 1,000 versions, how many are read at level content.",
)
@click.option("--current", is_flag=True, help="Only what readers get; no history.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the certificate here as well.")
@click.option("--no-certificate", is_flag=True, help="Only look; sign and keep nothing.")
@config_option
@json_option
def verify_command(
    *,
    rule: str,
    buckets: tuple[str, ...],
    prefix: str,
    level: str,
    sample: int,
    current: bool,
    out: Path | None,
    no_certificate: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Compare the sites of RULE: keys, versions, delete markers, what is current, contents.

    Exit status 1 where they differ, or never came to rest. Nothing is changed. The answer is
    signed and kept; see `entrepot replicate check-certificate`. It runs here, without Prefect.
    """
    from entrepot.config import load

    config = load(config_path)
    asked = {"buckets": buckets, "prefix": prefix, "level": level, "sample": sample}
    verdict, document = run(_verify(config, rule, asked, current, signed=not no_certificate))
    if out is not None and document is not None:
        out.write_bytes(document)
    if as_json:
        click.echo(json.dumps(verdict.as_json()))
    else:
        _tell(verdict)
    if not verdict.is_identical:
        raise SystemExit(1)


async def _verify(
    config: "Config", rule: str, asked: dict[str, Any], current: bool, *, signed: bool
) -> "tuple[Verdict, bytes | None]":
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import get_rule
    from entrepot.cli.keys.ring import opened_ring
    from entrepot.cli.replicate.opening import opened_sites
    from entrepot.replication.proof.certificate import signer
    from entrepot.replication.proof.evidence import certify, wanted_of
    from entrepot.replication.proof.record import Aspect, Level
    from entrepot.replication.proof.statement import compare_rule

    async with Catalog.open(config.database_url()) as control:
        known = await get_rule(control, name=rule)
        wanted: Wanted = wanted_of(known, **{**asked, "level": Level(asked["level"])})
        if current:
            wanted = wanted.without(Aspect.HISTORY)
        endpoints = {site.name: site.endpoint for site in config.sites()}
        async with opened_sites(config, control, known.sites) as sites:
            verdict = await compare_rule(sites, wanted, endpoints=endpoints)
        if not signed:
            return verdict, None
        async with opened_ring(config) as ring:
            by = await signer(ring)
        return verdict, await certify(control, verdict, by)


def _tell(verdict: "Verdict") -> None:
    rows = [
        {
            "bucket": bucket.bucket,
            "identical": "yes" if bucket.is_identical else "no",
            "keys": bucket.keys,
            "versions": bucket.versions,
            "differing": bucket.differing,
            "moving": len(bucket.moving),
            "digest": bucket.digest,
        }
        for bucket in verdict.buckets
    ]
    answer(rows, as_json=False, empty="the rule has no bucket")
    told = verdict.as_json()
    for each in told["differences"][:SHOWN]:
        at = ", ".join(f"{site}: {what}" for site, what in each["sites"].items())
        version = f" version {each['version_id']}" if each["version_id"] else ""
        click.echo(f"{each['bucket']}/{each['key']}{version} {each['kind']}: {at}")
    for each in told["moving"][:SHOWN]:
        click.echo(f"{each['bucket']}/{each['key']} is being written")
    if len(told["differences"]) > SHOWN:
        click.echo(f"{len(told['differences']) - SHOWN} more differences with --json")
    for limit in verdict.limits:
        click.echo(f"note: {limit}")
