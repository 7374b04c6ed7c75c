"""Usage of every tenant, bucket and prefix at every site, counted and recorded as of one instant.

    sites → for each: its buckets → count groups of buckets side by side → record → forget → report

Task runs: 2 + sites x (2 + groups), with at most 8 groups a site: 32 for three sites.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from entrepot.catalog.usage import UsageRow
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import InvalidInput
from entrepot.quota.account import Counted, merge_counts
from entrepot.quota.report import by_prefix, by_tenant, frame
from flows import artifacts, hints
from tasks.library import library_seconds
from tasks.usage import (
    Owned,
    count_buckets,
    forget_old,
    owned_buckets,
    record_site,
    site_names,
)

GROUPS_MAX = 8
COUNTS_AT_ONCE = 4


class AccountRequest(BaseModel):
    """What to count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: list[str] = Field(
        default=[], max_length=100, description="Only these sites; empty for all"
    )
    prefix_depth: int = Field(
        default=1, ge=0, le=5, description="Segments of a key that name a prefix; 0 for none"
    )


class TenantUsage(BaseModel):
    """What a tenant holds at one site."""

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    site: str
    current_bytes: int
    total_bytes: int
    objects: int
    versions: int
    delete_markers: int


class UsageReport(BaseModel):
    """What a run counted; ``library_s`` is the time in which the library was at work.

    ``missing`` are buckets, ``site/bucket``, that the catalog has and the site has not.
    """

    model_config = ConfigDict(frozen=True)

    as_of: datetime
    tenants: tuple[TenantUsage, ...]
    missing: tuple[str, ...]
    seconds: float
    library_s: float


@flow(
    name="account_usage",
    flow_run_name="account usage",
    description=__doc__,
    task_runner=ThreadPoolTaskRunner(max_workers=COUNTS_AT_ONCE),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def account_usage(request: AccountRequest) -> UsageReport:
    """Count what every tenant holds, and record it.

    Args:
        request: Which sites, and how deep; left as it is, everything is counted
    """
    with hints.shown():
        return _account_usage(request)


def _account_usage(request: AccountRequest) -> UsageReport:
    began, as_of = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.now()
    bar = artifacts.Progress("usage-progress", f"usage as of {as_of:%Y-%m-%d %H:%M:%S} UTC")
    known = site_names()
    names = [name for name in known if not request.sites or name in request.sites]
    if unknown := sorted(set(request.sites) - set(known)):
        raise InvalidInput(f"no such site: {', '.join(unknown)}", hint="entrepot site list")
    counts = {site: _count(site, owned_buckets(site), request) for site in names}
    accounts: dict[str, tuple[UsageRow, ...]] = {}
    missing: list[dict[str, str]] = []
    for number, (site, futures) in enumerate(counts.items(), start=1):
        counted = merge_counts([future.result() for future in futures])
        accounts[site] = counted.rows
        missing += [{"site": site, "bucket": bucket} for bucket in counted.missing]
        bar.show(number / (len(counts) + 1))
    before = {site: record_site(site, rows, as_of=as_of) for site, rows in accounts.items()}
    for site, rows in accounts.items():
        get_run_logger().info("%s: %d prefixes counted and recorded", site, len(rows))
    forgotten = forget_old()
    get_run_logger().info("forgotten: %s", forgotten)
    bar.close()
    tenants = _publish(accounts, before, missing, as_of=as_of)
    return UsageReport(
        as_of=as_of,
        tenants=tenants,
        missing=tuple(f"{each['site']}/{each['bucket']}" for each in missing),
        seconds=SYSTEM_CLOCK.monotonic() - began,
        library_s=library_seconds(began),
    )


def _count(
    site: str, buckets: Sequence[Owned], request: AccountRequest
) -> list[PrefectFuture[Counted]]:
    groups = [buckets[number::GROUPS_MAX] for number in range(min(GROUPS_MAX, len(buckets)))]
    return [count_buckets.submit(site, group, depth=request.prefix_depth) for group in groups]


def _publish(
    accounts: Mapping[str, Sequence[UsageRow]],
    before: Mapping[str, Sequence[UsageRow]],
    missing: Sequence[Mapping[str, str]],
    *,
    as_of: datetime,
) -> tuple[TenantUsage, ...]:
    now = frame(accounts)
    when = f"as of {as_of:%Y-%m-%d %H:%M:%S} UTC"
    artifacts.table("usage-tenants", by_tenant(now, frame(before)), f"Usage by tenant {when}")
    artifacts.table("usage-prefixes", by_prefix(now), f"The largest prefixes {when}")
    for each in missing:
        get_run_logger().warning("%s has no bucket %s: not counted", *each.values())
    if missing:
        artifacts.table("usage-missing", missing, f"Buckets that are not there {when}")
    sums = now.groupby(["tenant_id", "site"], as_index=False).sum(numeric_only=True)
    return tuple(TenantUsage.model_validate(row) for row in sums.to_dict("records"))
