"""Every managed bucket held against its catalog: rows without objects, objects without rows.

    sites → the managed buckets of each → check them, four side by side → report

Nothing is removed. A stored version without a row is taken up: it may be all that is left of a
write. A row without a stored version is a loss, and the run ends as Failed so that somebody looks.
Task runs: sites + buckets, at most 100 of these.
"""

from collections.abc import Sequence

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from entrepot.errors import IntegrityError, InvalidInput
from entrepot.objects.check import Findings
from flows import artifacts, hints
from tasks.objects import check_bucket, managed_buckets
from tasks.usage import site_names

CHECKS_AT_ONCE = 4
BUCKETS_MAX = 100


class CheckRequest(BaseModel):
    """What to check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: list[str] = Field(
        default=[], max_length=100, description="Only these sites; empty for all"
    )
    buckets: list[str] = Field(
        default=[],
        max_length=BUCKETS_MAX,
        description="Only these buckets; empty for the first 100 of each site",
    )
    heal: bool = Field(default=True, description="Take up stored versions that have no row")


class CheckReport(BaseModel):
    """What a run found, added up."""

    model_config = ConfigDict(frozen=True)

    buckets: int
    versions: int
    orphans: int
    taken_up: int
    quarantined: int
    missing: int


@flow(
    name="check_catalog",
    flow_run_name="check catalog",
    description=__doc__,
    task_runner=ThreadPoolTaskRunner(max_workers=CHECKS_AT_ONCE),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def check_catalog(request: CheckRequest) -> CheckReport:
    """Hold every managed bucket against its catalog.

    Args:
        request: Which sites and buckets; left as it is, all are checked and healed
    """
    with hints.shown():
        return _check_catalog(request)


def _check_catalog(request: CheckRequest) -> CheckReport:
    bar = artifacts.Progress("catalog-progress", "managed buckets against their catalogs")
    known = site_names()
    if unknown := sorted(set(request.sites) - set(known)):
        raise InvalidInput(f"no such site: {', '.join(unknown)}", hint="entrepot site list")
    places = [
        (site, bucket)
        for site in known
        if not request.sites or site in request.sites
        for bucket in managed_buckets(site)[:BUCKETS_MAX]
        if not request.buckets or bucket in request.buckets
    ]
    futures = [check_bucket.submit(*place, heal=request.heal) for place in places]
    found = []
    for number, future in enumerate(futures, start=1):
        found.append(future.result())
        bar.show(number / (len(futures) + 1))
    report = _publish(places, found)
    bar.close()
    get_run_logger().info("%d buckets, %d versions", report.buckets, report.versions)
    if report.missing:
        raise IntegrityError(
            f"{report.missing} versions have a row and no object",
            hint="see the table catalog-missing; another site or a backup may have them",
        )
    return report


def _publish(places: Sequence[tuple[str, str]], found: Sequence[Findings]) -> CheckReport:
    named = list(zip(places, found, strict=True))
    rows = [
        {
            "site": site,
            "bucket": bucket,
            "versions": each.versions,
            "orphans": each.orphan_count,
            "taken_up": each.taken_up,
            "quarantined": each.quarantined,
            "missing": each.missing_count,
        }
        for (site, bucket), each in named
    ]
    artifacts.table("catalog-check", rows, "Managed buckets against their catalogs")
    missing = [
        {"site": site, "bucket": bucket, "key": lost.key, "version_id": lost.version_id}
        for (site, bucket), each in named
        for lost in each.missing
    ]
    artifacts.table("catalog-missing", missing, "Versions that have a row and no object")
    return CheckReport(
        buckets=len(found),
        versions=sum(each.versions for each in found),
        orphans=sum(each.orphan_count for each in found),
        taken_up=sum(each.taken_up for each in found),
        quarantined=sum(each.quarantined for each in found),
        missing=sum(each.missing_count for each in found),
    )
