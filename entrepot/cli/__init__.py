"""The command line: ``entrepot COMMAND``, one file a command, loaded when it is called.

Exit status: 0 done; 1 refused, failed or not healthy; 2 wrong usage or wrong settings. Errors go
to stderr as ``error: what (where)`` and ``hint: what to type``; a traceback is a bug of ours.
"""

import importlib
import sys
from collections.abc import Mapping

import click

from entrepot import __version__
from entrepot.errors import EntrepotError, InvalidInput

_COMMANDS: Mapping[str, tuple[str, str]] = {
    # name: (module and attribute, one line for --help, so that it needs no import)
    "up": ("entrepot.cli.up:up_command", "Start the local stack of real servers."),
    "down": ("entrepot.cli.up:down_command", "Stop the local stack; its data stays."),
    "status": ("entrepot.cli.up:status_command", "Show the servers of the local stack."),
    "demo": (
        "entrepot.cli.demo.command:demo_command",
        "See it all at work on this machine's own files.",
    ),
    "deploy": ("entrepot.cli.deploy:deploy_command", "Bring settings to Postgres and Prefect."),
    "serve": ("entrepot.cli.serve:serve_command", "Answer webhooks, health checks and metrics."),
    "site": ("entrepot.cli.site:site_group", "List and probe sites."),
    "tenant": ("entrepot.cli.tenant:tenant_group", "Add and list tenants."),
    "bucket": ("entrepot.cli.bucket:bucket_group", "Create, adopt, list and show buckets."),
    "object": (
        "entrepot.cli.object.group:object_group",
        "Put, get, list, explain and remove objects; decrypt one offline.",
    ),
    "catalog": (
        "entrepot.cli.catalog:catalog_group",
        "Check, rebuild and recover the catalogs of managed buckets.",
    ),
    "audit": ("entrepot.cli.audit:audit_group", "Verify the audit trail of managed buckets."),
    "keys": (
        "entrepot.cli.keys.group:keys_group",
        "Show, rotate, rewrap and shred tenant keys; export and recover them as a kit.",
    ),
    "replicate": ("entrepot.cli.replicate.group:replicate_group", "Rules, and sweeps of them."),
    "vault": ("entrepot.cli.vault:vault_group", "Make vaults, and say who can open them."),
    "backup": (
        "entrepot.cli.backup.group:backup_group",
        "Back up buckets and Postgres into vaults, and see what is kept.",
    ),
    "restore": (
        "entrepot.cli.restore.group:restore_group",
        "Bring buckets back to an instant, and undo that.",
    ),
    "quota": ("entrepot.cli.quota:quota_group", "Count and show what tenants hold."),
    "webhook": ("entrepot.cli.webhook:webhook", "Let others start deployments."),
    "token": ("entrepot.cli.token:token_group", "Let programs call the API."),
    "config": ("entrepot.cli.config:config", "Show the effective settings."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that ``--help`` is quick."""

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

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EntrepotError as error:
            show(error)
            sys.exit(2 if isinstance(error, InvalidInput) else 1)


def show(error: EntrepotError) -> None:
    """Print an error and what to do about it."""
    click.echo(f"error: {error}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="entrepot")
def main() -> None:
    """Keep S3 object stores replicated, accounted for, backed up and restorable."""
