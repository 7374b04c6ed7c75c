"""``entrepot backup postgres create``, ``dump``, ``list``, ``point``, ``extract``."""

import json
from pathlib import Path
from typing import Any

import click

from entrepot.cli.backup.opening import cluster_option, open_archive, server_of
from entrepot.cli.common import answer, config_option, json_option, run


@click.command("create")
@click.option(
    "--incremental",
    is_flag=True,
    help="Only blocks that changed since the last backup (Postgres 17, summarize_wal on).",
)
@cluster_option
@config_option
@json_option
def create_command(
    *, incremental: bool, cluster_name: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Take a base backup of the whole cluster. Its WAL has to be archived in the same vault."""
    from entrepot.backup.postgres.base import back_up, newest_base
    from entrepot.config import load

    config = load(config_path)

    async def create() -> str:
        async with open_archive(config, cluster_name) as archive:
            base = await newest_base(archive) if incremental else None
            return await back_up(archive, server_of(config, cluster_name), base=base)

    _tell(run(create()), as_json=as_json)


@click.command("dump")
@click.option("--database", "databases", multiple=True, metavar="NAME", help="Only this one.")
@cluster_option
@config_option
@json_option
def dump_command(
    *,
    databases: tuple[str, ...],
    cluster_name: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Dump databases and roles with pg_dump, beside base backups: for other versions of Postgres.

    `entrepot backup postgres extract` gets a dump out again, for pg_restore.
    """
    from entrepot.backup.postgres.dump import dump
    from entrepot.config import load

    config = load(config_path)

    async def make() -> str:
        async with open_archive(config, cluster_name) as archive:
            return await dump(archive.vault, server_of(config, cluster_name), databases)

    _tell(run(make()), as_json=as_json)


@click.command("list")
@cluster_option
@config_option
@json_option
def list_command(*, cluster_name: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show the base backups and dumps of a cluster, oldest first."""
    from entrepot.backup.postgres.base import backups_of
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with open_archive(load(config_path), cluster_name) as archive:
            found = await backups_of(archive.vault, archive.cluster)
        return [{"snapshot": each.snapshot, **each.to_json()} for each in found]

    answer(run(read()), as_json=as_json, empty="none yet; type: entrepot backup postgres create")


@click.command("point")
@click.argument("name")
@cluster_option
@config_option
@json_option
def point_command(
    *, name: str, cluster_name: str | None, config_path: Path | None, as_json: bool
) -> None:
    """Name this moment NAME, to restore to it, and wait until it is archived."""
    from entrepot.backup.postgres.switch import create_point
    from entrepot.config import load

    config = load(config_path)
    lsn = run(create_point(server_of(config, cluster_name), name))
    click.echo(json.dumps({"point": name, "lsn": lsn}) if as_json else f"{name} is at {lsn}")


@click.command("extract")
@click.argument("snapshot")
@click.argument("file")
@click.argument("path", type=click.Path(path_type=Path))
@cluster_option
@config_option
def extract_command(
    *, snapshot: str, file: str, path: Path, cluster_name: str | None, config_path: Path | None
) -> None:
    """Write one FILE of a SNAPSHOT to PATH, such as shop.dump or globals.sql of a dump."""
    from entrepot.backup.postgres.base import extract
    from entrepot.config import load

    async def write() -> int:
        async with open_archive(load(config_path), cluster_name) as archive:
            return await extract(archive, snapshot, file, path)

    click.echo(f"{path}: {run(write())} bytes")


def _tell(snapshot: str, *, as_json: bool) -> None:
    click.echo(json.dumps({"snapshot": snapshot}) if as_json else f"snapshot {snapshot}")
