"""``entrepot up``, ``down``, ``status``: the local stack of real servers.

Lines of progress go to stderr, so that stdout holds the answer alone. Exit status: 0 done (for
``status``: everything runs), 1 refused or not healthy, 2 wrong usage.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from entrepot.embedded.stack import StackInfo, StackStatus

_data_option = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the stack keeps its data. Default: $ENTREPOT_DATA, else /var/lib/entrepot for "
    "root and ~/.local/share/entrepot for others.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("up")
@click.option(
    "--sites",
    type=click.IntRange(1, 26),
    metavar="N",
    help="How many MinIO sites. Default: as before, 2 at first. More may be added later.",
)
@_data_option
@click.option(
    "--port-base",
    type=click.IntRange(0, 65455),
    metavar="P",
    help="Sites listen at P, P+1, ...; Postgres at P+50, Prefect at P+60, the gateway at P+80. "
    "0 takes free ports and remembers them. Default: as before, 19000 at first.",
)
@click.option("--prefect/--no-prefect", default=True, help="Run Prefect's server and a worker.")
@click.option("--gateway/--no-gateway", default=False, help="Run the gateway (entrepot serve).")
@_json_option
def up_command(
    *,
    sites: int | None,
    data_dir: Path | None,
    port_base: int | None,
    prefect: bool,
    gateway: bool,
    as_json: bool,
) -> None:
    """Start MinIO sites, Postgres and Prefect on this machine, and keep them running.

    All of it listens on 127.0.0.1 only. The first time it builds MinIO from source, which takes
    minutes. Data stays when the stack is stopped or killed.
    """
    from entrepot.embedded import stack

    started = stack.up(
        data_dir,
        sites=sites,
        port_base=port_base,
        prefect=prefect,
        gateway=gateway,
        progress=_progress,
    )
    seen = stack.status(data_dir)
    if as_json:
        click.echo(json.dumps(_as_json(seen) | {"config": str(started.config_path)}))
        return
    _print_table(seen)
    _print_next_steps(started, prefect=prefect)


@click.command("down")
@_data_option
@_json_option
def down_command(*, data_dir: Path | None, as_json: bool) -> None:
    """Stop the stack. Its data stays; `entrepot up` goes on with it."""
    from entrepot.embedded import stack

    stack.down(data_dir, progress=_progress)
    seen = stack.status(data_dir)
    if as_json:
        click.echo(json.dumps(_as_json(seen)))
    else:
        click.echo(f"stopped; the data stays in {seen.data_dir}")


@click.command("status")
@_data_option
@_json_option
def status_command(*, data_dir: Path | None, as_json: bool) -> None:
    """Show which servers run, and where. Exit status 1 unless all of them do."""
    from entrepot.embedded import stack

    seen = stack.status(data_dir)
    if as_json:
        click.echo(json.dumps(_as_json(seen)))
    else:
        _print_table(seen)
    if not seen.healthy:
        raise SystemExit(1)


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _as_json(seen: "StackStatus") -> dict[str, Any]:
    return asdict(seen) | {"data_dir": str(seen.data_dir), "healthy": seen.healthy}


def _print_table(seen: "StackStatus") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{seen.data_dir}: {seen.phase}", title_justify="left")
    for column in ("server", "state", "url", "pid", "up for", "restarts"):
        table.add_column(column, overflow="fold")
    for child in seen.children:
        table.add_row(
            child.name,
            child.state,
            child.url,
            str(child.pid or ""),
            "" if child.uptime_s is None else _duration(child.uptime_s),
            str(child.restarts),
        )
    console = Console()
    console.print(table)
    if seen.phase == "crashed":
        console.print("the supervisor was killed; go on with: entrepot up, or end: entrepot down")


def _print_next_steps(started: "StackInfo", *, prefect: bool) -> None:
    secrets = started.config_path.with_name("secrets.env")
    click.echo(f"settings     {started.config_path}")
    click.echo(f"credentials  {secrets}")
    if prefect:
        click.echo(f"Prefect UI   {started.prefect_ui_url} (ENTREPOT_PREFECT_AUTH of that file)")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
