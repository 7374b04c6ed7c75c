"""``entrepot object explain``: every version of a key, and why the current one is current."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.sites import site_option

if TYPE_CHECKING:
    from entrepot.catalog.objects.facts import ObjectRow

_MOST = 10_000
"""Versions of one key; some 10 MB."""


@click.command("explain")
@click.argument("bucket")
@click.argument("key")
@site_option
@config_option
@json_option
def explain_command(
    *, bucket: str, key: str, site_name: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Show what is known of every version of KEY, and why the current one is current."""
    from entrepot.catalog.objects.facts import ObjectRow
    from entrepot.cli.object.opening import facts, key_versions, opened, shown
    from entrepot.errors import NotFound

    async def read() -> list[ObjectRow]:
        async with opened(config_path, site_name, bucket, key=key) as objects:
            rows = await key_versions(objects, bucket, key, most=_MOST)
            if not rows:
                raise NotFound("no version of this key", bucket=bucket, key=key)
            return rows

    rows = run(read())
    current = current_of(rows)
    versions = [facts(row) | {"current": row is current} for row in rows]
    report = {
        "bucket": bucket,
        "key": key,
        "current": current.version_id if current else None,
        "why": why(rows),
        "versions": versions,
    }
    if as_json:
        click.echo(json.dumps(report))
        return
    for version in versions:
        click.echo("\n".join(_lines(version)))
    click.echo(f"{shown(key)}: {report['why']}")


def current_of(rows: "Sequence[ObjectRow]") -> "ObjectRow | None":
    """The newest version that counts; ``rows`` are of one key, newest first."""
    return next((row for row in rows if not row.is_quarantined), None)


def why(rows: "Sequence[ObjectRow]") -> str:
    """One line for people: what decided which of ``rows`` (newest first) is current."""
    current = current_of(rows)
    if current is None:
        return "nothing is current, as every version is from the future and quarantined"
    others = [row for row in rows if not row.is_quarantined and row is not current]
    name = current.version_id[:8]
    text = f"deleted: delete marker {name}" if current.is_delete_marker else f"current: {name}"
    if not others:
        text += " is the only version"
    else:
        before = others[0]
        ahead_ms = current.stamp.time_ms - before.stamp.time_ms
        text += (
            f" has the newest stamp, {ahead_ms} ms after {before.version_id[:8]}"
            if ahead_ms
            else f" and {before.version_id[:8]} have one time, and its site and writer sort last"
        )
        if current.parent != before.stamp:
            text += "; its writer began before that was there"
    kept = sum(row.is_quarantined for row in rows)
    return text + (f"; {kept} from the future in quarantine" if kept else "")


def _lines(version: dict[str, Any]) -> list[str]:
    """A version, for people."""
    marks = [name for name in ("current", "quarantined") if version[name]]
    lines = [
        f"{'*' if version['current'] else ' '} {version['version']}  "
        + ", ".join([version["what"], *marks]),
        f"    written  {version['written']} at {version['site']} by {version['writer']}",
        f"    parent   {version['parent'] or 'none'}",
    ]
    if version["what"] == "delete marker":
        return lines
    how = [name for name in ("compressed", "encrypted") if version[name]]
    if version["key_number"]:
        how[-1] += f" with key {version['key_number']}"
    stored = f"{version['stored_bytes']} bytes stored, {', '.join(how) or 'as they came'}"
    return [
        *lines,
        f"    size     {version['size_bytes']} bytes, {stored}",
        f"    etag     {version['etag']}",
    ]
