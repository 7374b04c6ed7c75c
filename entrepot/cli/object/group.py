"""``entrepot object``: the group of its commands, one module each."""

import click

from entrepot.cli.object.decrypt import decrypt_command
from entrepot.cli.object.explain import explain_command
from entrepot.cli.object.get import get_command
from entrepot.cli.object.listing import list_command, versions_command
from entrepot.cli.object.put import put_command
from entrepot.cli.object.rm import rm_command


@click.group("object")
def object_group() -> None:
    """Put, get, list, explain and remove objects; decrypt one offline."""


for each in (
    put_command,
    get_command,
    list_command,
    versions_command,
    rm_command,
    explain_command,
    decrypt_command,
):
    object_group.add_command(each)
