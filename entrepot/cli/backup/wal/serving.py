"""``entrepot backup wal serve``, ``enable``, ``disable``: the helper, and the server's settings."""

import json
from pathlib import Path

import click

from entrepot.cli.backup.opening import (
    cluster_option,
    open_archive,
    owner_of,
    owner_option,
    server_of,
    socket_of,
)
from entrepot.cli.common import config_option, json_option, run


@click.command("serve")
@cluster_option
@owner_option
@config_option
def serve_command(*, cluster_name: str | None, owner: str | None, config_path: Path | None) -> None:
    """Run the helper that Postgres' archive_command asks, in the foreground.

    While it is down, Postgres keeps its WAL and asks again. Stop it with SIGINT or SIGTERM.
    """
    import asyncio
    import signal

    from entrepot import log
    from entrepot.backup.postgres.helper import helping
    from entrepot.config import load

    config = load(config_path)
    log.setup(config.monitoring.log_level, secrets=config.secrets())
    address = socket_of(config, cluster_name)
    address.parent.mkdir(mode=0o755, parents=True, exist_ok=True)

    async def serve() -> None:
        ended = asyncio.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, ended.set)
        async with (
            open_archive(config, cluster_name) as archive,
            helping(archive, address, owner=owner_of(owner)),
        ):
            click.echo(f"WAL of {archive.cluster}: {address}")
            await ended.wait()

    run(serve())


@click.command("enable")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, 86_400),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="archive_timeout: WAL that waits longer is archived, and so that much can be lost.",
)
@cluster_option
@owner_option
@config_option
@json_option
def enable_command(
    *,
    timeout_s: int,
    cluster_name: str | None,
    owner: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Have the server archive its WAL through the helper, and see a first segment arrive.

    The helper has to run: entrepot backup wal serve.
    """
    from entrepot.backup.postgres.switch import archive_to, commands_at
    from entrepot.config import load

    config = load(config_path)
    commands = commands_at(socket_of(config, cluster_name), owner=owner_of(owner))

    async def enable() -> str:
        async with open_archive(config, cluster_name) as archive:
            server = server_of(config, cluster_name)
            return await archive_to(archive, server, commands.archive, timeout_s=timeout_s)

    name = run(enable())
    if as_json:
        click.echo(json.dumps({"archived": name, "archive_command": commands.archive}))
    else:
        click.echo(f"archived {name}; next: entrepot backup postgres create")


@click.command("disable")
@cluster_option
@config_option
def disable_command(*, cluster_name: str | None, config_path: Path | None) -> None:
    """Let the server drop its WAL again. What it writes from now on cannot be restored."""
    from entrepot.backup.postgres.switch import archive_nowhere
    from entrepot.config import load

    config = load(config_path)
    run(archive_nowhere(server_of(config, cluster_name)))
    click.echo(f"{config.cluster(cluster_name).name} archives nothing any more")
