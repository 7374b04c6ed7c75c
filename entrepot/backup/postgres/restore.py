"""A cluster at a target, as a new data directory that Postgres recovers when it is started.

Invariant: the directory appears whole, verified against the backup's manifest, or not at all; one
that is there is never touched. The restored cluster archives nothing until that is switched on
again: a scratch copy must not write into the history of the cluster that it is a copy of.

Disk: the cluster once; with incremental backups twice, and once more for each of them.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from entrepot.backup.files import read_entries, write_files
from entrepot.backup.postgres.base import MANIFEST, tree_of
from entrepot.backup.postgres.plan import BaseBackup, RestorePlan, Target
from entrepot.backup.postgres.programs import run
from entrepot.backup.postgres.wal import lsn_text
from entrepot.errors import AlreadyExists, InvalidInput
from entrepot.vault.index import Index
from entrepot.vault.repository import Vault

SETTINGS: Final = "postgresql.auto.conf"


@dataclass(frozen=True, slots=True)
class Restored:
    """What was written: the directory, and its bytes before recovery."""

    path: Path
    size_bytes: int


async def restore(
    vault: Vault,
    plan: RestorePlan,
    target: Path,
    *,
    restore_command: str,
    bin_dir: Path,
    owner: tuple[int, int] | None = None,
) -> Restored:
    """Write what ``plan`` says to ``target``, which must not be there.

    ``restore_command`` is what Postgres will run for each file of WAL; ``bin_dir`` has the programs
    of its major version; ``owner`` (uid, gid) is whom it will run as.
    """
    if await asyncio.to_thread(target.exists):
        raise AlreadyExists(
            "there is something already", hint="a path that is not there", path=str(target)
        )
    index = await vault.index()
    with _scratch(target) as scratch:
        parts = []
        for number, backup in enumerate(plan.backups):
            part = scratch / f"{number}"
            part.mkdir(mode=0o700)
            await _write(vault, index, backup, part)
            parts.append(part)
        whole = parts[0]
        if len(parts) > 1:
            whole = scratch / "whole"
            await run(
                [
                    str(bin_dir / "pg_combinebackup"),
                    "--no-sync",
                    f"--output={whole}",
                    *map(str, parts),
                ]
            )
        await run([str(bin_dir / "pg_verifybackup"), "--no-parse-wal", "--quiet", str(whole)])
        _set_up(whole, settings_for(plan, restore_command))
        size_bytes = await asyncio.to_thread(_finish, whole, owner)
        whole.rename(target)
    return Restored(target, size_bytes)


def settings_for(plan: RestorePlan, restore_command: str) -> dict[str, str]:
    """The settings that make Postgres recover to the plan's target and then be a primary."""
    said = {
        "restore_command": restore_command,
        "recovery_target_timeline": str(plan.timeline),
        "archive_command": "",
    }
    return said | _stop(plan.target)


def _stop(target: Target) -> dict[str, str]:
    if target.time is not None:
        said = {"recovery_target_time": target.time.isoformat(sep=" ")}
    elif target.lsn is not None:
        said = {"recovery_target_lsn": lsn_text(target.lsn)}
    elif target.point is not None:
        said = {"recovery_target_name": target.point}
    else:
        return {}
    return said | {"recovery_target_action": "promote", "recovery_target_inclusive": "on"}


async def _write(vault: Vault, index: Index, backup: BaseBackup, part: Path) -> None:
    tree = tree_of(await vault.snapshot(backup.snapshot), backup.cluster)
    entries = await read_entries(vault, index, tree)
    if not any(entry.key == MANIFEST for entry in entries):
        raise InvalidInput(
            "this is no base backup", hint="entrepot backup postgres list", name=backup.snapshot
        )
    await write_files(vault, index, entries, part)


def _set_up(directory: Path, settings: dict[str, str]) -> None:
    lines = ["", "# Written by a restore of entrepot."]
    for name, value in settings.items():
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'")
    with (directory / SETTINGS).open("a") as file:
        file.write("\n".join(lines) + "\n")
    (directory / "recovery.signal").touch(mode=0o600)


def _finish(directory: Path, owner: tuple[int, int] | None) -> int:
    """Give the directory to its owner; its bytes."""
    directory.chmod(0o700)
    size_bytes = 0
    for folder, _, names in os.walk(directory):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if owner:
                os.chown(path, *owner)
            size_bytes += path.stat().st_size if path.is_file() else 0
    return size_bytes


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A directory beside the target; what a killed restore left there goes first."""
    scratch = target.with_name(f".{target.name}.restoring")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
