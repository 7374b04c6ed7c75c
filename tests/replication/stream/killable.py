"""Channels that die, or freeze, at a chosen point.

    python -m tests.replication.stream.killable < settings-and-jobs

As ``tests.objects.killable``, whose points these are, at both sites. A job works off what waits for
its consumer in a fork, a process of its own, until nothing is left.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from entrepot.objects.ground import Ground, Limits
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping
from entrepot.replication.stream.channel import Channel
from entrepot.store.s3 import S3Store
from tests.objects.killable import SteppedCatalog, SteppedStore, Steps, fork
from tests.objects.worlds import ALL, key_ring
from tests.replication.stream.worlds import QUICK, counted


async def _site(stack: AsyncExitStack, site: dict[str, str], steps: Steps) -> Objects:
    store = S3Store(
        endpoint=site["endpoint"],
        access_key=site["access_key"],
        secret_key=SecretStr(site["secret_key"]),
    )
    stack.push_async_callback(store.close)
    catalog = await stack.enter_async_context(SteppedCatalog.open(site["dsn"], pool_size=6))
    catalog.steps = steps
    ring = key_ring(Path(site["keys"]))
    stack.push_async_callback(ring.close)
    limits = Limits(lease_s=600.0, recover_every_s=600.0)
    ground = Ground(site["name"], SteppedStore(store, steps), catalog, ring, ALL, limits=limits)
    await ground.start()
    return Objects(ground)


async def _run(sites: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    async def end_ourselves() -> None:
        os.kill(os.getpid(), signal.Signals[job.get("signal", "SIGKILL")])

    steps, unarmed = Steps(end_ourselves), Steps(end_ourselves)
    async with AsyncExitStack() as stack:
        opened = {name: await _site(stack, site, steps) for name, site in sites.items()}
        watching = await _site(stack, sites["site-a"], unarmed)

        async def open_site(name: str) -> Objects:
            return opened[name]

        carrier = Shipping(open_site, source="site-a", target="site-b", rule=job["rule"])
        channel = Channel(job["consumer"], carrier, options=QUICK, guard=lambda: None)
        steps.arm(job["at"])
        working = asyncio.create_task(channel.run())
        while await counted(watching.ground.catalog, "outbox"):
            await asyncio.sleep(0.02)
            assert not working.done(), working
        steps.disarm()
        working.cancel()
        await asyncio.wait([working])
    return {"points": steps.passed}


def main() -> None:
    """Read settings and jobs from standard input, one a line."""
    sites = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        job = json.loads(line)
        fork(_run(sites, job))


if __name__ == "__main__":
    main()
