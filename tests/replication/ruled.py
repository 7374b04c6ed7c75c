"""Runs of a rule with a policy, whose jobs a guard may close."""

from collections.abc import Sequence
from typing import Any

from entrepot.catalog.conflicts import Conflict, list_conflicts
from entrepot.errors import (
    EntrepotError,
)
from entrepot.replication import run as replication
from entrepot.replication.policy import Policy
from tests.replication.test_run import Runner


class Ruled(Runner):
    """Begins, sweeps and finishes runs; a run that was stopped is closed as Failed."""

    policy = Policy()

    async def run(self, *, force: replication.Force | None = None, **more: Any) -> Any:
        job = await self.begin(policy=self.policy, force=force, **more)
        dry_run = bool(more.get("dry_run", False))
        try:
            outcomes = await self.sweep(job, dry_run=dry_run, batch_size=1000)
        except EntrepotError as error:
            await replication.refuse(self.catalog, job=job, error=error)
            raise
        return job, await self.finish(job, outcomes)

    async def ledger(self) -> list[Conflict]:
        found = await list_conflicts(self.catalog, limit=1000)
        return [each for each in found if each.bucket == self.world.bucket][::-1]


async def conflicting(work: Ruled, *, sites: Sequence[int] = (0, 1)) -> None:
    """One key that both sites change."""
    work.world.put(0, "k", b"common")
    await work.run()
    for site in sites:
        work.world.put(site, "k", f"by {site}".encode())
