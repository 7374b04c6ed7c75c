"""The demo's conflict: one key written at both sites while nothing passes between them.

The sweep settles it and the ledger says how; then both sites are compared, and the answer is
signed. What a reader gets is looked at through the stores, not through what the sweep said.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from entrepot.catalog.conflicts import list_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.cli.demo.change import connect
from entrepot.cli.demo.telling import Teller
from entrepot.config import Config
from entrepot.embedded.stack import StackInfo

KEY = "plans/summer.txt"
AT_A, AT_B = b"we go to the mountains\n", b"we go to the sea\n"


async def show(
    info: StackInfo,
    config: Config,
    *,
    rule: str,
    bucket: str,
    sweep: Callable[[], Awaitable[object]],
    teller: Teller,
) -> dict[str, Any]:
    """The chapter; its part of the report."""
    teller.chapter("8. One key written at both sites during a cut; the ledger; a certificate")
    for site, body in zip(info.sites, (AT_A, AT_B), strict=True):
        async with connect(site) as store:
            await store.put(bucket, KEY, body)
    teller.line(f"{KEY}: site A wrote {AT_A.decode().strip()!r}, site B {AT_B.decode().strip()!r}")
    await sweep()
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
    return {"conflicts": len(found), "served_alike": equal, **proof}


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
        "certificate": held.exit_code == 0
    }
