"""``entrepot backup wal status``: what is archived, where it has gaps, what can be restored."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.backup.opening import cluster_option, open_archive
from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.backup.postgres.archive import WalArchive
    from entrepot.backup.postgres.wal import Run, WalSet


@click.command("status")
@cluster_option
@config_option
@json_option
def status_command(*, cluster_name: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show which WAL a vault has of a cluster, its gaps, and how far each backup leads.

    Exit status 1 where there are gaps, or no backup can be restored.
    """
    from entrepot.config import load

    async def read() -> dict[str, Any]:
        async with open_archive(load(config_path), cluster_name) as archive:
            return await state_of(archive)

    found = run(read())
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"cluster {found['cluster']}, system {found['system_identifier']}")
        answer(found["runs"], as_json=False, empty="no WAL")
        answer(found["gaps"], as_json=False, empty="no gaps")
        answer(found["backups"], as_json=False, empty="no base backup")
        click.echo(f"latest restorable time: {found['latest_time'] or 'none'}")
    if found["gaps"] or not any(row["restorable_to"] for row in found["backups"]):
        raise SystemExit(1)


async def state_of(archive: "WalArchive") -> dict[str, Any]:
    """What the command says; ``restorable_to`` is an LSN, null where a backup lacks WAL."""
    from entrepot.backup.postgres.base import backups_of
    from entrepot.backup.postgres.plan import Method, wal_from
    from entrepot.backup.postgres.reach import latest_time
    from entrepot.backup.postgres.wal import lsn_text

    files = await archive.files()
    system, segment_bytes = await archive.system()
    rows = []
    for backup in await backups_of(archive.vault, archive.cluster):
        if backup.method is Method.DUMP:
            continue
        along = files.newest_after(backup.timeline, backup.stop_lsn)
        chain = wal_from(backup, files, timeline=along)
        end = (chain[-1].number + 1) * segment_bytes if chain else None
        rows.append(
            {
                "snapshot": backup.snapshot,
                "method": backup.method.value,
                "restorable_from": lsn_text(backup.stop_lsn),
                "restorable_from_time": backup.stopped.isoformat(timespec="milliseconds"),
                "restorable_to": None if end is None else lsn_text(end),
                "timeline": along,
            }
        )
    latest = await latest_time(archive)
    return {
        "cluster": archive.cluster,
        "latest_time": latest and latest.isoformat(timespec="milliseconds"),
        "system_identifier": str(system),
        "runs": [_row(files, each) for each in files.runs],
        "gaps": [_row(files, each) for each in files.gaps],
        "backups": rows,
    }


def _row(files: "WalSet", run: "Run") -> dict[str, Any]:
    from entrepot.backup.postgres.wal import Segment, lsn_text

    return {
        "timeline": run.timeline,
        "first": files.name(Segment(run.timeline, run.first)),
        "last": files.name(Segment(run.timeline, run.last)),
        "segments": run.last - run.first + 1,
        "start": lsn_text(run.first * files.segment_bytes),
        "end": lsn_text((run.last + 1) * files.segment_bytes),
    }
