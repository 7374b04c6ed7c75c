"""``entrepot demo`` on the command line: a stack for the demo alone, the story, the report."""

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

import click


@click.command("demo")
@click.option(
    "--data-from",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Files to show it with. Default: those of the Python that runs this.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
@click.option("--keep", is_flag=True, help="Leave the servers running and say where.")
def demo_command(*, data_from: Path | None, as_json: bool, keep: bool) -> None:
    """Start two MinIO sites, Postgres and Prefect; replicate and account for real files.

    Everything runs on this machine and is removed at the end, unless it is kept. On a terminal
    the servers stay until you press Enter, so that you can look around in Prefect's UI.
    """
    from entrepot.cli.demo.managed import is_whole
    from entrepot.cli.demo.story import tell
    from entrepot.cli.demo.telling import Teller
    from entrepot.embedded import stack

    # Not TemporaryDirectory: Postgres runs as another user than root and must be let in.
    root = Path(tempfile.mkdtemp(prefix="entrepot-demo-"))
    root.chmod(0o711)
    data_dir, teller = root / "data", Teller()
    stopped = False
    try:
        report = asyncio.run(tell(data_dir, data_from=data_from, teller=teller))
        if not keep and not as_json and sys.stdin.isatty() and sys.stderr.isatty():
            _look_around(stack.info(data_dir))
        if as_json:
            click.echo(json.dumps(report))
        if keep:
            stopped = True
            teller.line(f"kept; stop it with: entrepot down --data {data_dir}")
    finally:
        if not stopped:
            teller.line("stopping the servers")
            stack.down(data_dir)
            shutil.rmtree(root, ignore_errors=True)
    whole = report["replicate"]["identical"] and report["usage"]["recount_equal"]
    if not whole or not is_whole(report["managed"]):
        raise SystemExit(1)


def _look_around(info: object) -> None:
    from entrepot.embedded.stack import StackInfo

    assert isinstance(info, StackInfo)
    secrets = info.data_dir / "secrets.env"
    click.echo(f"\nPrefect's UI: {info.prefect_ui_url}", err=True)
    click.echo(f"It asks for a password: grep ENTREPOT_PREFECT_AUTH {secrets}", err=True)
    click.echo("Press Enter to stop the servers and remove the demo's data.", err=True)
    sys.stdin.readline()
