"""``entrepot backup``: the group of its commands, loaded when they are called.

Postgres runs ``backup wal push`` for each segment, so this imports nothing of what it does not run.
"""

import importlib
from collections.abc import Mapping

import click

_COMMANDS: Mapping[str, tuple[str, str]] = {
    # name: (module and attribute, one line for --help)
    "postgres": (
        "entrepot.cli.backup.postgres.group:postgres_group",
        "Base backups and dumps of Postgres, and restores of them.",
    ),
    "wal": (
        "entrepot.cli.backup.wal.group:wal_group",
        "Archive Postgres' WAL in a vault, and read it back.",
    ),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group("backup", cls=_Lazy)
def backup_group() -> None:
    """Back up to vaults, and look into them."""
