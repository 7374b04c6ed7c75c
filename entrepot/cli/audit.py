"""``entrepot audit``: whether the audit trail is as it was written."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.sites import chosen, sites_option

if TYPE_CHECKING:
    from entrepot.config import Config


@click.group("audit")
def audit_group() -> None:
    """Verify the audit trail of managed buckets."""


@audit_group.command("verify")
@sites_option
@config_option
@json_option
def verify_command(*, site_names: tuple[str, ...], config_path: Path | None, as_json: bool) -> None:
    """Find every row of the audit trail that was changed, removed, added or moved.

    Exit status 1 where there is one. It takes the auditor's keys, which the key ring keeps.
    """
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.objects.audit import flaws
    from entrepot.config import load

    config = load(config_path)
    sites = chosen(config, site_names)

    async def read() -> list[dict[str, Any]]:
        secrets = await _secrets(config)
        found: list[dict[str, Any]] = []
        for site in sites:
            async with Catalog.open(site.database_url) as catalog:
                found += [
                    {
                        "site": site.name,
                        "chain": str(flaw.chain),
                        "number": flaw.number,
                        "what": flaw.what,
                    }
                    async for flaw in flaws(catalog, secrets)
                ]
        return found

    found = run(read())
    names = [site.name for site in sites]
    if as_json:
        click.echo(json.dumps({"sites": names, "flaws": found}))
    elif not found:
        click.echo(f"the audit trail holds at {', '.join(names)}")
    else:
        for flaw in found:
            click.echo(
                f"{flaw['site']}: chain {flaw['chain']}, row {flaw['number']}: {flaw['what']}"
            )
    if found:
        raise SystemExit(1)


async def _secrets(config: "Config") -> dict[int, bytes]:
    """The keys of the audit chains by number; a shredded one is not among them."""
    import asyncio

    from entrepot.codec.keys.open import open_ring
    from entrepot.codec.keys.ring import KeyState
    from entrepot.objects.ground import AUDITOR, audit_secret

    ring = await asyncio.to_thread(open_ring, config)
    try:
        infos = await asyncio.to_thread(ring.describe, AUDITOR)
        numbers = [info.number for info in infos if info.state is KeyState.ACTIVE]
        return {n: audit_secret((await ring.get(AUDITOR, n)).secret) for n in numbers}
    finally:
        await ring.close()
