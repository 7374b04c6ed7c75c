"""The steps of a usage account, a task each."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from prefect import task

from entrepot.catalog.buckets import list_buckets
from entrepot.catalog.jobs import prune_jobs
from entrepot.catalog.plans import prune_plans
from entrepot.catalog.removals import prune_removals
from entrepot.catalog.rules import list_rules
from entrepot.catalog.sites import list_sites
from entrepot.catalog.usage import UsageRow, latest_usage, prune_usage, record_usage
from entrepot.clock import SYSTEM_CLOCK
from entrepot.quota import account
from entrepot.quota.account import Counted
from tasks.library import catalog, run, sites
from tasks.replication import RETRY, SHORT_S

LISTINGS_AT_ONCE = 8

KEEP_JOBS = timedelta(days=90)
KEEP_PLANS = timedelta(days=30)
KEEP_REMOVALS = timedelta(days=60)
"""At least; twice the longest horizon of a rule if that is more."""

Owned = tuple[str, str]
"""A bucket and the tenant that owns it."""


@task(task_run_name="sites", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def site_names() -> tuple[str, ...]:
    """Every site of the control catalog, by rank."""

    async def read() -> tuple[str, ...]:
        known = await list_sites(await catalog())
        return tuple(site.name for site in sorted(known, key=lambda site: site.rank))

    return run(read())


@task(task_run_name="buckets of {site}", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def owned_buckets(site: str) -> tuple[Owned, ...]:
    """The buckets that the site catalog knows, with their owners."""

    async def read() -> tuple[Owned, ...]:
        return tuple(
            (each.name, each.tenant_id) for each in await list_buckets(await catalog(site))
        )

    return run(read())


@task(task_run_name="count {site}", tags=["entrepot"], **RETRY)
def count_buckets(site: str, buckets: Sequence[Owned], *, depth: int) -> Counted:
    """Count some buckets of a site, one after the other."""

    async def count() -> Counted:
        (opened,) = await sites([site], workers=LISTINGS_AT_ONCE)
        return await account.count_buckets(opened.store, buckets, depth=depth)

    return run(count())


@task(task_run_name="record {site}", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def record_site(site: str, rows: Sequence[UsageRow], *, as_of: datetime) -> tuple[UsageRow, ...]:
    """Store a site's account, and drop those that are past their time.

    Returns the rows of the account before, for comparison.
    """

    async def record() -> tuple[UsageRow, ...]:
        before = await latest_usage(await catalog(site))
        await record_usage(await catalog(site), as_of=as_of, rows=rows)
        await prune_usage(await catalog(site), now=SYSTEM_CLOCK.now())
        return before.rows if before else ()

    return run(record())


@task(task_run_name="forget", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def forget_old() -> dict[str, int]:
    """Drop what is past its time from the control catalog; how many of each."""

    async def forget() -> dict[str, int]:
        control = await catalog()
        longest_s = max((each.tombstone_horizon_s for each in await list_rules(control)), default=0)
        removals = max(KEEP_REMOVALS, 2 * timedelta(seconds=longest_s))
        return {
            "jobs": await prune_jobs(control, older_than=KEEP_JOBS),
            "plans": await prune_plans(control, older_than=KEEP_PLANS),
            "removals": await prune_removals(control, older_than=removals),
        }

    return run(forget())
