"""``entrepot backup postgres restore``: a new data directory at a time, an LSN or a point."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.backup.opening import (
    cluster_option,
    open_archive,
    owner_of,
    owner_option,
    programs,
    socket_of,
)
from entrepot.cli.common import config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.backup.postgres.plan import RestorePlan, Target


@click.command("restore")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--time", metavar="T", help="To this time: 2026-11-25T14:05:00Z, its zone included.")
@click.option("--lsn", metavar="LSN", help="To this place in WAL, such as 0/3000060.")
@click.option("--point", metavar="NAME", help="To this restore point (backup postgres point).")
@click.option("--timeline", type=click.IntRange(1), metavar="N", help="Default: the newest.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and write nothing.")
@cluster_option
@owner_option
@config_option
@json_option
def restore_command(
    *,
    directory: Path,
    time: str | None,
    lsn: str | None,
    point: str | None,
    timeline: int | None,
    dry_run: bool,
    cluster_name: str | None,
    owner: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Write a cluster to DIRECTORY, which must not be there; to the latest moment by default.

    Postgres recovers when it is started there: it asks the helper (backup wal serve) for its WAL,
    stops at the target and is a primary then. It archives nothing until `backup wal enable`.
    Refused where the target lies in a gap of WAL, or outside of what was backed up.
    """
    from entrepot.backup.postgres.reach import plan_restore
    from entrepot.backup.postgres.restore import restore
    from entrepot.backup.postgres.switch import commands_at
    from entrepot.config import load

    config = load(config_path)
    path = directory.absolute()
    target = _target(time, lsn, point)

    async def work() -> dict[str, Any]:
        async with open_archive(config, cluster_name) as archive:
            plan = await plan_restore(archive, target, timeline=timeline)
            said = _said(plan)
            if dry_run:
                return said
            user = owner_of(owner)
            restored = await restore(
                archive.vault,
                plan,
                path,
                restore_command=commands_at(socket_of(config, cluster_name), owner=user).restore,
                bin_dir=programs(plan.last.version // 10_000),
                owner=user,
            )
            return said | {"path": str(restored.path), "bytes": restored.size_bytes}

    found = run(work())
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
    if not dry_run:
        click.echo("next: start Postgres there, while entrepot backup wal serve runs")


def _target(time: str | None, lsn: str | None, point: str | None) -> "Target":
    from entrepot.backup.postgres.plan import Target
    from entrepot.backup.postgres.wal import parse_lsn
    from entrepot.errors import InvalidInput

    try:
        moment = datetime.fromisoformat(time) if time else None
    except ValueError as error:
        raise InvalidInput("this is no time", hint="such as 2026-11-25T14:05:00Z") from error
    return Target(moment, parse_lsn(lsn) if lsn else None, point)


def _said(plan: "RestorePlan") -> dict[str, Any]:
    from entrepot.backup.postgres.wal import lsn_text

    return {
        "target": str(plan.target),
        "snapshots": [backup.snapshot for backup in plan.backups],
        "timeline": plan.timeline,
        "lsn": lsn_text(plan.stop_lsn),
        "time": plan.stop_time.isoformat() if plan.stop_time else None,
        "wal_segments": len(plan.wal),
    }
