"""Carrying out a saved plan: exactly that, and nothing where a key has moved since.

Each key is listed again just before; where any site holds something else of it than when the plan
was made, the key is reported and left to the next sweep. A plan that was cut short can be applied
again: what it did already is then among what has moved.
"""

import zlib
from collections.abc import Sequence
from uuid import UUID

from entrepot.catalog import jobs
from entrepot.catalog.agreed import agree_on
from entrepot.catalog.conflicts import record_conflicts
from entrepot.catalog.connect import Catalog
from entrepot.catalog.lease import Lease
from entrepot.catalog.plans import Plan, mark_applied, pages
from entrepot.catalog.states import JobState
from entrepot.replication.apply import Context
from entrepot.replication.ledger import as_row
from entrepot.replication.look import histories_of
from entrepot.replication.policy import Policy
from entrepot.replication.saved import SavedKey, load_page, seal_of
from entrepot.replication.sites import Site
from entrepot.replication.sweep import carry_out
from entrepot.replication.totals import Findings, Totals
from entrepot.replication.workers import side_by_side

KIND = "replicate-plan"
LEASE_S = 15.0
BATCH = 200
"""Keys looked at and then written together: a second or two, so that little moves in between."""


async def apply_plan(
    catalog: Catalog,
    sites: Sequence[Site],
    *,
    plan: Plan,
    policy: Policy,
    workers: int,
    holder: str,
    flow_run_id: str | None,
) -> tuple[Totals, Findings]:
    """Carry out a plan; the counts, and the keys that have moved.

    Raises:
        Busy: another run applies it.
        IntegrityError: the plan names sites that the rule does not have.
    """
    claim = await jobs.claim(
        catalog,
        kind=KIND,
        subject=str(plan.id),
        holder=holder,
        lease_s=LEASE_S,
        resume_within_s=0,
        flow_run_id=flow_run_id,
    )
    context = Context(
        sites=sites,
        bucket=plan.bucket,
        workers=workers,
        totals=Totals(),
        findings=Findings(),
        travels=policy.travels,
        tag_filter=policy.tag_filter,
    )
    async with Lease(catalog, claim, lease_s=LEASE_S) as lease:
        async for body in pages(catalog, plan_id=plan.id):
            page = list(load_page(zlib.decompress(body), sites))
            for start in range(0, len(page), BATCH):
                unmoved = await _unmoved(page[start : start + BATCH], context)
                lease.check()
                await _record(catalog, unmoved, plan=plan, job_id=claim.job_id)
                await carry_out(
                    [each.decision for each in unmoved],
                    prefix=plan.prefix,
                    after="",
                    listed=10**9,  # few keys of many: each is looked up alone
                    context=context,
                )
                await agree_on(
                    catalog, context.tagged, rule=plan.rule, bucket=plan.bucket, is_new=True
                )
                context.tagged.clear()
        await mark_applied(catalog, plan_id=plan.id)
        state = JobState.FAILED if context.totals.failed else JobState.COMPLETED
        report = {"totals": context.totals.as_dict(), "findings": context.findings.rows}
        await jobs.finish(catalog, claim, state=state, report=report)
    return context.totals, context.findings


async def _unmoved(keys: Sequence[SavedKey], context: Context) -> list[SavedKey]:
    waiting, found = iter(keys), set()

    async def work() -> None:
        for each in waiting:
            now = await histories_of(context.sites, context.bucket, each.key)
            if seal_of(each.key, now, context.sites) == each.seal:
                found.add(each.key)
                continue
            context.totals.moved += 1
            context.findings.note(
                key=each.key, what="moved", why="it was written since the plan was made; left alone"
            )

    await side_by_side(work() for _ in range(min(context.workers, len(keys))))
    context.totals.differing += len(keys)
    return [each for each in keys if each.key in found]


async def _record(catalog: Catalog, keys: Sequence[SavedKey], *, plan: Plan, job_id: UUID) -> None:
    rows = [as_row(each.conflict) for each in keys if each.conflict]
    await record_conflicts(catalog, rows, rule=plan.rule, bucket=plan.bucket, job_id=job_id)
