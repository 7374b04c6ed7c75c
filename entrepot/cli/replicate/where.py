"""``entrepot replicate where``: which site has which version of a key."""

import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.sites import sites_option

if TYPE_CHECKING:
    from entrepot.config import Config
    from entrepot.replication.where import Answer, Where
    from entrepot.store.protocol import Version


@click.command("where")
@click.argument("bucket")
@click.argument("key")
@click.option("--rule", metavar="NAME", help="Compare what this rule keeps equal, at its sites.")
@sites_option
@config_option
@json_option
def where_command(
    *,
    bucket: str,
    key: str,
    rule: str | None,
    site_names: tuple[str, ...],
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show what each site has of KEY: versions, current one, tags, lock, and its catalog's word.

    Under `elsewhere` stands the id that a version has at other sites, if it is another one. KEY is
    as the store has it. Exit status 1 where sites differ or cannot be asked.
    """
    from entrepot.config import load
    from entrepot.replication.where import as_json as told

    found = run(_where(load(config_path), bucket, key, names=site_names, rule=rule))
    if as_json:
        click.echo(json.dumps(told(found, bucket=bucket, key=key)))
    else:
        _tell(found)
    if not found.agree:
        raise SystemExit(1)


async def _where(
    config: "Config", bucket: str, key: str, *, names: tuple[str, ...], rule: str | None
) -> "Where":
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import get_rule
    from entrepot.cli.replicate.opening import opened_sites
    from entrepot.cli.sites import chosen
    from entrepot.replication.proof.evidence import wanted_of
    from entrepot.replication.where import where

    wanted = None
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(Catalog.open(config.database_url()))
        if rule is not None:
            known = await get_rule(control, name=rule)
            wanted, names = wanted_of(known, buckets=[bucket]), names or known.sites
        sites = await stack.enter_async_context(opened_sites(config, control, names))
        catalogs = {
            site.name: await stack.enter_async_context(Catalog.open(site.database_url))
            for site in chosen(config, names)
        }
        return await where(sites, bucket, key, catalogs=catalogs, wanted=wanted)


def _tell(found: "Where") -> None:
    rows = [row for each in found.answers for row in _rows(each, found)]
    answer(rows, as_json=False, empty="")
    for each in found.answers:
        for error in filter(None, (each.error, each.kept.error)):
            click.echo(f"{each.site}: {error}")
    for difference in found.differences:
        at = ", ".join(f"{site}: {what}" for site, what in difference.sites)
        click.echo(f"{difference.kind} {difference.version_id}: {at}")
    click.echo("all sites agree" if found.agree else "the sites do not agree")


def _rows(answer: "Answer", found: "Where") -> list[dict[str, Any]]:
    """A row a version, or one that says that there is none."""
    names = ["version", "current", "time", "bytes", "tags", "lock", "catalog", "elsewhere"]
    names += ["fits"] if found.tag_filter else []
    if not answer.versions:
        nothing = "cannot be asked" if answer.error else "none"
        return [{"site": answer.site, **dict.fromkeys(names), "version": nothing}]
    rows = []
    for version in answer.versions:
        when = datetime.fromtimestamp(version.mtime_ms / 1000, UTC)
        tags = version.attributes.tags if version.attributes else {}
        shown = (
            version.version_id,
            "yes" if version.is_current else None,
            when.isoformat(timespec="milliseconds"),
            "deleted" if version.is_delete_marker else version.size_bytes,
            [f"{name}={value}" for name, value in sorted(tags.items())],
            _lock(version),
            _catalog(answer, version),
            answer.elsewhere.get(version.version_id),
            "yes" if found.fits(version) else None,
        )
        rows.append({"site": answer.site, **dict(zip(names, shown, strict=False))})
    return rows


def _lock(version: "Version") -> str | None:
    lock = version.lock
    if lock is None:
        return None
    words = [f"{lock.mode} until {lock.until:%Y-%m-%d %H:%M:%S}"] if lock.mode else []
    return ", ".join(words + (["held"] if lock.hold else [])) or None


def _catalog(answer: "Answer", version: "Version") -> str | None:
    """What the site's catalog says of the version; of adopted buckets it keeps no versions."""
    kept = answer.kept
    if kept.mode != "managed":
        return kept.mode or None
    if version.version_id not in kept.versions:
        return "managed, not in it"
    return "managed, current" if version.version_id == kept.current else "managed"
