"""``entrepot object get``."""

import re
from pathlib import Path

import click

from entrepot.cli.common import config_option, run
from entrepot.cli.sites import site_option

_RANGE = re.compile(r"(\d{0,18})-(\d{0,18})", re.ASCII)


@click.command("get")
@click.argument("bucket")
@click.argument("key")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("--version-id", metavar="ID", help="This version; the current one by default.")
@click.option(
    "--range",
    "span",
    metavar="A-B",
    help="Bytes A to B, both included; A- to the end; -N the last.",
)
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
@site_option
@config_option
def get_command(
    *,
    bucket: str,
    key: str,
    file: str,
    version_id: str | None,
    span: str | None,
    force: bool,
    site_name: str | None,
    config_path: Path | None,
) -> None:
    """Read KEY into FILE, or to standard output. FILE appears when all of it was verified."""
    from entrepot.cli.object.opening import opened
    from entrepot.cli.object.streams import writing

    start, stop = _parsed(span) if span else (0, None)

    async def get() -> None:
        async with opened(config_path, site_name, bucket, key=key) as objects:
            first, version = start, version_id
            if first < 0:  # the size is needed, and the version that has it
                row = await objects.head(bucket, key, version_id=version)
                first, version = max(0, row.size_bytes + first), row.version_id
            reading = objects.get(bucket, key, version_id=version, start=first, stop=stop)
            async with reading as body:
                with writing(file, replace=force) as target:
                    async for piece in body:
                        target.write(piece)
            if body.row.served_by:
                click.echo(f"served by {body.row.served_by}: it has not come here yet", err=True)
            if not body.is_certain:
                click.echo("the catalog did not answer; this is current at the store", err=True)

    run(get())


def _parsed(span: str) -> tuple[int, int | None]:
    """First byte and the one after the last, as HTTP means ``A-B``; negative: from the end."""
    from entrepot.errors import InvalidInput

    found = _RANGE.fullmatch(span)
    if not found or span == "-" or (found[1] and found[2] and int(found[1]) > int(found[2])):
        raise InvalidInput("not a range of bytes", hint="such as 0-99, 100- or -100", range=span)
    if not found[1]:
        return -int(found[2]), None
    return int(found[1]), int(found[2]) + 1 if found[2] else None
