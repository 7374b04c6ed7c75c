"""A process of its own that runs a job over a bucket to its end, to be killed in the middle.

    python -m tests.replication.killable < job.json

It says ``sweeping`` once it begins to write and ``done`` at the end.
"""

import asyncio
import json
import sys
from typing import Any

from pydantic import SecretStr

from entrepot.catalog.connect import Catalog
from entrepot.replication import run as replication
from tests.replication.worlds import ALL


async def main(job: dict[str, Any]) -> None:
    addresses = [
        replication.Address(
            name=f"site-{rank}",
            rank=rank,
            endpoint=site["endpoint"],
            region="us-east-1",
            access_key=site["access_key"],
            secret_key=SecretStr(site["secret_key"]),
            capabilities=ALL,
        )
        for rank, site in enumerate(job["sites"])
    ]
    async with (
        Catalog.open(job["dsn"]) as catalog,
        replication.open_sites(addresses, workers=8) as sites,
    ):
        begun = await replication.begin(
            catalog,
            sites,
            rule="killed",
            bucket=job["bucket"],
            prefix="",
            shards=3,
            holder="killable",
            flow_run_id="one flow run, tried again",
            force=replication.Force(traits=job.get("traits", False)),
        )
        print("sweeping", flush=True)
        sweeps = [
            replication.sweep_shard(
                catalog, sites, job=begun, shard=shard, batch_size=100, workers=8
            )
            for shard in begun.shards
            if not shard.done
        ]
        outcomes = await asyncio.gather(*sweeps)
        outcome = await replication.finish(catalog, job=begun, outcomes=outcomes, more={})
        print("done", json.dumps(dict(outcome.totals)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
