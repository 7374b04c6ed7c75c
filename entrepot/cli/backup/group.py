"""``entrepot backup``: the group of its commands."""

import click

from entrepot.cli.backup.snapshots import create_command, list_command, show_command


@click.group("backup")
def backup_group() -> None:
    """Back up buckets into vaults, and see what is kept."""


for each in (create_command, list_command, show_command):
    backup_group.add_command(each)
