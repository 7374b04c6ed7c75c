"""``entrepot replicate conflicts`` and ``resolve``: the ledger, and taking another side."""

from collections.abc import Sequence
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.catalog.conflicts import Conflict
    from entrepot.catalog.connect import Catalog
    from entrepot.config import Config


@click.command("conflicts")
@click.option("--rule", default="", help="Only those of this rule.")
@click.option("--open", "open_only", is_flag=True, help="Only those that nobody resolved.")
@click.option("--most", default=50, type=click.IntRange(1, 1000), help="How many, newest first.")
@config_option
@json_option
def conflicts_command(
    *, rule: str, open_only: bool, most: int, config_path: Path | None, as_json: bool
) -> None:
    """Show keys that were written at several sites unknown to each other."""
    from entrepot.catalog.conflicts import list_conflicts
    from entrepot.catalog.connect import Catalog
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            found = await list_conflicts(catalog, rule=rule, open_only=open_only, limit=most)
            return [_whole(each) if as_json else _line(each) for each in found]

    answer(run(read()), as_json=as_json, empty="no conflict")


def _line(conflict: "Conflict") -> dict[str, Any]:
    served = conflict.contenders[conflict.served]
    losers = [one for n, one in enumerate(conflict.contenders) if n != conflict.served]
    return {
        "id": conflict.id,
        "at": f"{conflict.detected_at:%Y-%m-%d %H:%M:%S}",
        "rule": conflict.rule,
        "object": f"{conflict.bucket}/{conflict.key}",
        "served": _write(served),
        "lost": [_write(one) for one in losers],
        "why": f"{conflict.policy}: {conflict.reason}"
        + ("; ambiguous" if conflict.is_ambiguous else ""),
        "resolved_by": conflict.resolved_by,
    }


def _write(contender: Any) -> str:
    what = "delete" if contender["is_delete_marker"] else f"{contender['size_bytes']} bytes"
    return f"{what} at {contender['site']}"


def _whole(conflict: "Conflict") -> dict[str, Any]:
    names = [name for name in type(conflict).__slots__ if name != "contenders"]
    return {
        **{name: getattr(conflict, name) for name in names},
        "served": conflict.served,
        "contenders": list(conflict.contenders),
    }


@click.command("resolve")
@click.argument("number", metavar="ID", type=int)
@click.option(
    "--take",
    required=True,
    metavar="WHICH",
    help="loser, winner, or the place of a contender from 0 on, as --json of conflicts has them.",
)
@config_option
@json_option
def resolve_command(*, number: int, take: str, config_path: Path | None, as_json: bool) -> None:
    """Have another side of conflict ID served at every site, as a new version.

    What is served now stays as a noncurrent version, so this can be undone by taking it again.
    """
    from entrepot.catalog.conflicts import get_conflict
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import get_rule
    from entrepot.config import load

    config = load(config_path)

    async def work() -> dict[str, Any]:
        async with Catalog.open(config.database_url()) as catalog:
            conflict = await get_conflict(catalog, number=number)
            taken = _taken(conflict, take)
            rule = await get_rule(catalog, name=conflict.rule)
            version_id = await _resolved(config, catalog, rule.sites, conflict, taken)
            return {"id": number, "key": conflict.key, "taken": taken, "version_id": version_id}

    done = run(work())
    if as_json:
        answer([done], as_json=True, empty="")
        return
    click.echo(f"{done['key']} is served as written by the side taken: {done['version_id']}")


async def _resolved(
    config: "Config", control: "Catalog", names: Sequence[str], conflict: "Conflict", taken: int
) -> str:
    """Through the catalogs where the bucket is managed, else on the stores."""
    from entrepot.cli.replicate.opening import opened_objects, opened_sites
    from entrepot.objects.resolving import resolve_managed
    from entrepot.replication.resolve import resolve

    how: dict[str, Any] = {"conflict": conflict, "taken": taken, "by": getuser()}
    async with opened_objects(config, names, managed=conflict.bucket) as objects:
        if objects:
            return await resolve_managed(control, objects, **how)
    async with opened_sites(config, control, names) as sites:
        return await resolve(control, sites, **how)


def _taken(conflict: "Conflict", take: str) -> int:
    from entrepot.errors import InvalidInput

    places = range(len(conflict.contenders))
    losers = [place for place in places if place != conflict.winner]
    if take == "winner":
        return conflict.winner
    if take == "loser" and len(losers) == 1:
        return losers[0]
    if take.isdecimal() and int(take) in places:
        return int(take)
    raise InvalidInput(
        "this does not say which side to take",
        hint=f"--take one of: winner, {', '.join(map(str, places))}",
        take=take,
    )
