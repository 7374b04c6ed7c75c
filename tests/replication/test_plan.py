"""Decisions: the same everywhere, ended after one application, and never against a newer write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.clock import derived_id, is_uuid
from entrepot.replication.plan import Copy, Mark, Quarantine, Target, decide

HORIZON_MS = 1_000
KEY = "k"


@dataclass(frozen=True)
class Cell:
    """The current version of the key at one site."""

    version_id: str
    mtime_ms: int
    size_bytes: int = 0
    etag: str = ""
    is_delete_marker: bool = False


Cells = list[Cell | None]


def a_uuid(number: int) -> str:
    return str(derived_id("test", str(number)))


def an_object(mtime_ms: int, body: str = "x", version_id: str = "") -> Cell:
    return Cell(version_id or a_uuid(mtime_ms), mtime_ms, len(body), body * 32)


def a_marker(mtime_ms: int, version_id: str = "") -> Cell:
    return Cell(version_id or a_uuid(-mtime_ms), mtime_ms, is_delete_marker=True)


version_ids = st.integers(0, 3).map(a_uuid) | st.just("null") | st.just("other-vendors-id")
# Times and bodies from few values, so that ties and equal bytes are common.
times = st.sampled_from([1, 2, 500, 501, HORIZON_MS, HORIZON_MS + 1, 5_000])
objects = st.builds(an_object, times, st.sampled_from("xy"), version_ids)
markers = st.builds(a_marker, times, version_ids)
cells = st.none() | objects | markers


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Cells, list[bool]]:
    """What 2 to 4 sites hold, and whether each keeps origins."""
    count = draw(st.integers(2, 4))
    return (
        draw(st.lists(cells, min_size=count, max_size=count)),
        draw(st.lists(st.booleans(), min_size=count, max_size=count)),
    )


def decided(
    heads: Sequence[Cell | None], keeps: Sequence[bool] | None = None, *, later_ms: int = 0
) -> Copy | Mark | Quarantine | None:
    keeps = keeps if keeps is not None else [True] * len(heads)
    return decide(KEY, heads, keeps_origin=keeps, horizon_ms=HORIZON_MS + later_ms)


def applied(action: Copy | Mark, heads: Cells) -> Cells:
    """What the sites show afterwards. A site that mints ids shows a copy under the time of its
    origin (its mark), and a marker likewise.
    """
    after = list(heads)
    for target in action.targets:
        there = heads[target.site]
        if there is not None and there.mtime_ms > action.mtime_ms:
            continue  # does not become current
        after[target.site] = (
            Cell(action.version_id, action.mtime_ms, action.size_bytes, action.etag)
            if isinstance(action, Copy)
            else a_marker(action.mtime_ms, action.version_id)
        )
    return after


def winner_of(heads: Sequence[Cell | None]) -> Cell | None:
    """The newest, the lowest rank among equals: the rule, said in another way."""
    best = None
    for cell in heads:
        if cell is not None and (best is None or cell.mtime_ms > best.mtime_ms):
            best = cell
    return best


@given(worlds())
def test_a_plan_is_a_function_of_what_it_sees(world: tuple[Cells, list[bool]]) -> None:
    heads, keeps = world
    assert decided(heads, keeps) == decided(tuple(heads), tuple(keeps))


@given(worlds())
def test_one_application_ends_it(world: tuple[Cells, list[bool]]) -> None:
    heads, keeps = world
    action = decided(heads, keeps)
    if isinstance(action, Copy | Mark):
        assert decided(applied(action, heads), keeps, later_ms=1) is None


@given(worlds())
def test_every_reader_gets_the_winner(world: tuple[Cells, list[bool]]) -> None:
    heads, keeps = world
    best = winner_of(heads)
    if best is None or best.mtime_ms > HORIZON_MS:
        return
    action = decided(heads, keeps)
    assert not isinstance(action, Quarantine)
    for cell in applied(action, heads) if action else heads:
        if best.is_delete_marker:
            assert cell is None or cell.is_delete_marker
        else:
            assert cell is not None
            assert (cell.size_bytes, cell.etag) == (best.size_bytes, best.etag)
            assert not cell.is_delete_marker


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_sites_decides_ties_only(
    world: tuple[Cells, list[bool]], random: st.random_module
) -> None:
    heads, keeps = world
    times = [cell.mtime_ms for cell in heads if cell is not None]
    if len(set(times)) != len(times):
        return
    order = list(range(len(heads)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = decided([heads[i] for i in order], [keeps[i] for i in order])
    assert unordered(shuffled, order) == unordered(decided(heads, keeps), range(len(heads)))


def unordered(action: Copy | Mark | Quarantine | None, names: Sequence[int]) -> object:
    """The action with sites under their own names and targets as a set."""
    if action is None or isinstance(action, Quarantine):
        return action and replace(action, site=names[action.site])
    targets = {replace(target, site=names[target.site]) for target in action.targets}
    named = replace(action, targets=())
    if isinstance(named, Copy):
        named = replace(named, source=names[named.source])
    return named, targets


@given(worlds())
def test_absence_deletes_nothing(world: tuple[Cells, list[bool]]) -> None:
    heads, keeps = world
    action = decided(heads, keeps)
    if isinstance(action, Mark):
        assert any(cell is not None and cell.is_delete_marker for cell in heads)
        assert all(heads[target.site] is not None for target in action.targets)


@given(worlds())
def test_a_write_carries_an_id_that_every_site_takes(world: tuple[Cells, list[bool]]) -> None:
    heads, keeps = world
    action = decided(heads, keeps)
    if isinstance(action, Copy | Mark):
        assert is_uuid(action.version_id)
        assert action.targets
        assert len({target.site for target in action.targets}) == len(action.targets)
        for target in action.targets:
            there = heads[target.site]
            assert target.expected_etag == (there.etag if there else "")


@given(worlds())
def test_what_comes_from_the_future_is_left_alone(world: tuple[Cells, list[bool]]) -> None:
    heads, keeps = world
    best = winner_of(heads)
    action = decided(heads, keeps)
    is_future = best is not None and best.mtime_ms > HORIZON_MS
    assert isinstance(action, Quarantine) == is_future


@given(worlds())
def test_nothing_is_written_below_what_a_site_has(world: tuple[Cells, list[bool]]) -> None:
    """A copy would not become current under a newer one, nor, on real sites, beside an equal."""
    heads, keeps = world
    action = decided(heads, keeps)
    if isinstance(action, Copy | Mark):
        for target in action.targets:
            there = heads[target.site]
            if there is not None and keeps[target.site]:
                assert there.mtime_ms < action.mtime_ms


def test_nobody_has_it() -> None:
    assert decided([None, None]) is None


def test_the_newest_wins() -> None:
    action = decided([an_object(1), an_object(2, "y"), None])
    assert isinstance(action, Copy)
    assert (action.source, action.mtime_ms, action.version_id) == (1, 2, a_uuid(2))
    assert action.targets == (Target(0, "x" * 32), Target(2, ""))


def test_a_marker_wins_over_an_older_object() -> None:
    action = decided([an_object(1), a_marker(2)])
    assert action == Mark(
        key=KEY, targets=(Target(0, "x" * 32),), version_id=a_uuid(-2), mtime_ms=2
    )


def test_an_object_wins_over_an_older_marker() -> None:
    action = decided([an_object(3), a_marker(2)])
    assert isinstance(action, Copy)
    assert action.targets == (Target(1, ""),)


def test_a_tie_is_settled_by_a_later_version_everywhere() -> None:
    """Also where a site holds the winner already: it would be left behind by a millisecond."""
    same = an_object(7, "x", a_uuid(1))
    action = decided([same, same, an_object(7, "y", a_uuid(2))])
    assert isinstance(action, Copy)
    assert {target.site for target in action.targets} == {0, 1, 2}
    assert (action.mtime_ms, action.source_version) == (8, a_uuid(1))
    assert action.version_id not in (a_uuid(1), a_uuid(2))
    again = decided([same, same, an_object(7, "y", a_uuid(2))])
    assert again == action


def test_a_tie_between_sites_that_keep_times_is_settled_though_another_does_not() -> None:
    tied: Cells = [an_object(7, "x"), an_object(7, "y"), an_object(3, "x")]
    action = decided(tied, [True, True, False])
    assert isinstance(action, Copy)
    assert action.mtime_ms == 8


def test_a_tie_with_a_marker_goes_by_rank() -> None:
    first = decided([a_marker(7), an_object(7), None])
    assert isinstance(first, Mark)
    assert (first.targets, first.mtime_ms) == ((Target(1, "x" * 32),), 8)
    second = decided([an_object(7), a_marker(7)])
    assert isinstance(second, Copy)
    assert {target.site for target in second.targets} == {0, 1}


def test_a_change_of_metadata_alone_reaches_a_site_that_mints_ids() -> None:
    """Its bytes are equal; only the time of its mark tells that it is the older state."""
    action = decided([an_object(9), an_object(4)], [True, False])
    assert isinstance(action, Copy)
    assert action.targets == (Target(1, "x" * 32),)


@pytest.mark.parametrize("version_id", ["null", "3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH"])
def test_an_id_that_is_no_uuid_becomes_the_same_derived_one(version_id: str) -> None:
    first = decided([an_object(5, version_id=version_id), None])
    second = decided([an_object(5, version_id=version_id), an_object(1, "y")])
    assert isinstance(first, Copy)
    assert isinstance(second, Copy)
    assert first.version_id == second.version_id
    assert first.source_version == version_id
    later = decided([an_object(6, version_id=version_id), None])
    assert isinstance(later, Copy)
    assert later.version_id != first.version_id
