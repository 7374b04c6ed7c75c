"""``entrepot backup wal``: the group of its commands.

``push`` and ``fetch`` with a socket load the client alone: a segment is stored within a second.
"""

from pathlib import Path

import click

from entrepot.cli.backup.opening import cluster_option
from entrepot.cli.backup.wal.serving import disable_command, enable_command, serve_command
from entrepot.cli.backup.wal.status import status_command
from entrepot.cli.common import config_option

_socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Ask the helper there (backup wal serve), which is quicker and needs no key.",
)


@click.group("wal")
def wal_group() -> None:
    """Archive Postgres' WAL in a vault, and read it back."""


@wal_group.command("push")
@click.argument("path", type=click.Path(path_type=Path))
@_socket_option
@cluster_option
@config_option
def push_command(
    *, path: Path, socket: Path | None, cluster_name: str | None, config_path: Path | None
) -> None:
    """Store the file of WAL at PATH: Postgres' archive_command, `… push %p`.

    Ends with 0 only when the vault has it; the same file again is fine, another under its name is
    refused.
    """
    from entrepot.backup.postgres import client

    if socket:
        raise SystemExit(client.main([str(socket), "push", str(path)]))
    from entrepot.cli.backup.wal.direct import push

    push(path, cluster_name, config_path)


@wal_group.command("fetch")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@_socket_option
@cluster_option
@config_option
def fetch_command(
    *,
    name: str,
    path: Path,
    socket: Path | None,
    cluster_name: str | None,
    config_path: Path | None,
) -> None:
    """Write the file of WAL NAME to PATH: Postgres' restore_command, `… fetch %f %p`.

    Exit status 1 where the vault has no such file, 200 where it could not be read: Postgres then
    stops and does not take that for the end of its WAL.
    """
    from entrepot.backup.postgres import client

    if socket:
        raise SystemExit(client.main([str(socket), "fetch", name, str(path)]))
    from entrepot.cli.backup.wal.direct import fetch

    raise SystemExit(fetch(name, path, cluster_name, config_path))


for each in (serve_command, enable_command, disable_command, status_command):
    wal_group.add_command(each)
