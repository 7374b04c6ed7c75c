"""``entrepot replicate stream``, ``lag`` and ``dead-letters``: the stream as a person sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.flowrun import start, wait_option

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog

DEPLOYMENT = "replicate_stream/always"


@click.command("stream")
@click.argument("rule", required=False)
@click.option("--for-s", default=86_400, type=click.IntRange(1), help="Seconds; a day by default.")
@wait_option
@config_option
@json_option
def stream_command(
    *, rule: str | None, for_s: int, wait: bool, config_path: Path | None, as_json: bool
) -> None:
    """Stream RULE (every enabled rule where it is left out) in a run that takes over now.

    A run is started by itself every ten minutes; a rule that is new need not wait for it.
    """
    from entrepot.config import load

    parameters = {"rule": rule or "", "for_s": for_s}
    run(start(load(config_path), DEPLOYMENT, parameters=parameters, wait=wait, as_json=as_json))


@click.command("lag")
@click.argument("rule", required=False)
@config_option
@json_option
def lag_command(*, rule: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show how long the oldest write of each rule, direction and prefix waits."""
    from entrepot.catalog.lag import PrefixLag, lag_of

    async def read() -> list[dict[str, Any]]:
        async with _catalogs(config_path) as catalogs:
            return [
                {
                    "rule": lag.rule,
                    "source": lag.source,
                    "target": lag.target,
                    "prefix": each.prefix,
                    "lag_s": round(each.lag_s, 3),
                    "waiting": each.depth,
                    "dead_letters": each.dead,
                }
                for lag in await lag_of(catalogs, rule=rule or "")
                for each in lag.prefixes or (PrefixLag("", 0, 0, 0.0),)
            ]

    answer(run(read()), as_json=as_json, empty="no rule is streamed; see: entrepot replicate rule")


@click.group("dead-letters", invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def letters_group(context: click.Context, *, config_path: Path | None, as_json: bool) -> None:
    """Show what the stream gave up, or try it again."""
    if context.invoked_subcommand is None:
        answer(run(_letters(config_path)), as_json=as_json, empty="no dead letters")


async def _letters(config_path: Path | None) -> list[dict[str, Any]]:
    from entrepot.catalog.objects.outbox import dead_letters, rule_and_target

    found = []
    async with _catalogs(config_path) as catalogs:
        for site, catalog in catalogs.items():
            for each in await dead_letters(catalog):
                rule, target = rule_and_target(each.consumer)
                found.append(
                    {
                        "id": f"{site}:{each.id}",
                        "rule": rule,
                        "target": target,
                        "bucket": each.bucket,
                        "key": each.key,
                        "version_id": each.version_id,
                        "kind": each.kind,
                        "written_at": f"{each.since:%Y-%m-%d %H:%M:%S}",
                        "tries": each.tries,
                        "reason": each.reason,
                    }
                )
    return found


@letters_group.command("retry")
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@config_option
def retry_command(*, ids: tuple[str, ...], everything: bool, config_path: Path | None) -> None:
    """Put dead letters back, so that the stream tries them again."""
    from entrepot.catalog.objects.outbox import try_again
    from entrepot.errors import InvalidInput

    if bool(ids) == everything:
        raise InvalidInput("name ids or say --all", hint="entrepot replicate dead-letters")
    wanted = [_parsed(each) for each in ids]

    async def put_back() -> int:
        async with _catalogs(config_path) as catalogs:
            if unknown := sorted({site for site, _ in wanted} - set(catalogs)):
                raise InvalidInput(f"there is no site {unknown[0]}", hint="entrepot site list")
            return sum(
                [
                    await try_again(
                        catalog,
                        [number for name, number in wanted if name == site],
                        everything=everything,
                    )
                    for site, catalog in catalogs.items()
                ]
            )

    click.echo(f"{run(put_back())} put back")


def _parsed(text: str) -> tuple[str, int]:
    from entrepot.errors import InvalidInput

    site, _, number = text.rpartition(":")
    if not site or not number.isdigit() or len(number) > 18:
        raise InvalidInput(
            "not the id of a dead letter", hint="entrepot replicate dead-letters", id=text
        )
    return site, int(number)


@asynccontextmanager
async def _catalogs(config_path: Path | None) -> AsyncIterator[dict[str, "Catalog"]]:
    """The catalogs of all sites by name."""
    from contextlib import AsyncExitStack

    from entrepot.catalog.connect import Catalog
    from entrepot.config import load

    async with AsyncExitStack() as stack:
        yield {
            site.name: await stack.enter_async_context(Catalog.open(site.database_url, pool_size=2))
            for site in load(config_path).sites()
        }
