"""``entrepot keys``: the group of its commands."""

import click

from entrepot.cli.keys.kit import export_command, recover_command
from entrepot.cli.keys.ring import (
    init_command,
    list_command,
    rewrap_command,
    rotate_command,
    show_command,
)
from entrepot.cli.keys.shred import shred_command


@click.group("keys")
def keys_group() -> None:
    """Show, rotate, rewrap and shred tenant keys; export and recover them as a kit."""


for each in (
    init_command,
    list_command,
    show_command,
    rotate_command,
    rewrap_command,
    shred_command,
    export_command,
    recover_command,
):
    keys_group.add_command(each)
