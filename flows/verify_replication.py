"""Whether the sites of rules hold the same, by digests of whole listings; a certificate of each.

    rules → for each: compare its buckets, two side by side → sign → certificate

Nothing is changed. A rule whose sites differ makes the run Failed, after its certificate was kept:
that they differ is evidence as well. Task runs: 1 + buckets + rules, at most 100 buckets of a rule.
"""

import json
from collections.abc import Sequence

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from entrepot.catalog.rules import Rule
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import EntrepotError, IntegrityError
from entrepot.replication.proof.evidence import wanted_of
from entrepot.replication.proof.record import SAMPLE_ALL, Aspect, Level
from entrepot.replication.proof.statement import Verdict, Wanted, finish
from flows import artifacts, hints
from tasks.proof import begin_verdict, compare, open_rule, sign_verdict
from tasks.replication import open_rules

COMPARED_AT_ONCE = 2  # buckets: the sites' listings keep two cores busy
BUCKETS_MAX = 100


class VerifyRequest(BaseModel):
    """What to compare, and how deep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str = Field(
        default="", max_length=63, description="Name of the rule; empty for every enabled one"
    )
    buckets: list[str] = Field(
        default=[], max_length=BUCKETS_MAX, description="Only these of its buckets; empty for all"
    )
    prefix: str = Field(
        default="", max_length=1024, description="Only keys that start with this; empty for all"
    )
    level: Level = Field(
        default=Level.ATTRIBUTES,
        description="listing: ids, times, sizes, ETags; attributes: metadata, tags and locks too; "
        "content: the bytes as well",
    )
    sample: int = Field(
        default=SAMPLE_ALL,
        ge=0,
        le=SAMPLE_ALL,
        description="Of 1,000 versions, how many are read at level content",
    )
    history: bool = Field(
        default=True, description="Compare noncurrent versions and delete markers as well"
    )
    workers: int = Field(default=16, ge=1, le=128, description="Requests at once to each site")
    settle_s: float = Field(
        default=2.0,
        ge=0,
        le=300,
        description="Seconds to wait before a key that differs is looked at again",
    )


class RuleReport(BaseModel):
    """What the comparison of a rule came to (``keys`` would make Prefect take it for a mapping)."""

    model_config = ConfigDict(frozen=True)

    rule: str
    identical: bool
    key_count: int
    version_count: int
    differing: int
    moving: int
    digest: str | None
    seconds: float


class VerifyReport(BaseModel):
    """What a run found."""

    model_config = ConfigDict(frozen=True)

    rules: tuple[RuleReport, ...]


@flow(
    name="verify_replication",
    flow_run_name="verify {request.rule}",
    description=__doc__,
    task_runner=ThreadPoolTaskRunner(max_workers=COMPARED_AT_ONCE),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def verify_replication(request: VerifyRequest) -> VerifyReport:
    """Compare the sites of one rule, or of all, and certify what was found.

    Args:
        request: Which rule, and how deep; left as it is, every enabled one with its attributes
    """
    with hints.shown():
        return _verify_replication(request)


def _verify_replication(request: VerifyRequest) -> VerifyReport:
    bar = artifacts.Progress("verify-progress", f"comparison of {request.rule or 'every rule'}")
    rules = (open_rule(request.rule),) if request.rule else open_rules("")
    reports, errors = [], []
    for number, rule in enumerate(rules, start=1):
        try:
            reports.append(_verify(rule, request))
        except EntrepotError as error:  # the other rules are compared all the same
            errors.append(error)
        bar.show(number / len(rules))
    artifacts.table(
        "verify-report", [report.model_dump() for report in reports], "Sites of rules, compared"
    )
    bar.close()
    if errors:
        raise errors[0]
    report = VerifyReport(rules=tuple(reports))
    if apart := [each.rule for each in reports if not each.identical]:
        raise IntegrityError(
            f"sites differ: {', '.join(apart)}",
            hint=f"see the table verify-differences, or: entrepot replicate verify {apart[0]}",
        )
    return report


def _verify(rule: Rule, request: VerifyRequest) -> RuleReport:
    wanted = _wanted(rule, request)
    verdict = begin_verdict(rule, wanted)
    futures = [compare.submit(rule, bucket, wanted) for bucket in wanted.buckets[:BUCKETS_MAX]]
    found = [future.result() for future in futures]
    verdict = finish(verdict, found, now=SYSTEM_CLOCK.now())
    document = sign_verdict(verdict)
    _publish(verdict, document)
    report = RuleReport(
        rule=rule.name,
        identical=verdict.is_identical,
        key_count=sum(bucket.keys for bucket in verdict.buckets),
        version_count=sum(bucket.versions for bucket in verdict.buckets),
        differing=sum(bucket.differing for bucket in verdict.buckets),
        moving=sum(len(bucket.moving) for bucket in verdict.buckets),
        digest=verdict.digest,
        seconds=round((verdict.finished - verdict.started).total_seconds(), 3),
    )
    get_run_logger().info(
        "%s: %s, %d keys, %d versions, %d differing, %d moving, in %.1f s",
        report.rule,
        "identical" if report.identical else "not identical",
        report.key_count,
        report.version_count,
        report.differing,
        report.moving,
        report.seconds,
    )
    return report


def _wanted(rule: Rule, request: VerifyRequest) -> Wanted:
    wanted = wanted_of(
        rule,
        buckets=request.buckets,
        prefix=request.prefix,
        level=request.level,
        sample=request.sample,
        workers=request.workers,
        settle_s=request.settle_s,
    )
    return wanted if request.history else wanted.without(Aspect.HISTORY)


def _publish(verdict: Verdict, document: bytes) -> None:
    told = verdict.as_json()
    rows: Sequence[dict[str, object]] = [
        {**each, "sites": json.dumps(each["sites"], ensure_ascii=False)}
        for each in told["differences"]
    ]
    if rows:
        artifacts.table(
            "verify-differences", rows, f"What differs in rule {verdict.wanted.rule}, some of it"
        )
    artifacts.markdown(
        f"certificate-{verdict.wanted.rule}",
        _certificate(verdict, document),
        f"Certificate of rule {verdict.wanted.rule}",
    )


def _certificate(verdict: Verdict, document: bytes) -> str:
    """The certificate for a person, and below it as it was signed."""
    answer = "identical" if verdict.is_identical else "**not identical**"
    names = ", ".join(str(site["name"]) for site in verdict.sites)
    lines = [
        f"# Rule {verdict.wanted.rule}: {answer}",
        "",
        f"{names}, {verdict.started:%Y-%m-%d %H:%M:%S} to {verdict.finished:%H:%M:%S} UTC, "
        f"level {verdict.wanted.level}. Digest `{verdict.digest}`.",
        "",
        *(f"- {limit}" for limit in verdict.limits),
        "",
        "Save the next line as a file and type `entrepot replicate check-certificate FILE`.",
        "",
        "```json",
        document.decode().rstrip("\n"),
        "```",
    ]
    return "\n".join(lines)
