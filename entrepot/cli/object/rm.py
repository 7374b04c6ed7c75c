"""``entrepot object rm``."""

import json
from pathlib import Path
from typing import Any

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.sites import site_option


@click.command("rm")
@click.argument("bucket")
@click.argument("key")
@click.option("--version-id", metavar="ID", help="Remove this version for good, without a marker.")
@site_option
@config_option
@json_option
def rm_command(
    *,
    bucket: str,
    key: str,
    version_id: str | None,
    site_name: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Delete KEY: a delete marker becomes current, and every version stays."""
    from entrepot.catalog.states import BucketMode
    from entrepot.cli.object.opening import actor, opened
    from entrepot.errors import NotFound
    from entrepot.objects.writes import Wish

    async def remove() -> dict[str, Any]:
        async with opened(config_path, site_name, bucket, key=key) as objects:
            is_managed = (await objects.ground.bucket(bucket)).mode is BucketMode.MANAGED
            if version_id is None:
                await objects.head(bucket, key)  # S3 deletes what is not there; a person errs
            wish = Wish(actor=actor())
            row = await objects.delete(bucket, key, version_id=version_id, wish=wish)
            if version_id and row is None and is_managed:
                raise NotFound(
                    "no such version",
                    hint=f"entrepot object versions {bucket}",
                    bucket=bucket,
                    key=key,
                    version=version_id,
                )
        marker = row.version_id if row and version_id is None else None
        return {"key": key, "removed": version_id, "delete_marker": marker}

    done = run(remove())
    if as_json:
        click.echo(json.dumps(done))
    elif version_id:
        click.echo(f"removed version {version_id}")
    else:
        click.echo(f"deleted by marker {done['delete_marker']}")
