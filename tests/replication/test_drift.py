"""One-way rules that overwrite drift: others serve what the source serves, and nothing is lost."""

from dataclasses import replace

from hypothesis import given

from entrepot.replication.plan import Copy, Decision, Mark, Target, decide
from entrepot.replication.policy import Policy
from entrepot.terms import Mode
from tests.replication.test_plan import (
    COMMON,
    HORIZON_MS,
    A,
    B,
    World,
    a_marker,
    an_object,
    applied,
    facts,
    identities,
    viewed,
    worlds,
)

OVERWRITES = Policy(mode=Mode.ONE_WAY, source_site="site-0", overwrites=True)


def overwriting(world: World) -> Decision:
    known = replace(facts(world), source=0, horizon_ms=HORIZON_MS * 10)
    return decide(viewed(world), facts=known, policy=OVERWRITES)


def test_what_was_written_at_a_site_that_only_receives_is_written_over() -> None:
    world = [[A, COMMON], [COMMON], [B, COMMON]]
    decision = overwriting(world)
    (again,) = decision.first
    assert isinstance(again, Copy)
    assert (again.targets, again.mtime_ms) == ((Target(2, B.etag),), B.mtime_ms + 1)
    assert (again.source_version, decision.left) == (A.version_id, ())
    anew = replace(A, version_id=again.version_id, mtime_ms=again.mtime_ms)
    assert overwriting([[A, COMMON], [A, COMMON], [anew, B, A, COMMON]]) == Decision()
    # Killed before it got the rest, and written over once more.
    assert [type(each) for each in overwriting([[A], [A], [anew, B]]).then] == [Copy]
    late = an_object(again.mtime_ms + 5, "late")
    assert len(overwriting([[A, COMMON], [A, COMMON], [late, anew, B, A, COMMON]]).first) == 1


def test_nothing_is_written_over_what_the_source_may_have_had() -> None:
    decision = overwriting([[], [], [B]])
    assert (decision.actions, [left.what for left in decision.left]) == ((), ["drifted"])


def test_a_delete_at_the_source_hides_a_write_elsewhere_and_is_counted() -> None:
    decision = overwriting([[a_marker(400), COMMON], [a_marker(400), COMMON], [B, COMMON]])
    (mark,) = decision.first
    assert isinstance(mark, Mark)
    assert (mark.targets, decision.deletes) == ((Target(2, B.etag),), 1)


@given(worlds())
def test_writing_over_ends_with_the_source_served_and_nothing_lost(
    drawn: tuple[World, list[bool]],
) -> None:
    world, keeps = drawn
    after = applied(overwriting(world).actions, world, keeps)
    # The source's own versions of equal time come to others in an order that is not its own.
    after = applied(overwriting(after).actions, after, keeps)
    assert after[0] == world[0]
    assert all(old <= new for old, new in zip(identities(world), identities(after), strict=True))
    again = overwriting(after)
    assert again.actions == ()
    if world[0]:
        assert again.left == ()
        assert len({(cells[0].etag, cells[0].is_delete_marker) for cells in after}) == 1
