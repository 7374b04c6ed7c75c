"""``entrepot restore``: the group of its commands."""

import click

from entrepot.cli.restore.carrying import apply_command, undo_command
from entrepot.cli.restore.file import file_command
from entrepot.cli.restore.planning import plan_command, status_command


@click.group("restore")
def restore_group() -> None:
    """Bring buckets back to an instant: plan, look, apply, undo; or one object to a file."""


for each in (plan_command, apply_command, status_command, undo_command, file_command):
    restore_group.add_command(each)
