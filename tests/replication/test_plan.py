"""Decisions: the same everywhere, ended after one application, whole also when cut short."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrepot.clock import derived_id, is_uuid
from entrepot.replication.plan import (
    Action,
    Copy,
    Decision,
    Facts,
    Mark,
    Remove,
    Target,
    conflict,
    decide,
)
from entrepot.replication.policy import Policy, judge
from entrepot.replication.view import View, see
from entrepot.terms import Choice, Mode, Travel

HORIZON_MS = 1_000
KEY = "k"


@dataclass(frozen=True)
class Cell:
    """A version of the key at one site."""

    version_id: str
    mtime_ms: int
    size_bytes: int = 0
    etag: str = ""
    is_delete_marker: bool = False


Cells = list[Cell]
"""One site's versions, the one it serves first, then the newest."""
World = list[Cells]


def a_uuid(number: int) -> str:
    return str(derived_id("test", str(number)))


def an_object(mtime_ms: int, body: str = "x", version_id: str = "") -> Cell:
    return Cell(version_id or str(derived_id(body, str(mtime_ms))), mtime_ms, len(body), body * 32)


def a_marker(mtime_ms: int, version_id: str = "") -> Cell:
    return Cell(version_id or a_uuid(-mtime_ms), mtime_ms, is_delete_marker=True)


# Times and bodies from few values, so that ties and equal bytes are common.
times = st.sampled_from([1, 2, 3, 500, 501, HORIZON_MS])
objects = st.builds(an_object, times, st.sampled_from("xy"))
foreign = st.builds(an_object, times, st.sampled_from("xy"), st.sampled_from(["null", "3/L4kqt"]))
markers = st.builds(a_marker, times)
histories = st.lists(
    objects | markers | foreign, max_size=4, unique_by=lambda cell: cell.version_id
)


@st.composite
def worlds(draw: st.DrawFn, *, keepers: bool = True) -> tuple[World, list[bool]]:
    """What 2 to 4 sites hold, and whether each keeps origins."""
    count = draw(st.integers(2, 4))
    keeping = st.just(value=True) if keepers else st.booleans()
    world = [served(draw(histories)) for _ in range(count)]
    return world, draw(st.lists(keeping, min_size=count, max_size=count))


def served(cells: Sequence[Cell]) -> Cells:
    """As an endpoint lists them: of equal times the one that came last is served."""
    return [
        cell for _, cell in sorted(enumerate(cells), key=lambda each: (-each[1].mtime_ms, -each[0]))
    ]


def facts(world: World, *, later_ms: int = 0) -> Facts:
    return Facts(
        horizon_ms=HORIZON_MS + later_ms, names=[f"site-{site}" for site in range(len(world))]
    )


def viewed(world: World, keeps: Sequence[bool] | None = None) -> View:
    return see(KEY, world, keeps=keeps or [True] * len(world))


def decided(
    world: World,
    keeps: Sequence[bool] | None = None,
    *,
    policy: Policy | None = None,
    later_ms: int = 0,
) -> Decision:
    """As a sweep decides: conflicts by the policy, then the rest."""
    view, known, policy = viewed(world, keeps), facts(world, later_ms=later_ms), policy or Policy()
    found = conflict(view, facts=known, policy=policy)
    verdict = judge(found, policy=policy.conflict_policy(KEY)) if found else None
    return decide(view, facts=known, policy=policy, verdict=verdict)


def applied(actions: Sequence[Action], world: World, keeps: Sequence[bool]) -> World:
    """What the sites hold afterwards. A site that mints ids shows a copy as its newest version,
    under the time of its origin (its mark).
    """
    after = [list(cells) for cells in world]
    for action in actions:
        if isinstance(action, Remove):
            after[action.site] = [
                c for c in after[action.site] if c.version_id != action.version_id
            ]
            continue
        if isinstance(action, Copy) and action.to_key:
            continue
        for target in action.targets:
            cell = (
                Cell(action.version_id, action.mtime_ms, action.size_bytes, action.etag)
                if isinstance(action, Copy)
                else a_marker(action.mtime_ms, action.version_id)
            )
            there = after[target.site]
            if not keeps[target.site]:
                there.insert(0, replace(cell, version_id=f"minted-{len(there)}"))
            elif all(each.version_id != cell.version_id for each in there):
                after[target.site] = served([*there[::-1], cell])
    return after


def identities(world: World) -> list[set[str]]:
    return [{entry.identity for entry in history} for history in viewed(world).histories]


def contents(world: World) -> set[tuple[str, bool]]:
    return {(cell.etag, cell.is_delete_marker) for cells in world for cell in cells}


policies = st.sampled_from(list(Choice)).map(lambda choice: Policy(conflict={"": choice}))


@given(worlds(keepers=False), policies)
def test_a_plan_is_a_function_of_what_it_sees(
    drawn: tuple[World, list[bool]], policy: Policy
) -> None:
    world, keeps = drawn
    assert decided(world, keeps, policy=policy) == decided(
        [list(cells) for cells in world], tuple(keeps), policy=policy
    )


@given(worlds(), policies)
def test_one_application_makes_all_sites_equal(
    drawn: tuple[World, list[bool]], policy: Policy
) -> None:
    world, keeps = drawn
    decision = decided(world, keeps, policy=policy)
    after = applied(decision.actions, world, keeps)
    held = identities(after)
    assert all(each == held[0] for each in held)
    assert len({cells[0].etag for cells in after if cells}) <= 1
    assert (
        len({cells[0].version_id for cells in after if cells and is_uuid(cells[0].version_id)}) <= 1
    )
    assert all(old <= held[0] for old in identities(world))  # no version lost
    assert contents(after) == contents(world)
    assert decided(after, keeps, policy=policy, later_ms=1) == replace(
        Decision(), serves=decided(after, keeps, later_ms=1).serves
    )


@given(worlds(), policies, st.data())
def test_cut_short_and_begun_again_it_ends_the_same(
    drawn: tuple[World, list[bool]], policy: Policy, data: st.DataObject
) -> None:
    """Whatever of a batch was written before somebody was killed: ``then`` only after ``first``."""
    world, keeps = drawn
    decision = decided(world, keeps, policy=policy)
    whole = applied(decision.actions, world, keeps)
    now = world
    for turn in range(5):
        again = decided(now, keeps, policy=policy, later_ms=turn)
        singles = [
            [replace(action, targets=(target,)) for action in actions for target in action.targets]  # type: ignore[union-attr]
            for actions in (again.first, again.then)
        ]
        order = data.draw(st.permutations(singles[0])) + data.draw(st.permutations(singles[1]))
        count = data.draw(st.integers(0, len(order)))
        now = applied(order[:count], now, keeps)
    now = applied(decided(now, keeps, policy=policy, later_ms=9).actions, now, keeps)
    assert identities(now) == identities(whole)
    assert [cells[:1] for cells in now] == [cells[:1] for cells in whole]


@given(worlds(keepers=False))
@example(([[an_object(2)], [a_marker(3), an_object(2)]], [True, False]))
@example(([[a_marker(1)], [an_object(1, "y")], [an_object(1), a_marker(1)]], [False] * 3))
@example(([[a_marker(1)], [an_object(1), a_marker(1)]], [True, True]))
@example(([[an_object(1)], [an_object(1, "y"), an_object(1)]], [True, False]))
def test_every_reader_gets_the_newest_where_ids_are_minted_too(
    drawn: tuple[World, list[bool]],
) -> None:
    world, keeps = drawn
    view = viewed(world, keeps)
    if not view.heads:
        return
    # Who wrote over a head knew of it, so of one moment's writes that one is not the last.
    over = {
        entry.identity
        for history in view.histories
        for entry in history[1:]
        if entry.identity != history[0].identity
    }
    best = max(view.heads, key=lambda head: (head.mtime_ms, head.identity not in over, -head.site))
    after = applied(decided(world, keeps).actions, world, keeps)
    for cells in after:
        if best.is_delete_marker:
            assert not cells or cells[0].is_delete_marker
        else:
            assert (cells[0].etag, cells[0].is_delete_marker) == (best.etag, False)


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_sites_decides_ties_only(
    drawn: tuple[World, list[bool]], random: st.random_module
) -> None:
    world, _ = drawn
    cells = {cell for cells in world for cell in cells}
    if len({cell.mtime_ms for cell in cells}) != len(cells):
        return
    order = list(range(len(world)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = decided([world[site] for site in order])
    assert written(shuffled, order) == written(decided(world), range(len(world)))


def written(decision: Decision, names: Sequence[int]) -> set[tuple[object, ...]]:
    """What is written where, with sites under their own names."""
    return {
        (type(action), action.version_id, action.mtime_ms, names[target.site])
        for action in decision.actions
        if isinstance(action, Copy | Mark)
        for target in action.targets
    }


@given(worlds(keepers=False), policies)
def test_absence_deletes_nothing(drawn: tuple[World, list[bool]], policy: Policy) -> None:
    world, keeps = drawn
    decision = decided(world, keeps, policy=policy)
    assert not any(isinstance(action, Remove) for action in decision.actions)
    if any(isinstance(action, Mark) for action in decision.actions):
        assert any(cell.is_delete_marker for cells in world for cell in cells)
    else:
        assert decision.deletes == 0


@given(worlds(keepers=False), policies)
def test_a_write_carries_an_id_that_every_site_takes(
    drawn: tuple[World, list[bool]], policy: Policy
) -> None:
    world, keeps = drawn
    for action in decided(world, keeps, policy=policy).actions:
        assert isinstance(action, Copy | Mark)
        assert is_uuid(action.version_id)
        assert action.targets
        assert len({target.site for target in action.targets}) == len(action.targets)
        for target in action.targets:
            head = world[target.site][0] if world[target.site] else None
            if not getattr(action, "to_key", ""):
                assert target.expected_etag == (head.etag if head else "")


@given(worlds())
def test_what_comes_from_the_future_leaves_the_key_alone(drawn: tuple[World, list[bool]]) -> None:
    world, keeps = drawn
    world = [[an_object(HORIZON_MS + 1, "f"), *world[0]], *world[1:]]
    decision = decided(world, keeps)
    assert decision.actions == ()
    assert [left.what for left in decision.left] == ["quarantined"]
    assert conflict(viewed(world), facts=facts(world), policy=Policy()) == ()


def test_nobody_has_it() -> None:
    assert decided([[], []]) == Decision()


def test_the_newest_is_served_and_the_older_is_kept_below() -> None:
    decision = decided([[an_object(1)], [an_object(2, "y")], []])
    older, newer = decision.actions
    assert isinstance(older, Copy)
    assert isinstance(newer, Copy)
    assert (older.mtime_ms, older.targets) == (1, (Target(1, "y" * 32), Target(2, "")))
    assert (newer.mtime_ms, newer.targets) == (2, (Target(0, "x" * 32), Target(2, "")))


def test_a_marker_wins_over_an_older_object() -> None:
    decision = decided([[an_object(1)], [a_marker(2), an_object(1)]])
    assert decision.actions == (Mark(KEY, (Target(0, "x" * 32),), a_uuid(-2), 2),)
    assert decision.deletes == 1


def test_a_tie_is_settled_by_a_later_version_everywhere() -> None:
    """Also where a site holds the winner already: it would be left behind by a millisecond."""
    same, other = an_object(7, "x"), an_object(7, "y")
    decision = decided([[same], [same], [other]])
    (settling,) = decision.first
    assert isinstance(settling, Copy)
    assert {target.site for target in settling.targets} == {0, 1, 2}
    assert (settling.mtime_ms, settling.source_version) == (8, same.version_id)
    assert settling.version_id not in (same.version_id, other.version_id)
    assert decision.serves == settling.version_id


def test_a_tie_with_a_marker_goes_by_rank() -> None:
    first = decided([[a_marker(7)], [an_object(7)], []])
    assert [type(action) for action in first.first] == [Mark]
    second = decided([[an_object(7)], [a_marker(7)]])
    assert [type(action) for action in second.first] == [Copy]


def test_a_change_of_metadata_alone_reaches_a_site_that_mints_ids() -> None:
    """Its bytes are equal; only the time of its mark tells that it is the older state."""
    decision = decided(
        [[an_object(9), an_object(4)], [an_object(4, version_id="v")]], [True, False]
    )
    (action,) = decision.actions
    assert isinstance(action, Copy)
    assert action.targets == (Target(1, "x" * 32),)


def test_a_marker_of_a_site_that_mints_ids_stands_for_the_one_it_was_made_from() -> None:
    """Else every delete would come back as another one."""
    ours = [a_marker(500), an_object(2)]
    theirs = [a_marker(3, "minted"), an_object(2, version_id="copy")]
    assert decided([ours, theirs], [True, False]).actions == ()
    assert decided([theirs, ours], [False, True]).actions == ()


@pytest.mark.parametrize("version_id", ["null", "3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH"])
def test_an_id_that_is_no_uuid_becomes_the_same_derived_one(version_id: str) -> None:
    (first,) = decided([[an_object(5, version_id=version_id)], []]).actions
    second = decided([[an_object(5, version_id=version_id)], [an_object(1, "y")]]).actions[-1]
    assert isinstance(first, Copy)
    assert isinstance(second, Copy)
    assert first.version_id == second.version_id
    assert first.source_version == version_id
    (later,) = decided([[an_object(6, version_id=version_id)], []]).actions
    assert isinstance(later, Copy)
    assert later.version_id != first.version_id


# --- Conflicts --------------------------------------------------------------------------------

COMMON = an_object(1, "c")
A, B = an_object(500, "a"), an_object(501, "b")


def contending(world: World, policy: Policy | None = None) -> list[int]:
    found = conflict(viewed(world), facts=facts(world), policy=policy or Policy())
    return [entry.mtime_ms for entry in found]


def test_two_writes_over_the_same_version_contend() -> None:
    assert contending([[A, COMMON], [B, COMMON]]) == [500, 501]
    assert contending([[A], [B]]) == [500, 501]
    assert contending([[A, COMMON], [B, COMMON], [COMMON]]) == [500, 501]


def test_a_write_over_the_other_does_not_contend() -> None:
    assert contending([[B, A, COMMON], [A, COMMON]]) == []
    assert contending([[A, COMMON], [COMMON], []]) == []


def test_a_delete_and_a_change_contend_and_two_deletes_do_not() -> None:
    assert contending([[a_marker(500), COMMON], [B, COMMON]]) == [500, 501]
    assert contending([[a_marker(500), COMMON], [a_marker(501), COMMON]]) == []
    without = Policy(travels=frozenset(Travel) - {Travel.DELETE_MARKERS})
    assert contending([[a_marker(500), COMMON], [B, COMMON]], without) == []


@pytest.mark.parametrize(
    ("choice", "etag"),
    [(Choice.LAST, "b"), (Choice.FIRST, "a"), (Choice.SITE, "a"), (Choice.BOTH, "b")],
)
def test_who_wins(choice: Choice, etag: str) -> None:
    world, keeps = [[A, COMMON], [B, COMMON]], [True, True]
    decision = decided(world, policy=Policy(conflict={"": choice}))
    after = applied(decision.actions, world, keeps)
    assert {cells[0].etag for cells in after} == {etag * 32}
    assert {len(cells) for cells in after} == {3 + (etag == "a")}
    kept = [
        action.to_key for action in decision.first if isinstance(action, Copy) and action.to_key
    ]
    assert kept == (["k.conflict-site-0-19700101T000000500Z"] if choice is Choice.BOTH else [])


def test_the_longest_prefix_says_by_which_policy() -> None:
    policy = Policy(conflict={"": "keep-both", "logs/": "site-priority", "logs/a": "hook:x"})
    said = [policy.conflict_policy(key) for key in ("k", "logs/b", "logs/a/b")]
    assert said == ["keep-both", "site-priority", "hook:x"]
    assert Policy().conflict_policy("k") == "last-write-wins"


# --- What else a rule says --------------------------------------------------------------------


def test_without_markers_each_site_deletes_for_itself() -> None:
    policy = Policy(travels=frozenset(Travel) - {Travel.DELETE_MARKERS})
    assert decided([[a_marker(500), COMMON], [COMMON]], policy=policy).actions == ()
    (action,) = decided([[a_marker(500), COMMON], [B, COMMON]], policy=policy).actions
    assert isinstance(action, Copy)
    assert action.targets == (Target(0, ""),)


def removing(world: World, removed: dict[str, frozenset[int]], policy: Policy) -> Decision:
    known = replace(facts(world), removed=removed)
    return decide(viewed(world), facts=known, policy=policy)


def test_a_removal_travels_where_it_was_recorded_and_the_rule_says_so() -> None:
    world = [[B], [B, A]]
    gone = {A.version_id: frozenset({0})}
    travels = Policy(travels=frozenset(Travel))
    decision = removing(world, gone, travels)
    assert decision.actions == (Remove(KEY, 1, A.version_id),)
    assert decision.deletes == 1
    # Where it does not travel, it is not undone either; nor is it where nobody removed it.
    assert removing(world, gone, Policy()).actions == ()
    assert [type(action) for action in removing(world, {}, travels).actions] == [Copy]


def test_what_a_lifecycle_would_take_at_once_is_not_brought_back() -> None:
    world = [[B], [B, A]]
    known = replace(facts(world), expired=[frozenset({A.version_id}), frozenset()])
    assert decide(viewed(world), facts=known).actions == ()


def test_one_way_takes_nothing_back() -> None:
    policy = Policy(mode=Mode.ONE_WAY, source_site="site-0")
    world = [[A, COMMON], [COMMON], [B, COMMON]]
    decision = decide(viewed(world), facts=replace(facts(world), source=0), policy=policy)
    (action,) = decision.actions
    assert isinstance(action, Copy)
    assert [target.site for target in action.targets] == [1, 2]
    assert [(left.what, left.site) for left in decision.left] == [("drifted", 2)]
    assert contending(world, policy) == []


def test_one_id_with_two_bodies_is_said_and_left() -> None:
    world = [[an_object(5, "x", a_uuid(1))], [an_object(5, "y", a_uuid(1))]]
    decision = decided(world)
    assert decision.actions == ()
    assert [left.what for left in decision.left] == ["differs"]
