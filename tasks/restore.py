"""The steps of a restore, a task each."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect import runtime, task

from entrepot.backup.apply import Applied, apply_restore, find_plan
from entrepot.backup.open import open_vault
from entrepot.backup.planning import plan_restore, wanted
from entrepot.catalog.plans import Plan
from entrepot.config import load
from entrepot.objects.target import bucket_target
from tasks.library import catalog, objects, run
from tasks.replication import RETRY


@task(task_run_name="plan {bucket}", tags=["entrepot"], **RETRY)
def plan_bucket(
    vault: str,
    site: str,
    bucket: str,
    *,
    time: datetime | None,
    prefixes: tuple[str, ...],
    into: str,
) -> Plan:
    """A saved plan that brings a bucket back; nothing is changed."""
    return run(_plan(vault, site, bucket, time, prefixes=prefixes, into=into))


async def _plan(
    vault: str,
    site: str,
    bucket: str,
    time: datetime | None,
    *,
    prefixes: tuple[str, ...],
    into: str,
) -> Plan:
    config = await asyncio.to_thread(load)
    at_ms = round(time.timestamp() * 1000) if time else None
    async with open_vault(config, vault) as opened:
        want = await wanted(opened, vault, site=site, bucket=bucket, at_ms=at_ms, prefixes=prefixes)
        target = await bucket_target(await objects(site), into or bucket, prefixes=want.prefixes)
        return await plan_restore(await catalog(), opened, target, want, holder=_who()["holder"])


@task(task_run_name="apply {plan_id}", tags=["entrepot"], **RETRY)
def apply_saved(plan_id: UUID, *, back: bool) -> Applied:
    """Carry out a plan, or with ``back`` the one that undoes it."""
    return run(_apply(plan_id, back=back))


async def _apply(plan_id: UUID, *, back: bool) -> Applied:
    control = await catalog()
    plan = await find_plan(control, plan_id, back=back)
    target = await bucket_target(await objects(plan.totals["site"]), plan.bucket)
    async with AsyncExitStack() as stack:
        vault = None
        if name := plan.totals["vault"]:
            config = await asyncio.to_thread(load)
            vault = await stack.enter_async_context(open_vault(config, name))
        return await apply_restore(control, plan, target, vault=vault, **_who())


def _who() -> dict[str, Any]:
    return {"holder": f"flow run {runtime.flow_run.name}", "flow_run_id": runtime.flow_run.id}
