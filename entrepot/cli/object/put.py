"""``entrepot object put``."""

import json
import mimetypes
from collections.abc import Iterable
from pathlib import Path

import click

from entrepot.cli.common import config_option, json_option, run
from entrepot.cli.sites import site_option


@click.command("put")
@click.argument("bucket")
@click.argument("key")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("--content-type", help="What it is; by the ending of KEY by default.")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--if-none-match", is_flag=True, help="Only where there is no such object yet.")
@click.option("--if-match", metavar="ETAG", help="Only over the object that has this ETag.")
@site_option
@config_option
@json_option
def put_command(
    *,
    bucket: str,
    key: str,
    file: str,
    content_type: str | None,
    metadata: tuple[str, ...],
    if_none_match: bool,
    if_match: str | None,
    site_name: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Write FILE, or standard input, as a new version of KEY: whole, or not at all."""
    from entrepot.catalog.objects.facts import ObjectRow
    from entrepot.catalog.states import BucketMode
    from entrepot.cli.object.opening import actor, facts, opened
    from entrepot.cli.object.streams import reading
    from entrepot.errors import InvalidInput
    from entrepot.objects.conditions import Condition
    from entrepot.objects.writes import Wish
    from entrepot.store.protocol import Attributes

    kind = content_type or mimetypes.guess_type(key)[0] or Attributes().content_type
    wish = Wish(
        Attributes(content_type=kind, metadata=_pairs(metadata)),
        Condition(
            if_match=(if_match.strip('"'),) if if_match else (),
            if_none_match=("*",) if if_none_match else (),
        ),
        actor=actor(),
    )

    async def put() -> ObjectRow:
        with reading(file) as (pieces, size_bytes):
            async with opened(config_path, site_name, bucket, key=key) as objects:
                mode = (await objects.ground.bucket(bucket)).mode
                if size_bytes is None and mode is BucketMode.ADOPTED:
                    raise InvalidInput(
                        "an adopted bucket takes no stream of unknown length",
                        hint="write it to a file, and put that",
                        bucket=bucket,
                    )
                return await objects.put(bucket, key, pieces, size_bytes=size_bytes, wish=wish)

    row = run(put())
    if as_json:
        click.echo(json.dumps(facts(row)))
    else:
        click.echo(f"version {row.version_id}, {row.size_bytes} bytes, ETag {row.etag}")


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    from entrepot.errors import InvalidInput

    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidInput("metadata is written NAME=VALUE", given=text)
        pairs[name.lower()] = value
    return pairs
