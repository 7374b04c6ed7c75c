"""``entrepot backup``: the group of its commands."""

import click

from entrepot.cli.backup.postgres.group import postgres_group
from entrepot.cli.backup.snapshots import create_command, list_command, show_command
from entrepot.cli.backup.wal.group import wal_group


@click.group("backup")
def backup_group() -> None:
    """Back up buckets and Postgres into vaults, and see what is kept."""


for each in (create_command, list_command, show_command, postgres_group, wal_group):
    backup_group.add_command(each)
