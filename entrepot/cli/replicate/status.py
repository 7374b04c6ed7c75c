"""``entrepot replicate status``: how each rule stands, sweeps and stream."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run

if TYPE_CHECKING:
    from entrepot.catalog.lag import Lag
    from entrepot.config import Config, SiteSettings
    from entrepot.replication.status import DirectionStatus, RuleStatus, Status


@click.command("status")
@click.argument("rule", required=False)
@config_option
@json_option
def status_command(*, rule: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show how each rule stands, or RULE alone: last sweeps, and the stream's lag by direction.

    A site whose catalog does not answer is shown as unreachable: what waits there is not known.
    """
    from entrepot.config import load
    from entrepot.errors import NotFound

    status = run(_status(load(config_path)))
    shown = [each for each in status.rules if rule in (None, each.name)]
    if rule and not shown:
        raise NotFound("there is no such rule", hint="entrepot replicate rule list", rule=rule)
    if as_json:
        answer([each.model_dump(mode="json") for each in shown], as_json=True, empty="")
        return
    rows = [row for each in shown for row in _rows(each)]
    answer(rows, as_json=False, empty="no rules; see: entrepot replicate rule add --help")


async def _status(config: "Config") -> "Status":
    from entrepot.catalog.connect import Catalog
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.replication.status import read_status

    sites = config.sites()
    lags = await asyncio.gather(*map(_lags, sites))
    by_site = {site.name: lag for site, lag in zip(sites, lags, strict=True)}
    async with Catalog.open(config.database_url(), pool_size=1) as control:
        return await read_status(control, lags=by_site, now=SYSTEM_CLOCK.now())


async def _lags(site: "SiteSettings") -> "tuple[Lag, ...] | None":
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.lag import lag_from
    from entrepot.errors import RetryableError

    async with Catalog.open(site.database_url, pool_size=1) as catalog:
        try:
            return await lag_from(catalog, site=site.name)
        except RetryableError:
            return None


def _rows(rule: "RuleStatus") -> Iterator[dict[str, Any]]:
    ages = [bucket.age_s for bucket in rule.buckets if bucket.age_s is not None]
    whole = {
        "rule": rule.name,
        "now": rule.waits_for or "may run",
        "swept_s_ago": round(max(ages)) if len(ages) == len(rule.buckets) else "never",
    }
    for each in rule.directions or (None,):
        last = rule.last_window
        brought = f"{last.shipped} in {last.seconds:.0f} s, {last.at:%H:%M:%S}" if last else None
        yield {**whole, **_direction(each), "last_window": brought}


def _direction(each: "DirectionStatus | None") -> dict[str, Any]:
    if each is None:
        return dict.fromkeys(("direction", "lag", "waiting", "dead_letters"))
    lag = "unreachable" if each.lag_s is None else f"{each.lag_s:.1f} s"
    return {
        "direction": f"{each.source} > {each.target}",
        "lag": lag,
        "waiting": each.waiting,
        "dead_letters": each.dead_letters,
    }
