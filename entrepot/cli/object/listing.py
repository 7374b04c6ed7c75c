"""``entrepot object list`` and ``versions``: one line an entry, so that other tools can read on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.sites import site_option

if TYPE_CHECKING:
    from entrepot.catalog.objects.facts import Listed

_limit_option = click.option(
    "--limit",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="How many at most, all of which are held in memory.",
)


@click.command("list")
@click.argument("bucket")
@click.option("--prefix", default="", help="Only keys that start with this.")
@click.option("--delimiter", default="", help="Fold what shares the part up to it, such as /.")
@click.option("--after", default="", metavar="KEY", help="Only what sorts after this.")
@_limit_option
@site_option
@config_option
@json_option
def list_command(
    *,
    bucket: str,
    prefix: str,
    delimiter: str,
    after: str,
    limit: int,
    site_name: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show the keys of BUCKET that have a current object: time, bytes, key."""
    from shlex import quote

    from entrepot.cli.object.opening import opened, shown
    from entrepot.store.protocol import PAGE_MAX

    async def read() -> "list[Listed]":
        found: list[Listed] = []
        last = after
        async with opened(config_path, site_name, bucket) as objects:
            while len(found) <= limit and (
                page := await objects.list(
                    bucket,
                    prefix=prefix,
                    after=last,
                    delimiter=delimiter,
                    most=min(PAGE_MAX, limit + 1 - len(found)),
                )
            ):
                found += page
                last = page[-1].key
        return found

    found = run(read())
    rows = [_entry(entry) for entry in found[:limit]]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        for row in rows:
            click.echo(f"{row['written'] or '':24}  {row['size_bytes']:>14}  {shown(row['key'])}")
    if len(found) > limit:
        click.echo(f"more follow; go on with --after {quote(rows[-1]['key'])}", err=True)


def _entry(entry: "Listed") -> dict[str, Any]:
    from entrepot.cli.object.opening import iso

    is_prefix = not entry.etag
    return {
        "key": entry.key,
        "is_prefix": is_prefix,
        "written": None if is_prefix else iso(entry.mtime_ms),
        "size_bytes": entry.size_bytes,
        "etag": entry.etag,
        "version": entry.version_id,
    }


@click.command("versions")
@click.argument("bucket")
@click.argument("key", required=False)
@click.option("--prefix", default="", help="Of all keys that start with this.")
@_limit_option
@site_option
@config_option
@json_option
def versions_command(
    *,
    bucket: str,
    key: str | None,
    prefix: str,
    limit: int,
    site_name: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show versions and delete markers, newest first within a key; * marks the current one."""
    from entrepot.cli.object.opening import facts, opened, shown, walk_versions
    from entrepot.errors import InvalidInput, NotFound

    if key and prefix:
        raise InvalidInput("give KEY or --prefix, not both")

    async def read() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        decided = None
        async with opened(config_path, site_name, bucket, key=key or "") as objects:
            async for row in walk_versions(objects, bucket, prefix=key or prefix):
                if len(rows) > limit or (key and row.key != key):
                    break
                is_current = row.key != decided and not row.is_quarantined
                decided = row.key if is_current else decided
                rows.append(facts(row) | {"current": is_current})
            if key and not rows:
                raise NotFound("no version of this key", bucket=bucket, key=key)
        return rows

    rows = run(read())
    if as_json:
        click.echo(json.dumps(rows[:limit]))
    else:
        for row in rows[:limit]:
            mark = "*" if row["current"] else "!" if row["quarantined"] else " "
            size = "deleted" if row["what"] == "delete marker" else row["size_bytes"]
            click.echo(
                f"{mark} {row['written']}  {size:>14}  {row['version']}  {shown(row['key'])}"
            )
    if len(rows) > limit:
        click.echo("more follow; give KEY, a --prefix or a higher --limit", err=True)
