"""The ledger, clocks and resolutions, over real servers and a real Postgres."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from entrepot.catalog import jobs
from entrepot.catalog.conflicts import get_conflict
from entrepot.errors import (
    AccessDenied,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from entrepot.replication import conflicts as conflicts_module
from entrepot.replication.hooks import Hooks
from entrepot.replication.policy import Policy
from entrepot.replication.resolve import resolve
from entrepot.replication.skew import Skew, bound_ms, measure
from entrepot.store.internal import internal_bucket
from entrepot.testing.faulty import FaultyStore, Refuse
from tests.replication.conftest import MakeWorld
from tests.replication.ruled import Ruled, conflicting
from tests.replication.test_run import Crash
from tests.replication.worlds import now_ms, same


async def test_scenario_1_written_in_the_same_millisecond_on_both_sides(
    ruled: Callable[..., Ruled],
) -> None:
    work = ruled()
    then = now_ms() - 5_000
    await work.world.put_at(0, "k", b"by rank", mtime_ms=then)
    await work.world.put_at(1, "k", b"loses!", mtime_ms=then)
    for _ in range(2):
        await work.run()
    assert same(work.world.histories())
    assert [work.world.body(site, "k") for site in range(2)] == [b"by rank"] * 2
    (row,) = await work.ledger()
    assert (row.key, row.policy, row.is_ambiguous) == ("k", "last-write-wins", True)
    assert [one["site"] for one in row.contenders] == ["site-1", "site-0"]
    assert row.contenders[row.winner]["site"] == "site-0"
    assert row.serves == work.world.currents(0)["k"].version_id
    assert row.reason == "equal times, the first site's"


async def test_a_run_that_is_killed_and_run_again_adds_no_second_row(
    ruled: Callable[..., Ruled], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written when it died: the first, the losers, or nothing."""
    for number, choice in enumerate(["first-write-wins", "last-write-wins", "site-priority"]):
        work = ruled(Policy(conflict={"": choice}), sites=3)
        await conflicting(work, sites=(2, 1, 0))
        for fails_after in range(1, 6):
            calls = 0

            async def put(*args: Any, limit: int = fails_after, real: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > limit:
                    raise Crash
                return await real(*args, **more)

            with monkeypatch.context() as patch:
                for store in work.world.stores:
                    real = store.put
                    patch.setattr(
                        store, "put", lambda *a, r=real, **m: put(*a, real=r, **m), raising=True
                    )
                    patch.setattr(store, "batch", refuse_all)
                try:
                    await work.run(run="the same")
                except Crash:
                    continue
            break
        await work.run(run="the same")
        assert same(work.world.histories()), choice
        (row,) = await work.ledger()
        winner = work.world.body(0, "k").decode()
        assert winner == ["by 2", "by 0", "by 0"][number]
        assert row.contenders[row.winner]["site"] == f"site-{winner[-1]}"


async def refuse_all(_bucket: str, items: Any) -> Any:
    return items


async def test_what_is_equal_or_followed_is_no_conflict(ruled: Callable[..., Ruled]) -> None:
    work = ruled()
    for site in range(2):
        work.world.put(site, "same", b"same bytes", Metadata={"a": "1"})
        work.world.put(site, "dressed", b"same bytes", Metadata={"site": str(site)})
    await work.run()
    work.world.put(1, "same", b"next")
    await work.run()
    assert [row.key for row in await work.ledger()] == ["dressed"]
    assert same(work.world.histories())


async def test_a_delete_and_a_change_are_in_the_ledger(ruled: Callable[..., Ruled]) -> None:
    work = ruled()
    work.world.put(0, "k", b"common")
    await work.run()
    work.world.put(1, "k", b"changed")
    work.world.delete(0, "k")
    _, outcome = await work.run()
    assert outcome.totals["conflicts"] == 1
    assert work.world.views() == [{}, {}]
    (row,) = await work.ledger()
    assert [one["is_delete_marker"] for one in row.contenders] == [False, True]
    assert row.winner == 1


async def test_keep_both(ruled: Callable[..., Ruled]) -> None:
    work = ruled(Policy(conflict={"": "keep-both"}))
    await conflicting(work)
    for _ in range(2):
        await work.run()
    assert same(work.world.histories())
    (first, second) = sorted(work.world.view(0))
    assert first == "k" and second.startswith("k.conflict-site-0-20")
    assert work.world.body(1, "k") == b"by 1"
    assert work.world.body(1, second) == b"by 0"
    assert len(await work.ledger()) == 1


@pytest.mark.parametrize(
    ("hook", "winner", "said"),
    [
        (lambda _key, _both: 0, b"by 0", "chose it"),
        (lambda _key, _both: 7, b"by 1", "answered 7"),
        (lambda _key, both: both["x"], b"by 1", "failed: TypeError"),
        (None, b"by 1", "there is no hook"),
    ],
)
async def test_a_hook_decides_or_has_no_say(
    ruled: Callable[..., Ruled],
    monkeypatch: pytest.MonkeyPatch,
    hook: Any,
    winner: bytes,
    said: str,
) -> None:
    asked = Hooks(lambda _name: hook)
    monkeypatch.setattr(conflicts_module.HOOKS, "ask", asked.ask)
    work = ruled(Policy(conflict={"": "hook:mine"}))
    await conflicting(work)
    await work.run()
    assert work.world.body(0, "k") == work.world.body(1, "k") == winner
    (row,) = await work.ledger()
    assert said in row.reason
    assert row.policy == "hook:mine"


async def test_a_hook_that_is_slow_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from entrepot.replication import hooks

    monkeypatch.setattr(hooks, "TIMEOUT_S", 0.05)
    calls = []

    def slow(_key: str, _both: Any) -> int:
        calls.append(1)
        import time

        time.sleep(0.3)
        return 0

    asked = Hooks(lambda _name: slow)
    answers = [await asked.ask("h", "k", ()) for _ in range(2)]
    assert [answer[0] for answer in answers] == [None, None]
    assert ["longer than" in answers[0][1], "before" in answers[1][1]] == [True, True]
    assert len(calls) == 1


# --- Resolving --------------------------------------------------------------------------------


async def take(work: Ruled, which: int) -> str:
    (row,) = await work.ledger()
    return await resolve(work.catalog, work.world.sites, conflict=row, taken=which, by="ada")


async def test_the_loser_can_be_taken_and_that_can_be_undone(ruled: Callable[..., Ruled]) -> None:
    work = ruled()
    await conflicting(work)
    await work.run()
    assert work.world.body(0, "k") == b"by 1"
    await take(work, 0)
    assert [work.world.body(site, "k") for site in range(2)] == [b"by 0"] * 2
    (row,) = await work.ledger()
    assert (row.winner, row.taken, row.resolved_by) == (1, 0, "ada")
    with pytest.raises(InvalidInput):
        await take(work, 0)
    await take(work, 1)
    assert [work.world.body(site, "k") for site in range(2)] == [b"by 1"] * 2
    _, outcome = await work.run()
    assert outcome.totals["differing"] == 0
    assert same(work.world.histories())
    assert len(work.world.history(0)) == 5
    work.world.put(0, "k", b"a later write")
    with pytest.raises(PreconditionFailed):
        await take(work, 0)
    with pytest.raises(NotFound):
        await get_conflict(work.catalog, number=10**9)


async def test_a_delete_that_lost_can_be_taken(ruled: Callable[..., Ruled]) -> None:
    work = ruled()
    work.world.put(0, "k", b"common")
    await work.run()
    work.world.delete(0, "k")
    work.world.put(1, "k", b"changed")
    await work.run()
    assert work.world.body(0, "k") == b"changed"
    await take(work, 0)
    assert work.world.views() == [{}, {}]
    await work.run()
    assert same(work.world.histories())


# --- Clocks -----------------------------------------------------------------------------------


async def test_scenario_24_a_clock_that_is_off_makes_conflicts_ambiguous(
    ruled: Callable[..., Ruled],
) -> None:
    """A site that is four minutes ahead would win over whatever is written at the other."""
    work = ruled()
    job = await work.begin()
    assert set(job.skews) == {"site-0", "site-1"}
    assert job.skew_ms < 5_000
    await work.finish(job, await work.sweep(job))
    await work.world.put_at(1, "k", b"from a clock that is ahead", mtime_ms=now_ms() + 240_000)
    work.world.put(0, "k", b"written later, with less")
    job = await work.begin()
    job = replace(job, skew_ms=bound_ms({"a": Skew(0, 5), "b": Skew(240_000, 5)}, sites=2))
    await work.finish(job, await work.sweep(job))
    (row,) = await work.ledger()
    assert row.is_ambiguous
    assert same(work.world.histories())  # nothing is lost
    (last,) = [j for j in await jobs.recent(work.catalog) if j.id == job.claim.job_id]
    assert abs(last.report["skew"]["site-1"]["offset_ms"]) < 5_000


async def test_scenario_6_measuring_leaves_nothing_behind(worlds: MakeWorld) -> None:
    world = worlds()
    world.put(0, "k")
    for _ in range(2):
        found = await measure(world.sites)
    assert set(found) == {"site-0", "site-1"}
    assert [len(world.history(site)) for site in range(2)] == [1, 0]
    for site in range(2):
        listed = world.s3[site].list_object_versions(
            Bucket=internal_bucket(f"site-{site}"), Prefix="clock/"
        )
        assert "Versions" not in listed and "DeleteMarkers" not in listed


async def test_a_clock_that_may_not_be_measured_is_uncertain(worlds: MakeWorld) -> None:
    world = worlds()
    denied = FaultyStore(world.stores[1], {"put": [Refuse(AccessDenied("no"))]})
    world.sites[1] = replace(world.sites[1], store=denied)
    found = await measure(world.sites)
    assert set(found) == {"site-0"}
    assert bound_ms(found, sites=2) > 1_000
