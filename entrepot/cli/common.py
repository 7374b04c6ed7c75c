"""What several commands share: settings, catalogs, stores, and how answers are printed."""

import asyncio
import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from entrepot.config import SiteSettings
    from entrepot.store.s3 import S3Store

T = TypeVar("T")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings. Default: $ENTREPOT_CONFIG, ./config.yaml, or that of the local stack.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run asynchronous library code to its end."""
    return asyncio.run(work)


def check_name(name: str) -> None:
    """Refuse a tenant's or rule's name that no path, label or table could carry."""
    from entrepot.errors import InvalidInput

    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "not a name that is allowed",
            hint="1 to 63 of a-z, 0-9, ., _ and -, such as web-shop",
            name=name,
        )


def open_store(site: "SiteSettings", *, max_connections: int = 8) -> "S3Store":
    """A store over the site of the settings."""
    from entrepot.store.s3 import S3Store

    return S3Store(
        endpoint=site.endpoint,
        access_key=site.access_key,
        secret_key=site.secret_key,
        region=site.region,
        max_connections=max_connections,
    )


def answer(rows: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print rows as JSON, or as a table for people (``empty`` when there are none)."""
    if as_json:
        click.echo(json.dumps([dict(row) for row in rows], default=str))
        return
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    Console(soft_wrap=False).print(table)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
