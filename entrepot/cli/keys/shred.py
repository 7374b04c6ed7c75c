"""``entrepot keys shred``: what a tenant encrypted, unreadable for ever."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.keys.ring import opened_ring

if TYPE_CHECKING:
    from entrepot.codec.keys.ring import KeyInfo
    from entrepot.config import Config


@click.command("shred")
@click.argument("tenant")
@click.option("--number", type=click.IntRange(min=1), help="Only this key; else all, for ever.")
@click.option("--yes", is_flag=True, help="Do it without asking for the tenant's name again.")
@config_option
@json_option
def shred_command(
    *, tenant: str, number: int | None, yes: bool, config_path: Path | None, as_json: bool
) -> None:
    """Destroy keys of TENANT, so that nobody can ever read what they encrypted.

    Without --number, all of them, and none is ever made again for TENANT. It says first what
    becomes unreadable.
    """
    from entrepot.config import load
    from entrepot.errors import InvalidInput, NotFound

    config = load(config_path)

    async def look() -> "list[KeyInfo]":
        async with opened_ring(config) as ring:
            return ring.describe(tenant)

    known = run(look())
    if not known or number not in {None, *(info.number for info in known)}:
        raise NotFound(
            "the ring has no such key to shred",
            hint="entrepot keys list; what only a kit has is recovered first",
            tenant=tenant,
            number=number,
        )
    for line in run(_consequences(config, tenant, number, known)):
        click.echo(line, err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidInput("nobody confirmed it", hint="at a terminal, or with --yes")
        if click.prompt(f"Type {tenant} to go on", err=True) != tenant:
            raise InvalidInput("another name was typed, and nothing was done", tenant=tenant)

    async def shred() -> tuple[int, ...]:
        async with opened_ring(config) as ring:
            return await ring.shred(tenant, number=number)

    gone = run(shred())
    if as_json:
        click.echo(json.dumps({"tenant": tenant, "shredded": list(gone)}))
    else:
        click.echo(f"shredded for {tenant}: key {', '.join(map(str, gone))}")


async def _consequences(
    config: "Config", tenant: str, number: int | None, known: "list[KeyInfo]"
) -> list[str]:
    """What becomes unreadable, for a person to judge. A catalog that is down does not stop it."""
    from entrepot.codec.keys.ring import KeyState
    from entrepot.errors import EntrepotError
    from entrepot.objects.ground import AUDITOR
    from entrepot.replication.proof.certificate import CERTIFIER

    kept = [str(info.number) for info in known if info.state is not KeyState.SHREDDED]
    which = f"key {number}" if number else f"any key (left: {', '.join(kept) or 'none'})"
    lines = [f"what {which} of {tenant} encrypted becomes unreadable, for ever; encrypted buckets:"]
    for site in config.sites():
        try:
            lines += await _held(site.name, site.database_url.get_secret_value(), tenant)
        except EntrepotError as error:
            lines.append(f"  at {site.name}: unknown, as {error.message}")
    if len(lines) == 1:
        lines.append("  none at any site")
    if tenant == AUDITOR:
        lines.append("they seal the audit trail as well, which nobody can verify then")
    if tenant == CERTIFIER:
        lines.append("new certificates get another key; old ones can still be checked with theirs")
    if number is None:
        lines.append(f"and {tenant} can never encrypt anything here again")
    lines.append("recovery kits that were made before still have the keys: destroy them as well")
    return lines


async def _held(site: str, dsn: str, tenant: str) -> list[str]:
    """The encrypted buckets of a tenant, a line each."""
    from entrepot.catalog.buckets import list_buckets
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.objects.read import usage_of
    from entrepot.units import approximate_size

    lines = []
    async with Catalog.open(dsn) as catalog:
        for bucket in await list_buckets(catalog, tenant_id=tenant):
            if bucket.encrypted:
                usage = await usage_of(catalog, bucket_id=bucket.id)
                size = approximate_size(usage.total_bytes)
                lines.append(f"  at {site}: {bucket.name}, {usage.versions} versions, {size}")
    return lines
