"""``entrepot replicate``: the group of its commands, one module each."""

import click

from entrepot.cli.replicate.certificate import (
    certificate_key_command,
    certificates_command,
    check_certificate_command,
)
from entrepot.cli.replicate.conflicts import conflicts_command, resolve_command
from entrepot.cli.replicate.jobs import jobs_command
from entrepot.cli.replicate.plans import apply_command, plans_command
from entrepot.cli.replicate.rule.group import rule_group
from entrepot.cli.replicate.run import run_command
from entrepot.cli.replicate.settings import settings_command
from entrepot.cli.replicate.status import status_command
from entrepot.cli.replicate.stream import lag_command, letters_group, stream_command
from entrepot.cli.replicate.verify import verify_command
from entrepot.cli.replicate.where import where_command


@click.group("replicate")
def replicate_group() -> None:
    """Keep buckets equal across sites."""


PROOF = (
    verify_command,
    where_command,
    certificates_command,
    certificate_key_command,
    check_certificate_command,
    settings_command,
)

STREAM = (status_command, stream_command, lag_command, letters_group)

for each in (run_command, jobs_command, rule_group, *STREAM, *PROOF):
    replicate_group.add_command(each)
for each in (conflicts_command, resolve_command, plans_command, apply_command):
    replicate_group.add_command(each)
