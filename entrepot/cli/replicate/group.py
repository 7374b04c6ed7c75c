"""``entrepot replicate``: the group of its commands, one module each."""

import click

from entrepot.cli.replicate.conflicts import conflicts_command, resolve_command
from entrepot.cli.replicate.jobs import jobs_command
from entrepot.cli.replicate.plans import apply_command, plans_command
from entrepot.cli.replicate.rule import rule_group
from entrepot.cli.replicate.run import run_command


@click.group("replicate")
def replicate_group() -> None:
    """Keep buckets equal across sites."""


for each in (run_command, jobs_command, rule_group):
    replicate_group.add_command(each)
for each in (conflicts_command, resolve_command, plans_command, apply_command):
    replicate_group.add_command(each)
