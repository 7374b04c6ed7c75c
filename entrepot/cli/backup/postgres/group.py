"""``entrepot backup postgres``: the group of its commands."""

import click

from entrepot.cli.backup.postgres.make import (
    create_command,
    dump_command,
    extract_command,
    list_command,
    point_command,
)
from entrepot.cli.backup.postgres.restore import restore_command


@click.group("postgres")
def postgres_group() -> None:
    """Base backups and dumps of Postgres, and restores of them."""


for each in (
    create_command,
    dump_command,
    list_command,
    point_command,
    extract_command,
    restore_command,
):
    postgres_group.add_command(each)
