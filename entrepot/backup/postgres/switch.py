"""A running server's WAL, sent to a vault: the commands, and the settings that name them.

Invariant: archiving counts as on only when a segment of that moment has come to the vault.
"""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from entrepot.backup.postgres import client
from entrepot.backup.postgres.archive import WalArchive
from entrepot.backup.postgres.programs import Cluster
from entrepot.errors import InvalidInput, SetupError

CLIENT_NAME: Final = "entrepot-wal.py"
POINT_MAX_BYTES: Final = 63
TRIES: Final = 3
"""The archiver may serve one more file by its old command."""

ARCHIVED_S: Final = 120.0
"""For the first segment: a server may be busy, and waits a minute after three failures."""


@dataclass(frozen=True, slots=True)
class Commands:
    """What Postgres runs for each file of WAL."""

    archive: str
    restore: str


def commands_at(address: Path, *, owner: tuple[int, int] | None = None) -> Commands:
    """Commands that ask the helper at a socket, for a server that runs as ``owner`` (uid, gid).

    The client is copied beside the socket, where that user gets to. ``SetupError`` where no Python
    can be run by it.
    """
    script = address.parent / CLIENT_NAME
    made = script.with_suffix(f".{os.getpid()}")
    shutil.copyfile(client.__file__, made)
    made.chmod(0o755)
    made.replace(script)  # in one step: a recovery may be about to start it
    python = _python_for(script, owner)
    start = " ".join(_quoted(part) for part in (python, "-I", str(script), str(address)))
    # What fails in another way, such as a Python that cannot start, is not the end of WAL either.
    guard = f"s=$?; test $s -le {client.ABSENT} || exit {client.FATAL}; exit $s"
    return Commands(f'{start} push "%p"', f'{start} fetch %f "%p"; {guard}')


def _quoted(part: str) -> str:
    """For the shell, and for Postgres, which replaces what follows a percent sign."""
    return shlex.quote(part).replace("%", "%%")


def _python_for(script: Path, owner: tuple[int, int] | None) -> str:
    who: dict[str, Any] = {}
    if owner:
        who = {"user": owner[0], "group": owner[1], "extra_groups": []}
    for python in dict.fromkeys(_pythons()):
        try:
            done = subprocess.run(
                [python, "-I", str(script)], capture_output=True, check=False, cwd="/", **who
            )
        except OSError:
            continue
        if done.returncode == client.USAGE:
            return python
    raise SetupError(
        "the user that Postgres runs as can run no Python here, or not reach the socket's folder",
        hint="install python3, or choose a folder that others may enter",
        path=str(script.parent),
    )


def _pythons() -> Iterator[str]:
    yield sys.executable
    for folder in ("/usr/bin", "/usr/local/bin"):
        yield f"{folder}/python3"


async def archive_to(
    archive: WalArchive, cluster: Cluster, command: str, *, timeout_s: int = 60
) -> str:
    """Have the server archive by ``command``, each ``timeout_s`` at least; the first file's name.

    ``archive_timeout`` bounds what can be lost. ``SetupError`` where ``archive_mode`` is off, or
    nothing comes through.
    """
    if await cluster.ask("SHOW archive_mode") == "off":
        raise SetupError(
            "the server archives nothing until it is started anew",
            hint="set archive_mode = on and restart it",
            cluster=cluster.name,
        )
    await _set(cluster, "archive_timeout", str(timeout_s))
    await _set(cluster, "archive_command", command)
    for _ in range(TRIES):
        name = await switch_wal(cluster)
        if name in await archive.names():
            return name
    raise SetupError(
        "the server archives, and not into this vault",
        hint="is archive_command overridden, or the helper one of another vault?",
        cluster=cluster.name,
    )


async def archive_nowhere(cluster: Cluster) -> None:
    """Let the server drop its WAL again. What it writes from here on cannot be recovered."""
    await _set(cluster, "archive_command", "true")


async def switch_wal(cluster: Cluster) -> str:
    """End the current segment and wait until it is archived; its name."""
    # A record of our own, so that there is something to archive.
    await cluster.ask("SELECT pg_create_restore_point('entrepot: end of a segment')")
    name: str = await cluster.ask("SELECT pg_walfile_name(pg_switch_wal())")
    since = cluster.clock.monotonic()
    while True:
        archived, failed = await _archiver(cluster)
        if archived >= name:
            return name
        if cluster.clock.monotonic() - since > ARCHIVED_S:
            raise SetupError(
                "the server's archive_command fails; it keeps its WAL and tries again",
                hint="its log says why; is the helper up? entrepot backup wal serve",
                cluster=cluster.name,
                failed=failed,
            )
        await asyncio.sleep(0.1)


async def create_point(cluster: Cluster, name: str) -> str:
    """Name this moment in WAL, and have it archived; its LSN.

    A transaction ends right after it, so that recovery can also stop at its time.
    """
    if not 0 < len(name.encode()) <= POINT_MAX_BYTES:
        raise InvalidInput("a restore point has 1 to 63 bytes", name=name)
    lsn: str = await cluster.ask("SELECT pg_create_restore_point(%s)::text", name)
    await cluster.ask("SELECT pg_current_xact_id()::text")
    await switch_wal(cluster)
    return lsn


async def _archiver(cluster: Cluster) -> tuple[str, str]:
    found = await cluster.ask(
        "SELECT ARRAY[coalesce(last_archived_wal, ''), coalesce(last_failed_wal, '')]"
        " FROM pg_stat_archiver"
    )
    return found[0], found[1]


async def _set(cluster: Cluster, name: str, value: str) -> None:
    """Set it for good, and wait until the server has it."""
    quoted = "'" + value.replace("'", "''") + "'"
    await cluster.ask(f"ALTER SYSTEM SET {name} = {quoted}")
    await cluster.ask("SELECT pg_reload_conf()")
    deadline = cluster.clock.monotonic() + ARCHIVED_S
    seen = "SELECT setting FROM pg_settings WHERE name = %s"
    while await cluster.ask(seen, name) != value:
        if cluster.clock.monotonic() > deadline:
            raise SetupError(f"the server does not take {name}", hint="its log says why")
        await asyncio.sleep(0.05)
