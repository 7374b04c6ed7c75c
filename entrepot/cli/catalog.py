"""``entrepot catalog``: what the catalogs say, held against what the stores have."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.sites import chosen, open_ground, sites_option

if TYPE_CHECKING:
    from entrepot.catalog.buckets import Bucket
    from entrepot.objects.check import Findings
    from entrepot.objects.ground import Ground

_EMPTY = "no managed bucket; type: entrepot bucket create NAME --tenant ID"


@click.group("catalog")
def catalog_group() -> None:
    """Check, rebuild and recover the catalogs of managed buckets."""


@catalog_group.command("check")
@click.argument("bucket", required=False)
@sites_option
@click.option("--heal", is_flag=True, help="Take up stored versions that have no row.")
@config_option
@json_option
def check_command(
    *,
    bucket: str | None,
    site_names: tuple[str, ...],
    heal: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Compare managed buckets (or BUCKET alone) with the store, version by version.

    An orphan is stored and has no row; what is missing has a row and is not stored. Exit status 1
    where there is either, after healing. Nothing is ever removed.
    """
    from entrepot.config import load
    from entrepot.errors import BucketNotFound

    async def read() -> list[dict[str, Any]]:
        config, rows = load(config_path), list[dict[str, Any]]()
        for site in chosen(config, site_names):
            async with open_ground(config, site) as ground:
                for each in await _managed(ground, bucket):
                    rows.append({"site": site.name, **await _checked(ground, each, heal=heal)})
        if bucket and not rows:
            raise BucketNotFound(
                "no site has this bucket", hint="entrepot bucket list", bucket=bucket
            )
        return rows

    rows = run(read())
    if as_json:
        click.echo(json.dumps(_whole(rows)))
    else:
        answer([_counts(row) for row in rows], as_json=False, empty=_EMPTY)
        for kind in ("orphans", "missing"):
            for each in _whole(rows)[kind]:
                click.echo(f"{kind}: {json.dumps(each)}")
    if any(row["orphan_count"] or row["missing_count"] for row in rows):
        raise SystemExit(1)


@catalog_group.command("rebuild")
@sites_option
@config_option
@json_option
def rebuild_command(
    *, site_names: tuple[str, ...], config_path: Path | None, as_json: bool
) -> None:
    """Make the catalog of a site again from what its store has.

    What the catalog has already stays as it is. After the loss of a database, type `entrepot
    deploy` first, which makes its tables.
    """
    from entrepot.config import load
    from entrepot.objects.check import rebuild

    async def build() -> list[dict[str, Any]]:
        config, rows = load(config_path), list[dict[str, Any]]()
        for site in chosen(config, site_names):
            async with open_ground(config, site) as ground:
                rows += [{"site": site.name, **asdict(f)} async for f in rebuild(ground)]
        return rows

    names = ("site", "bucket", "versions", "taken_up", "missing", "quarantined")
    rows = [_counts(row) for row in run(build())]
    answer([{n: row[n] for n in names} for row in rows], as_json=as_json, empty=_EMPTY)


@catalog_group.command("recover")
@sites_option
@config_option
@json_option
def recover_command(
    *, site_names: tuple[str, ...], config_path: Path | None, as_json: bool
) -> None:
    """End the writes of writers that have gone: whole ones count, others leave nothing.

    Every running entrepot does it each minute; a writer has gone when it was silent for a minute.
    """
    from entrepot.config import load
    from entrepot.objects.recover import recover

    async def end() -> list[dict[str, Any]]:
        config, rows = load(config_path), list[dict[str, Any]]()
        for site in chosen(config, site_names):
            async with open_ground(config, site) as ground:
                rows.append({"site": site.name, **asdict(await recover(ground))})
        return rows

    answer(run(end()), as_json=as_json, empty="")


async def _managed(ground: "Ground", name: str | None) -> "list[Bucket]":
    from entrepot.catalog.buckets import list_buckets
    from entrepot.catalog.states import BucketMode
    from entrepot.errors import Unsupported

    known = [each for each in await list_buckets(ground.catalog) if name in (None, each.name)]
    if name and any(each.mode is BucketMode.ADOPTED for each in known):
        raise Unsupported(
            "the catalog does not hold the objects of an adopted bucket",
            hint="its sites are compared by a sweep: entrepot replicate run RULE --dry-run",
            bucket=name,
        )
    return [each for each in known if each.mode is BucketMode.MANAGED]


async def _checked(ground: "Ground", bucket: "Bucket", *, heal: bool) -> dict[str, Any]:
    """Findings of a bucket; those that healing left, where there was anything to heal."""
    from entrepot.objects.check import check

    found: Findings = await check(ground, bucket, heal=heal)
    if not found.taken_up:
        return asdict(found)
    after = await check(ground, bucket)
    after.taken_up, after.quarantined = found.taken_up, found.quarantined
    return asdict(after)


def _whole(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All buckets as one answer; names of at most 1,000 findings of a kind in each bucket."""
    whole: dict[str, Any] = {"versions": sum(row["versions"] for row in rows)}
    for kind in ("orphans", "missing"):
        whole[kind] = [
            {
                "site": row["site"],
                "bucket": row["bucket"],
                "key": each["key"],
                "version": each["version_id"],
            }
            for row in rows
            for each in row[kind]
        ]
    return whole | {"buckets": [_counts(row) for row in rows]}


def _counts(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "site": row["site"],
        "bucket": row["bucket"],
        "versions": row["versions"],
        "orphans": row["orphan_count"],
        "missing": row["missing_count"],
        "taken_up": row["taken_up"],
        "quarantined": row["quarantined"],
    }
