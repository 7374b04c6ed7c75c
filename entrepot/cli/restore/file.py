"""``entrepot restore file``: one object out of a vault, with nothing but the vault and the keys."""

from pathlib import Path

import click

from entrepot.cli.common import config_option, run


@click.command("file")
@click.argument("vault")
@click.argument("snapshot")
@click.argument("bucket")
@click.argument("key")
@click.option("--version-id", metavar="ID", help="This version; the current one by default.")
@click.option("--site", "site_name", metavar="SITE", help="Where the snapshot has several sites.")
@click.option("--to", "file", required=True, metavar="FILE|-", help="Where to; - is standard out.")
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
@config_option
def file_command(
    *,
    vault: str,
    snapshot: str,
    bucket: str,
    key: str,
    version_id: str | None,
    site_name: str | None,
    file: str,
    force: bool,
    config_path: Path | None,
) -> None:
    """Write KEY of BUCKET, as SNAPSHOT of VAULT kept it, to a file.

    Neither Postgres nor the bucket is asked. The file appears when all of it was verified.
    """
    from contextlib import aclosing

    from entrepot.backup.open import open_vault
    from entrepot.backup.reading import bytes_of, find_entry
    from entrepot.cli.object.streams import writing
    from entrepot.config import load

    async def read() -> None:
        async with open_vault(load(config_path), vault) as opened:
            index = await opened.index()
            entry = await find_entry(
                opened,
                index,
                await opened.snapshot(snapshot),
                bucket=bucket,
                key=key,
                site=site_name,
                version_id=version_id,
            )
            with writing(file, replace=force) as target:
                async with aclosing(bytes_of(opened, index, entry)) as pieces:
                    async for piece in pieces:
                        target.write(piece)

    run(read())
