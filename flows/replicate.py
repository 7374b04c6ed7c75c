"""Replication sweep: every bucket of a rule listed at all sites, compared, made equal, checked.

    open rules → for each bucket: claim → sweep shards side by side → finish → report

Started by a schedule, a webhook, the command line or Prefect's form. Killed and started again, it
goes on where it was. Task runs: 1 + buckets x (2 + shards), at most 33 for a rule of 4 buckets.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from entrepot.catalog.rules import Rule
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import EntrepotError, IntegrityError, InvalidInput, LimitExceeded
from entrepot.replication.run import BucketJob, Force, Outcome
from entrepot.replication.totals import COUNTS
from flows import artifacts, hints
from tasks.library import library_seconds
from tasks.replication import (
    apply_plan,
    begin_bucket,
    finish_bucket,
    open_rules,
    progress_of,
    refuse_bucket,
    release_bucket,
    rest,
    sweep_shard,
)

LOOK_EVERY_S = 2.0
SHARDS_AT_ONCE = 4  # threads; two cores are kept busy by two, four hide the endpoints' waits

BucketName = Annotated[str, Field(min_length=3, max_length=63)]


class ReplicateRequest(BaseModel):
    """What to sweep. Rules say where; a request can only narrow them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str = Field(
        default="",
        max_length=63,
        description="Name of the replication rule to sweep; empty for every enabled one",
    )
    buckets: list[BucketName] = Field(
        default=[], max_length=100, description="Only these of the rule's buckets; empty for all"
    )
    prefix: str = Field(
        default="", max_length=1024, description="Only keys that start with this; empty for all"
    )
    dry_run: bool = Field(default=False, description="Plan and count, but copy and mark nothing")
    save: bool = Field(default=False, description="Keep the plan of a dry run, to be approved")
    plan: str = Field(
        default="",
        max_length=36,
        pattern=r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$",
        description="Id of a saved plan: carry out that, and nothing else",
    )
    force_partial: bool = Field(
        default=False, description="Also fill a site that lists far less than when it was swept"
    )
    rejoin: bool = Field(
        default=False, description="Also merge sites that were apart for longer than the horizon"
    )
    attributes: bool = Field(
        default=False,
        description="Also compare tags and locks of versions that several sites hold, which "
        "otherwise is done once a day",
    )
    shards: int = Field(
        default=6, ge=1, le=32, description="Ranges that a bucket is cut into, swept side by side"
    )
    batch_size: int = Field(
        default=1000, ge=1, le=10_000, description="Objects copied and verified together"
    )
    workers: int = Field(
        default=16, ge=1, le=128, description="Objects in flight at once in each range"
    )

    @property
    def subject(self) -> str:
        """What is swept, in words."""
        return f"plan {self.plan}" if self.plan else self.rule or "every rule"

    @property
    def force(self) -> Force:
        """What is asked for in spite of guards, or of the time."""
        return Force(
            partial=self.force_partial,
            rejoin=self.rejoin,
            save=self.save,
            traits=self.attributes,
        )


class BucketReport(BaseModel):
    """What a sweep did to one bucket."""

    model_config = ConfigDict(frozen=True)

    rule: str
    bucket: str
    listed: int
    differing: int
    copied: int
    copied_bytes: int
    marked: int
    removed: int
    held: int
    altered: int
    deletes: int
    conflicts: int
    verified: int
    moved: int
    quarantined: int
    drifted: int
    failed: int
    resumed: bool
    seconds: float


class ReplicateReport(BaseModel):
    """What a run came to; ``library_s`` is the time in which the library was at work."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    buckets: tuple[BucketReport, ...]
    seconds: float
    library_s: float

    def total(self, name: str) -> int:
        """One count over all buckets."""
        return sum(int(getattr(bucket, name)) for bucket in self.buckets)


@flow(
    name="replicate",
    flow_run_name="replicate {request.subject}",
    description=__doc__,
    task_runner=ThreadPoolTaskRunner(max_workers=SHARDS_AT_ONCE),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def replicate(request: ReplicateRequest) -> ReplicateReport:
    """Make the buckets of one rule, or of all, equal at all of their sites.

    Args:
        request: Which rule, and how; left as it is, every enabled rule is swept
    """
    with hints.shown():
        return _replicate(request)


def _replicate(request: ReplicateRequest) -> ReplicateReport:
    if request.save and not request.dry_run:
        raise InvalidInput("only the plan of a dry run can be kept", hint="--dry-run --save")
    if request.plan:
        return _approved(request)
    began = SYSTEM_CLOCK.monotonic()
    bar = artifacts.Progress("replicate-progress", f"sweep of {request.subject}")
    work = _work(open_rules(request.rule), request)
    reports, findings, errors = [], [], []
    for number, (rule, bucket, prefix) in enumerate(work):

        def show(share: float, number: int = number) -> None:
            bar.show((number + share) / len(work))

        try:
            swept, found = _replicate_bucket(rule, bucket, prefix, request, show=show)
        except EntrepotError as error:  # the other buckets are swept all the same
            errors.append(error)
            why = f"{error}; {error.hint}"
            findings.append({"bucket": bucket, "key": "", "what": "not swept", "why": why})
            continue
        reports.append(swept)
        findings += found
    report = ReplicateReport(
        dry_run=request.dry_run,
        buckets=tuple(reports),
        seconds=SYSTEM_CLOCK.monotonic() - began,
        library_s=library_seconds(began),
    )
    bar.close()
    _publish(report, findings)
    if errors:
        raise errors[0]
    _check(report)
    return report


def _approved(request: ReplicateRequest) -> ReplicateReport:
    began = SYSTEM_CLOCK.monotonic()
    plan, outcome = apply_plan(request.plan, workers=request.workers)
    seconds = SYSTEM_CLOCK.monotonic() - began
    report = ReplicateReport(
        dry_run=False,
        buckets=(_bucket_report(plan.rule, outcome, resumed=False, seconds=seconds),),
        seconds=seconds,
        library_s=library_seconds(began),
    )
    _publish(report, [{"bucket": plan.bucket, **row} for row in outcome.findings])
    _check(report)
    return report


def _bucket_report(rule: str, outcome: Outcome, *, resumed: bool, seconds: float) -> BucketReport:
    return BucketReport(
        rule=rule,
        bucket=outcome.bucket,
        resumed=resumed,
        seconds=round(seconds, 3),
        **{name: outcome.totals.get(name, 0) for name in COUNTS},
    )


def _work(rules: Sequence[Rule], request: ReplicateRequest) -> list[tuple[Rule, str, str]]:
    """Each bucket to sweep, with the longer of the prefixes of its rule and of the request."""
    work = [
        (rule, bucket, max(rule.prefix, request.prefix, key=len))
        for rule in rules
        for bucket in rule.buckets
        if bucket in (request.buckets or rule.buckets)
        and (rule.prefix.startswith(request.prefix) or request.prefix.startswith(rule.prefix))
    ]
    hint = "entrepot replicate rule list"
    if request.prefix and not work:
        raise InvalidInput("no rule to sweep covers the prefix", hint=hint, prefix=request.prefix)
    if missing := sorted(set(request.buckets or ()) - {bucket for _, bucket, _ in work}):
        raise InvalidInput(f"in no rule to sweep: {', '.join(missing)}", hint=hint)
    return work


def _replicate_bucket(
    rule: Rule,
    bucket: str,
    prefix: str,
    request: ReplicateRequest,
    *,
    show: Callable[[float], None],
) -> tuple[BucketReport, list[dict[str, str]]]:
    if not request.dry_run:
        rest(rule)
    began = SYSTEM_CLOCK.monotonic()
    job = begin_bucket(
        rule,
        bucket,
        prefix=prefix,
        shards=request.shards,
        workers=request.workers,
        dry_run=request.dry_run,
        force=request.force,
    )
    try:
        outcomes = _sweep(job, rule.sites, request, show=show)
    except (IntegrityError, LimitExceeded) as error:
        with suppress(EntrepotError):  # a guard stopped it: the next run looks at it all again
            refuse_bucket(job, error)
        raise
    except BaseException:
        with suppress(EntrepotError):
            release_bucket(job)
        raise
    seconds = round(SYSTEM_CLOCK.monotonic() - began, 3)
    outcome = finish_bucket(job, outcomes, seconds=seconds)
    report = _bucket_report(rule.name, outcome, resumed=job.claim.resumed, seconds=seconds)
    if job.save:
        get_run_logger().info("plan %s is kept; entrepot replicate plans", job.claim.job_id)
    get_run_logger().info(
        "%s/%s: %d versions compared, %d copies (%d bytes), %d delete markers, %d verified, "
        "%d failed, in %.1f s%s",
        rule.name,
        bucket,
        report.listed,
        report.copied,
        report.copied_bytes,
        report.marked,
        report.verified,
        report.failed,
        seconds,
        ", resumed" if report.resumed else "",
    )
    return report, [{"bucket": bucket, **row} for row in outcome.findings]


def _sweep(
    job: BucketJob,
    site_names: Sequence[str],
    request: ReplicateRequest,
    *,
    show: Callable[[float], None],
) -> list[Outcome]:
    futures: list[PrefectFuture[Outcome]] = [
        sweep_shard.submit(
            job,
            shard,
            site_names=site_names,
            batch_size=request.batch_size,
            workers=request.workers,
            dry_run=request.dry_run,
        )
        for shard in job.shards
        if not shard.done
    ]
    while wait(futures, timeout=LOOK_EVERY_S).not_done:
        show(progress_of(job))
    return [future.result() for future in futures]


def _publish(report: ReplicateReport, findings: Sequence[dict[str, str]]) -> None:
    artifacts.table(
        "replicate-report",
        [bucket.model_dump() for bucket in report.buckets],
        f"{'**Dry run**: ' if report.dry_run else ''}{report.total('copied')} copies, "
        f"{report.total('marked')} delete markers, {report.total('listed')} versions compared "
        f"in {report.seconds:.1f} s",
    )
    if findings:
        artifacts.table(
            "replicate-findings",
            findings,
            "Keys that need a look, or that a dry run would touch (at most 100 in all)",
        )


def _check(report: ReplicateReport) -> None:
    if report.total("failed"):
        raise IntegrityError(
            f"{report.total('failed')} objects could not be replicated",
            hint="see the run's findings table, mend the cause, and run the deployment again",
        )
