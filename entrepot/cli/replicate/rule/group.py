"""``entrepot replicate rule``: the group of its commands."""

import click

from entrepot.cli.replicate.rule.change import add_command, edit_command, remove_command
from entrepot.cli.replicate.rule.look import list_command, show_command
from entrepot.cli.replicate.rule.switch import (
    disable_command,
    enable_command,
    pause_command,
    resume_command,
)


@click.group("rule")
def rule_group() -> None:
    """Which buckets are kept equal across which sites, and how."""


for each in (
    add_command,
    show_command,
    list_command,
    edit_command,
    enable_command,
    disable_command,
    pause_command,
    resume_command,
    remove_command,
):
    rule_group.add_command(each)
