"""The demo's conflict: one key written at both sites while nothing passes between them.

A sweep waits for the site that it cannot reach, goes on when the cut is healed, and settles it;
the ledger says how. Then both sites are compared, and the answer is signed. What a reader gets is
looked at through the stores, not through what the sweep said.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from entrepot.catalog.conflicts import list_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.cli.demo.change import connect
from entrepot.cli.demo.detour import detour
from entrepot.cli.demo.telling import Teller
from entrepot.config import Config
from entrepot.embedded.stack import StackInfo
from entrepot.testing.proxy import BreakableProxy

KEY = "plans/summer.txt"
AT_A, AT_B = b"we go to the mountains\n", b"we go to the sea\n"


async def show(
    info: StackInfo,
    config: Config,
    *,
    rule: str,
    bucket: str,
    sweep: Callable[[], Coroutine[Any, Any, object]],
    teller: Teller,
) -> dict[str, Any]:
    """The chapter; its part of the report."""
    teller.chapter("8. The network between the sites is cut; a conflict; a certificate")
    async with detour(info, info.sites[1]) as proxy:
        teller.line("a TCP proxy now stands between the worker and site B, and passes nothing")
        proxy.hang()
        for site, body in zip(info.sites, (AT_A, AT_B), strict=True):
            async with connect(site) as store:
                await store.put(bucket, KEY, body)
        for site in info.sites:
            told = (await _read(site, bucket)).decode().strip()
            teller.line(f"users of {site.name} go on: {KEY} was written there, {told!r}")
        sweeping = asyncio.create_task(sweep())
        await _asked(proxy, sweeping)
        teller.line("the sweep has asked site B and waits for its answer; now the cut is healed")
        await proxy.heal()
        await sweeping
    teller.line("the same run went on and ended")
    served = [await _read(site, bucket) for site in info.sites]
    async with Catalog.open(config.database_url()) as control:
        found = [each for each in await list_conflicts(control, rule=rule) if each.key == KEY]
    for each in found:
        teller.line(
            f"entrepot replicate conflicts: {each.key}: {each.policy}, {each.reason}; "
            f"entrepot replicate resolve {each.id} --take loser would turn it round"
        )
    equal = served[0] == served[1]
    teller.line(f"both sites serve {served[0].decode().strip()!r}" if equal else "SITES DIFFER")
    proof = await asyncio.to_thread(_proved, info, rule, info.data_dir / "certificate.json")
    teller.line(
        f"entrepot replicate verify {rule}: {proof['keys']:,} keys, {proof['versions']:,} versions "
        f"{'identical' if proof['identical'] else 'DIFFERENT'}, digest {proof['digest'][:16]}…, "
        f"certificate {'holds' if proof['certificate'] else 'DOES NOT HOLD'}"
    )
    for line in proof.pop("told"):
        teller.line(f"  {line}")
    teller.line(
        f"while a stream is at work its lag over time is a chart: {info.prefect_ui_url}/artifacts,"
        f" stream-{rule}; in figures: entrepot replicate lag, status"
    )
    return {"conflicts": len(found), "served_alike": equal, **proof}


async def _asked(proxy: BreakableProxy, sweeping: asyncio.Task[object]) -> None:
    """Wait until the run has tried to reach the site; one that ended before raises its error."""
    while not proxy.taken:
        await asyncio.sleep(0.1)
        if sweeping.done():
            await sweeping
            return


async def _read(site: Any, bucket: str) -> bytes:
    async with connect(site) as store, store.get(bucket, KEY) as body:
        return await body.read()


def _proved(info: StackInfo, rule: str, path: Path) -> dict[str, Any]:
    """Verify as a person would, and check the certificate that comes of it."""
    from click.testing import CliRunner

    from entrepot.cli.replicate.group import replicate_group

    config = ["--config", str(info.config_path)]
    done = CliRunner().invoke(
        replicate_group, ["verify", rule, "--json", "--out", str(path), *config]
    )
    told = json.loads(done.stdout)
    held = CliRunner().invoke(replicate_group, ["check-certificate", str(path)])
    return {name: told[name] for name in ("identical", "keys", "versions", "digest")} | {
        "certificate": held.exit_code == 0,
        "told": held.stdout.splitlines(),
    }
