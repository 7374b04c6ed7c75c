"""Replication stream: writes go to the other sites of their rules at once.

    rules → one stream each, side by side → until the next run is ready to take over

A run is started every ten minutes and waits until the run before gives way, so there is no gap; one
that dies is followed at once. Each window of a few seconds is reported, never each object. Task
runs: 1, and 1 for each rule and for each change of it.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from time import sleep

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import RetryableError
from entrepot.replication.stream.channel import Counts
from entrepot.replication.stream.chart import chart
from entrepot.replication.stream.engine import Ended, Route
from flows import artifacts, hints
from tasks.stream import (
    Hands,
    aim_ms,
    forget_rules,
    hands_of,
    routes_of,
    stream_rule,
    windows_of,
)

RULES_MAX = 16
"""Streams of one run, a thread each; further rules get runs of their own by name."""

SHOW_EVERY_S = 10.0
LOOK_EVERY_S = 2.0
TAKE_BACK_S = 30.0
"""A rule that was handed over so long ago is taken back where nobody works on it any more."""
STAY_S = TAKE_BACK_S + SHOW_EVERY_S
"""How long a run without any rule waits for one that nobody has: another run may be about to."""
DAY_S = 86_400


class StreamRequest(BaseModel):
    """What to stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str = Field(
        default="", max_length=63, description="Name of one rule; empty for every enabled one"
    )
    for_s: int = Field(
        default=DAY_S,
        ge=1,
        le=7 * DAY_S,
        description="Seconds after which the run ends though no other one waits",
    )

    @property
    def subject(self) -> str:
        """What is streamed, in words."""
        return self.rule or "every rule"


class StreamReport(BaseModel):
    """What a run did, added up."""

    model_config = ConfigDict(frozen=True)

    rules: int
    shipped: int
    shipped_bytes: int
    errors: int
    dead: int


@flow(
    name="replicate_stream",
    flow_run_name="stream {request.subject}",
    description=__doc__,
    task_runner=ThreadPoolTaskRunner(max_workers=RULES_MAX),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def replicate_stream(request: StreamRequest) -> StreamReport:
    """Bring writes to the other sites until another run takes over.

    Args:
        request: Which rule, and for how long; left as it is, every enabled rule
    """
    with hints.shown():
        return _stream(request)


def _stream(request: StreamRequest) -> StreamReport:
    ends_at = SYSTEM_CLOCK.monotonic() + request.for_s
    forget_rules()
    work = _Work(ends_at, Hands.ALONE if request.rule else Hands.EVERY)
    work.begin(routes_of(request.rule))
    while work.streams or work.may_get_back():
        if work.streams:
            wait(list(work.streams.values()), timeout=SHOW_EVERY_S)
        else:
            sleep(LOOK_EVERY_S)
        work.show()
        work.collect()
        with suppress(RetryableError):
            work.begin(routes_of(request.rule))
    return _report(work.counts)


class _Work:
    """The streams of a run: begun where a rule is new, and counted when they have ended."""

    def __init__(self, ends_at: float, hands: Hands) -> None:
        self.streams: dict[str, PrefectFuture[tuple[Counts, Ended]]] = {}
        self.counts: dict[str, Counts] = {}
        self._shown: dict[str, artifacts.Living] = {}
        self._handed_over: dict[str, float] = {}
        self._ends_at, self._hands = ends_at, hands

    def begin(self, routes: Sequence[Route]) -> None:
        """Start what is not at work."""
        for route in routes:
            left_s = self._ends_at - SYSTEM_CLOCK.monotonic()
            if len(self.streams) >= RULES_MAX or left_s <= 0 or not self._is_free(route.rule):
                continue
            self.streams[route.rule] = stream_rule.submit(route, for_s=left_s, hands=self._hands)
            if route.rule not in self._shown:
                self._shown[route.rule] = artifacts.Living(
                    f"stream-{route.rule}", f"stream of {route.rule}"
                )

    def _is_free(self, rule: str) -> bool:
        if rule in self.streams:
            return False
        since = self._handed_over.get(rule)
        if since is None:
            return True
        is_over = SYSTEM_CLOCK.monotonic() - since > TAKE_BACK_S
        return is_over and hands_of(rule) is Hands.NOBODY

    def may_get_back(self) -> bool:
        """Whether to stay for a rule that a run of it alone has, or had until just now."""
        now = SYSTEM_CLOCK.monotonic()
        if self._hands is Hands.ALONE or now >= self._ends_at:
            return False
        for rule in self._handed_over:
            with suppress(RetryableError):
                if (hands := hands_of(rule)) is Hands.ALONE:
                    self._handed_over[rule] = now
                elif hands is Hands.EVERY:
                    self._handed_over[rule] = -STAY_S
        return any(now - since < STAY_S for since in self._handed_over.values())

    def collect(self) -> None:
        """Count those that have ended; one that was changed may begin anew."""
        for rule, future in list(self.streams.items()):
            if not future.state.is_final():
                continue
            del self.streams[rule]
            counts, why = future.result()
            self.counts[rule] = self.counts.get(rule, Counts()) + counts
            if why is not Ended.CHANGED:
                self._handed_over[rule] = SYSTEM_CLOCK.monotonic()

    def show(self) -> None:
        """Write the charts anew."""
        for rule, living in self._shown.items():
            with suppress(RetryableError):
                lately = windows_of(rule, within=timedelta(hours=1))
                living.show(chart(lately, now=SYSTEM_CLOCK.now(), target_ms=aim_ms()))


def _report(counts: "dict[str, Counts]") -> StreamReport:
    rows = [
        {
            "rule": rule,
            "shipped": each.shipped,
            "shipped_bytes": each.shipped_bytes,
            "errors": each.errors,
            "dead": each.dead,
        }
        for rule, each in counts.items()
    ]
    if rows:
        artifacts.table("stream-report", rows, "What this run brought to other sites")
    total = _sum(counts.values())
    get_run_logger().info("%d rules, %d brought", len(rows), total.shipped)
    return StreamReport(
        rules=len(rows),
        shipped=total.shipped,
        shipped_bytes=total.shipped_bytes,
        errors=total.errors,
        dead=total.dead,
    )


def _sum(counts: Iterable[Counts]) -> Counts:
    return sum(counts, start=Counts())
