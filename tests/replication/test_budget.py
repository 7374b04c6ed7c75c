"""A budget that many share: never more than the rate, whoever asks, stalls or dies.

Most of it in virtual time; the last tests with real processes over a real Postgres.
"""

import asyncio
import heapq
import json
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.catalog.budgets import QUEUE_MAX_S, Reserved, reserve
from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.rules import delete_rule, save_rule
from entrepot.catalog.sites import upsert_site
from entrepot.clock import new_id
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import NotFound, Unavailable
from entrepot.replication.budget import BURST_S, SLICE_S, Budget
from entrepot.timetable import Rate


class VirtualTime:
    """A clock and a sleep that take no time; the soonest sleeper wakes when all others wait."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + seconds, next(self._number), woken))
        await woken

    async def run(self, *works: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.ensure_future(work) for work in works]
        while not all(task.done() for task in tasks):
            for _ in range(3 * len(tasks) + 10):
                await asyncio.sleep(0)
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if self._sleepers:
                self.now_s, _, woken = heapq.heappop(self._sleepers)
                woken.set_result(None)
        for task in tasks:
            if not task.cancelled():
                task.result()


class Row:
    """What the one row in Postgres does."""

    def __init__(self, time: VirtualTime) -> None:
        self.time, self.until, self.touched = time, {"bytes": 0.0, "requests": 0.0}, 0

    async def __call__(self, *, bytes_s: float = 0.0, requests_s: float = 0.0) -> Reserved:
        self.touched += 1
        waits = []
        for kind, span_s in (("bytes", bytes_s), ("requests", requests_s)):
            start = max(self.until[kind], self.time.now_s)
            self.until[kind] = start + span_s
            waits.append(start - self.time.now_s)
        return Reserved(*waits)


Spent = list[tuple[float, int]]


def check_spent(spent: Spent, *, per_s: float, lumps: int, slack_s: float = 0.0) -> None:
    """In no window more than rate x time + burst, and what each process sends in one lump."""
    total, lowest = 0, float("inf")  # of what was spent before a window, less the rate until then
    for at, amount in sorted(spent):
        lowest = min(lowest, total - per_s * at)
        total += amount
        over = total - per_s * at - lowest - per_s * (BURST_S + slack_s) - lumps
        assert over <= 1e-6, (at, over)


works = st.lists(
    st.tuples(st.floats(0, 3, allow_nan=False), st.integers(1, 400)), min_size=1, max_size=8
)


@settings(max_examples=60)
@given(
    st.lists(works, min_size=1, max_size=4),
    st.integers(1, 300),
    st.lists(st.floats(0, 10, allow_nan=False), max_size=3),
    st.booleans(),
)
def test_no_window_holds_more_than_the_rate_and_the_burst(
    workers: list[list[tuple[float, int]]], per_s: int, deaths: list[float], one_by_one: bool
) -> None:
    """Workers of several processes, some of which die at any moment."""
    largest = 1 if one_by_one else max(amount for steps in workers for _, amount in steps)
    clock = VirtualTime()
    row = Row(clock)
    spent: Spent = []

    async def work(steps: list[tuple[float, int]]) -> None:
        budget = Budget(row, rate=lambda: Rate(None, per_s), clock=clock, sleep=clock.sleep)
        for pause_s, amount in steps:
            await clock.sleep(pause_s)
            for take in [1] * min(amount, 40) if one_by_one else [amount]:
                await budget.take(requests=take)
                spent.append((clock.now_s, take))

    async def die(task: "asyncio.Task[None]", after_s: float) -> None:
        await clock.sleep(after_s)
        task.cancel()

    async def main() -> None:
        tasks = [asyncio.ensure_future(work(steps)) for steps in workers]
        killers = [die(task, after_s) for task, after_s in zip(tasks, deaths, strict=False)]

        async def ended(task: "asyncio.Task[None]") -> None:
            await asyncio.wait([task])

        await clock.run(*killers, *map(ended, tasks))

    asyncio.run(main())
    check_spent(spent, per_s=per_s, lumps=largest * len(workers))


def test_a_rate_is_used_up_by_one_worker_and_by_many() -> None:
    for workers in (1, 3):
        clock = VirtualTime()
        row = Row(clock)

        async def work(row: Row = row, clock: VirtualTime = clock, share: int = workers) -> None:
            budget = Budget(row, rate=lambda: Rate(None, 1000), clock=clock, sleep=clock.sleep)
            for _ in range(12_000 // share):
                await budget.take(requests=1)

        asyncio.run(clock.run(*(work() for _ in range(workers))))
        assert 11.0 <= clock.now_s <= 12.5
        # Twice a second each, and ten times while a slice doubles from one request on.
        assert row.touched <= 12 / SLICE_S + 12 * workers


def test_an_idle_worker_does_not_take_what_it_will_not_use() -> None:
    clock = VirtualTime()
    row = Row(clock)
    done: list[int] = []

    async def idle() -> None:
        budget = Budget(row, rate=lambda: Rate(None, 100), clock=clock, sleep=clock.sleep)
        for _ in range(20):
            await budget.take(requests=1)
            await clock.sleep(1.0)

    async def busy() -> None:
        budget = Budget(row, rate=lambda: Rate(None, 100), clock=clock, sleep=clock.sleep)
        while clock.now_s < 20:
            await budget.take(requests=1)
            done.append(1)

    asyncio.run(clock.run(busy(), *(idle() for _ in range(10))))
    assert len(done) >= 0.8 * 20 * 100 - 10 * 20


def test_bytes_and_requests_wait_for_themselves_only() -> None:
    clock = VirtualTime()
    row = Row(clock)
    budget = Budget(row, rate=lambda: Rate(10_000, 1000), clock=clock, sleep=clock.sleep)
    ends: dict[str, float] = {}

    async def large() -> None:
        await budget.take(size_bytes=100_000)
        ends["large"] = clock.now_s

    async def small() -> None:
        await budget.take(requests=10)
        ends["small"] = clock.now_s

    asyncio.run(clock.run(large(), small()))
    assert ends["small"] < 0.1
    assert 9.0 <= ends["large"] <= 10.0


def test_a_rate_that_changes_holds_from_the_next_slice_on() -> None:
    clock = VirtualTime()
    row = Row(clock)
    rates = [Rate(None, 100)]
    budget = Budget(row, rate=lambda: rates[0], clock=clock, sleep=clock.sleep)

    async def work() -> None:
        await budget.take(requests=500)
        assert 4.0 <= clock.now_s <= 5.0
        rates[0] = Rate()
        await budget.take(requests=1_000_000)
        assert clock.now_s <= 5.0
        rates[0] = Rate(None, 10)
        began = clock.now_s
        await budget.take(requests=100)
        assert clock.now_s - began >= 4.0

    asyncio.run(clock.run(work()))


async def test_where_the_budget_cannot_be_asked_nothing_may_be_sent() -> None:
    async def away(**_spans: float) -> Reserved:
        raise Unavailable("the catalog cannot be reached")

    budget = Budget(away, rate=lambda: Rate(1_000_000, 10))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await budget.take(requests=1)
    with pytest.raises(Unavailable):
        await budget.take(size_bytes=1)


# --- Postgres ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def dsn(postgres: PostgresServer) -> str:
    found = postgres.create_database("budgets")
    await migrate(found, kind=CatalogKind.CONTROL)
    return found


async def new_rule(catalog: Catalog) -> str:
    for rank, site in enumerate("ab"):
        await upsert_site(catalog, name=site, endpoint=f"http://{site}", region="", rank=rank)
    name = f"rule-{new_id().hex[:8]}"
    await save_rule(catalog, name=name, buckets=["photos"], sites=["a", "b"])
    return name


async def test_reservations_follow_each_other(dsn: str) -> None:
    async with Catalog.open(dsn) as catalog:
        rule = await new_rule(catalog)
        first = await reserve(catalog, rule=rule, bytes_s=5.0)
        second = await reserve(catalog, rule=rule, bytes_s=1.0, requests_s=3.0)
        third = await reserve(catalog, rule=rule, requests_s=1.0)
        assert first.bytes_wait_s <= 0
        assert 4.5 <= second.bytes_wait_s <= 5.0
        assert second.requests_wait_s <= 0.0
        assert 2.5 <= third.requests_wait_s <= 3.0


async def test_reservations_at_once_do_not_overlap(dsn: str) -> None:
    async with Catalog.open(dsn, pool_size=8) as catalog:
        rule = await new_rule(catalog)
        found = await asyncio.gather(
            *(reserve(catalog, rule=rule, requests_s=1.0) for _ in range(20))
        )
        waits = sorted(each.requests_wait_s for each in found)
        assert all(later - sooner > 0.5 for sooner, later in pairwise(waits))


async def test_a_clock_that_was_set_back_holds_nobody_for_long(dsn: str) -> None:
    async with Catalog.open(dsn) as catalog:
        rule = await new_rule(catalog)
        for _ in range(3):
            found = await reserve(catalog, rule=rule, bytes_s=86_400.0)
        assert found.bytes_wait_s <= QUEUE_MAX_S


async def test_a_rule_that_is_gone_gives_nothing(dsn: str) -> None:
    async with Catalog.open(dsn) as catalog:
        rule = await new_rule(catalog)
        await reserve(catalog, rule=rule, bytes_s=1.0)
        await delete_rule(catalog, name=rule)
        with pytest.raises(NotFound):
            await reserve(catalog, rule=rule, bytes_s=1.0)


def lines(process: "subprocess.Popen[str]") -> Iterator[float]:
    assert process.stdout
    for line in process.stdout:
        if line.endswith("\n"):  # a killed one may leave half a line
            yield float(json.loads(line))


async def test_real_processes_share_one_rate_and_one_is_killed(dsn: str) -> None:
    per_s, last_s = 150, 2.5
    async with Catalog.open(dsn) as catalog:
        rule = await new_rule(catalog)
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 # it returns at once
            [
                sys.executable,
                "-m",
                "tests.replication.spending",
                dsn,
                rule,
                str(per_s),
                str(last_s),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    spent: list[float] = []
    first = next(lines(processes[0]))
    await asyncio.sleep(last_s / 2)
    processes[0].send_signal(signal.SIGKILL)
    for process in processes:
        spent += await asyncio.to_thread(lambda process=process: list(lines(process)))
        process.wait()
        assert process.stdout
        process.stdout.close()
    spent.append(first)
    check_spent([(at, 1) for at in spent], per_s=per_s, lumps=3, slack_s=0.25)
    alive_s = max(spent) - min(spent)
    assert len(spent) >= 0.6 * per_s * alive_s, "the rate was not used"
    assert time.monotonic() > max(spent)
