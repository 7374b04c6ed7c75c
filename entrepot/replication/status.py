"""How replication stands: each rule, each of its buckets, and since when that is so.

Invariant: what is shown was read from Postgres just now, nothing is remembered. A bucket's
``synced_as_of`` is the start of its last completed sweep: every write that was there by then and is
of the rule is at all of its sites.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import Lag
from entrepot.catalog.overview import Latest, latest_jobs
from entrepot.catalog.rules import Rule, list_rules
from entrepot.catalog.states import JobState
from entrepot.catalog.streams import Window, last_windows
from entrepot.replication.hours import Wait, may_run
from entrepot.replication.promises import streams
from entrepot.replication.run import KIND
from entrepot.replication.stream.engine import Route
from entrepot.terms import Mode

COUNTS: Final = ("listed", "differing", "copied", "marked", "verified", "quarantined", "failed")


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobStatus(_Shown):
    """The last sweep of a bucket."""

    state: JobState = Field(description="running, completed, failed or cancelled")
    started_at: datetime = Field(description="When it began")
    finished_at: datetime | None = Field(description="When it ended")
    flow_run_id: str | None = Field(description="The run in Prefect")
    epoch: int = Field(description="How often the job was taken up")
    counts: dict[str, int] = Field(description="What it did so far")


class BucketStatus(_Shown):
    """One bucket of a rule."""

    bucket: str = Field(description="Its name at every site")
    last_job: JobStatus | None = Field(description="The last sweep; null before the first")
    synced_as_of: datetime | None = Field(
        description="Writes until then are at every site: the start of the last completed sweep"
    )
    age_s: float | None = Field(description="Seconds since then")


class DirectionStatus(_Shown):
    """What one site has not yet brought to another."""

    source: str = Field(description="Where it was written")
    target: str = Field(description="Where it is missing")
    reachable: bool = Field(
        description="Whether the source's catalog answers; else nobody knows, and the rest is null"
    )
    lag_s: float | None = Field(description="Age of the oldest write that waits; 0: none does")
    waiting: int | None = Field(description="How many wait")
    dead_letters: int | None = Field(description="How many were given up and wait for a person")
    shipped: int | None = Field(description="How many were brought, of all time")
    errors: int | None = Field(description="How many tries failed, of all time")


class WindowStatus(_Shown):
    """The last few seconds of a stream, as it told them itself."""

    at: datetime = Field(description="When they ended")
    seconds: float = Field(description="How long they were")
    shipped: int = Field(description="How many writes were brought in them")
    shipped_bytes: int = Field(description="Their bytes")
    errors: int = Field(description="How many tries failed in them")


class RuleStatus(_Shown):
    """One rule and its buckets."""

    name: str = Field(description="The rule")
    mode: Mode = Field(description="active-active or one-way")
    sites: tuple[str, ...] = Field(description="Where it keeps buckets equal")
    prefix: str = Field(description="Only keys that start with this")
    tag_filter: dict[str, str] = Field(description="Only versions that bear all of these tags")
    enabled: bool = Field(description="Whether it is switched on")
    paused: bool = Field(description="Whether somebody paused it")
    may_run: bool = Field(description="Whether it may run now")
    waits_until: datetime | None = Field(description="When it may run again, where that is known")
    waits_for: str = Field(description="Why it may not run now; empty where it may")
    rpo_s: int = Field(description="Seconds within which a write shall be at every site")
    rpo_met: bool | None = Field(
        description="Whether every bucket's age is within rpo_s; null before the first sweep"
    )
    buckets: tuple[BucketStatus, ...] = Field(description="Each bucket of the rule")
    streamed: bool = Field(description="Whether a stream keeps it beside the sweeps")
    directions: tuple[DirectionStatus, ...] = Field(
        description="How far the stream is behind, by direction; empty before it has begun"
    )
    last_window: WindowStatus | None = Field(
        description="What the stream did last; null where it was not at work for a day"
    )


class Status(_Shown):
    """All rules at one instant."""

    as_of: datetime = Field(description="The gateway's clock")
    rules: tuple[RuleStatus, ...] = Field(description="Every rule, by name")


Lags = Mapping[str, Sequence[Lag] | None]
"""What each site has not brought to others; None where its catalog does not answer."""


async def read_status(catalog: Catalog, *, lags: Lags, now: datetime) -> Status:
    """How every rule stands."""
    rules = await list_rules(catalog)
    subjects = [subject_of(rule, bucket) for rule in rules for bucket in rule.buckets]
    latest = await latest_jobs(catalog, kind=KIND, subjects=subjects) if subjects else {}
    last = await last_windows(catalog, [rule.name for rule in rules])
    return Status(
        as_of=now,
        rules=tuple(_rule(rule, latest, lags, last.get(rule.name), now) for rule in rules),
    )


def subject_of(rule: Rule, bucket: str) -> str:
    """The subject of the jobs that sweep a bucket of a rule whole."""
    return f"{rule.name}/{bucket}/{rule.prefix}"


def _rule(
    rule: Rule, latest: Mapping[str, Latest], lags: Lags, window: Window | None, now: datetime
) -> RuleStatus:
    answer = may_run(rule, now)
    waits = answer if isinstance(answer, Wait) else None
    buckets = tuple(
        _bucket(bucket, latest.get(subject_of(rule, bucket)), now) for bucket in rule.buckets
    )
    ages = [bucket.age_s for bucket in buckets if bucket.age_s is not None]
    return RuleStatus(
        name=rule.name,
        mode=rule.mode,
        sites=rule.sites,
        prefix=rule.prefix,
        tag_filter=rule.tag_filter,
        enabled=rule.enabled,
        paused=rule.paused,
        may_run=waits is None,
        waits_until=waits.until if waits else None,
        waits_for=waits.why if waits else "",
        rpo_s=rule.rpo_s,
        rpo_met=max(ages) <= rule.rpo_s if len(ages) == len(buckets) else None,
        buckets=buckets,
        streamed=streams(rule),
        directions=_directions(rule, lags),
        last_window=_window(window),
    )


def _directions(rule: Rule, lags: Lags) -> tuple[DirectionStatus, ...]:
    if not streams(rule):
        return ()
    found = []
    for each in Route.of(rule).directions:
        way = {"source": each.source, "target": each.target}
        at_source = lags.get(each.source)
        if at_source is None:
            unknown = dict.fromkeys(("lag_s", "waiting", "dead_letters", "shipped", "errors"))
            found.append(DirectionStatus.model_validate({**way, "reachable": False, **unknown}))
            continue
        found += [
            DirectionStatus(
                **way,
                reachable=True,
                lag_s=lag.lag_s,
                waiting=lag.depth,
                dead_letters=lag.dead,
                shipped=lag.shipped,
                errors=lag.errors,
            )
            for lag in at_source
            if (lag.rule, lag.target) == (rule.name, each.target)
        ]
    return tuple(found)


def _window(last: Window | None) -> WindowStatus | None:
    if last is None:
        return None
    return WindowStatus(**{name: getattr(last, name) for name in WindowStatus.model_fields})


def _bucket(bucket: str, latest: Latest | None, now: datetime) -> BucketStatus:
    if latest is None:
        return BucketStatus(bucket=bucket, last_job=None, synced_as_of=None, age_s=None)
    since = latest.completed_since
    return BucketStatus(
        bucket=bucket,
        last_job=JobStatus(
            state=latest.state,
            started_at=latest.started_at,
            finished_at=latest.finished_at,
            flow_run_id=latest.flow_run_id,
            epoch=latest.epoch,
            counts={name: latest.counts.get(name, 0) for name in COUNTS},
        ),
        synced_as_of=since,
        age_s=max(0.0, (now - since).total_seconds()) if since else None,
    )
