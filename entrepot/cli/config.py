"""``entrepot config``: what the settings are and where they come from."""

from pathlib import Path

import click


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="The file to read; else $ENTREPOT_CONFIG, ./config.yaml, the data directory's.",
)
@click.option("--insecure-demo", is_flag=True, help="Accept well-known default credentials.")
def show(*, as_json: bool, path: Path | None, insecure_demo: bool) -> None:
    """Print the values in force, secrets masked, and where each came from."""
    import json

    from entrepot.config.explain import explain
    from entrepot.config.load import load_marked

    loaded = load_marked(path, insecure_demo=insecure_demo)
    rows = explain(loaded)
    if as_json:
        report = {"path": str(loaded.path), "settings": [row.json() for row in rows]}
        click.echo(json.dumps(report))
        return
    cells = [row.text() for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    click.echo(f"# {loaded.path}")
    for line in cells:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*padded, line[3]]).rstrip())
