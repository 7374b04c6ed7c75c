"""``entrepot replicate certificates``, ``certificate-key`` and ``check-certificate``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.catalog.certificates import Certificate


@click.command("certificates")
@click.argument("rule", required=False)
@click.option("--most", default=20, type=click.IntRange(1, 1000), help="How many, newest first.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the newest one here.")
@config_option
@json_option
def certificates_command(
    *, rule: str | None, most: int, out: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Show the latest certificates of RULE, or of all rules."""
    from entrepot.catalog.certificates import latest_certificates
    from entrepot.catalog.connect import Catalog
    from entrepot.config import load
    from entrepot.errors import NotFound

    async def read() -> "tuple[Certificate, ...]":
        async with Catalog.open(load(config_path).database_url()) as control:
            return await latest_certificates(control, rule=rule, most=most)

    found = run(read())
    if out is not None:
        if not found:
            raise NotFound("there is no certificate yet", hint="entrepot replicate verify RULE")
        out.write_bytes(found[0].document.encode())
    names = ("rule", "finished", "identical", "level", "keys", "versions", "digest")
    rows = [{name: json.loads(each.document)[name] for name in names} for each in found]
    empty = "no certificate yet; type: entrepot replicate verify RULE"
    answer(rows, as_json=as_json, empty=empty)


@click.command("certificate-key")
@config_option
@json_option
def certificate_key_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show the public keys of certificates, to publish where their readers look."""
    from entrepot.cli.keys.ring import opened_ring
    from entrepot.config import load
    from entrepot.replication.proof.certificate import fingerprint, signers

    async def read() -> list[dict[str, Any]]:
        async with opened_ring(load(config_path)) as ring:
            return [
                {
                    "number": each.number,
                    "public": each.public,
                    "fingerprint": fingerprint(each.public),
                }
                for each in await signers(ring)
            ]

    answer(run(read()), as_json=as_json, empty="")


@click.command("check-certificate")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", help="The public key that it must be signed with, in base64.")
@json_option
def check_certificate_command(*, file: Path, key: str | None, as_json: bool) -> None:
    """Check the certificate in FILE, without any server, and say what it states.

    Without --key only that nobody changed it since it was signed: compare whose key that is with
    what the operator publishes.
    """
    from entrepot.replication.proof.certificate import SIZE_MAX, check, fingerprint

    with file.open("rb") as opened:
        stated = check(opened.read(SIZE_MAX + 1), public=key)
    signed_by = fingerprint(stated["key"]["public"])
    if as_json:
        trusted = {"trusted": key is not None, "fingerprint": signed_by}
        click.echo(json.dumps({**stated, **trusted}))
        return
    names = ("rule", "level", "finished", "identical", "keys", "versions", "digest", "differing")
    for name in names:
        click.echo(f"{name}: {stated.get(name)}")
    click.echo(f"sites: {', '.join(site['name'] for site in stated.get('sites', ()))}")
    for limit in stated.get("limits", ()):
        click.echo(f"note: {limit}")
    click.echo(f"signed by {signed_by}" + ("" if key else "; compare it, or give it as --key"))
