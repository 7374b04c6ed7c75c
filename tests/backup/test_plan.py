"""What a key was at an instant, and what is to be done about it: values alone."""

import pytest

from entrepot.backup.plan import Action, Do, Sums, decide, estimate, history, state_at, undo_of
from entrepot.errors import IntegrityError
from entrepot.vault.snapshots import Entry


def version(at_ms: int, *, parent_ms: int = 0, marker: bool = False, **extra: object) -> Entry:
    said = {"stamp": f"{at_ms}.site-a.w", **extra}
    if parent_ms:
        said["parent"] = f"{parent_ms}.site-a.w"
    return Entry(
        "k", f"v{at_ms}", at_ms, 0 if marker else at_ms, "" if marker else f"e{at_ms}", marker,
        extra=said,
    )  # fmt: skip


def test_the_newest_of_that_time_counts() -> None:
    known = [version(30, parent_ms=20), version(20, parent_ms=10), version(10)]
    assert [state_at(known, at)[0] for at in (9, 10, 19, 20, 99)] == [
        None, known[2], known[2], known[1], known[0]
    ]  # fmt: skip
    assert all(state_at(known, at)[1] for at in (9, 10, 19, 20, 99))


@pytest.mark.parametrize(
    ("at_ms", "is_certain"),
    [(9, True), (10, True), (19, True), (20, False), (25, False), (30, True)],
)
def test_a_parent_that_nobody_has_makes_it_uncertain(at_ms: int, is_certain: bool) -> None:
    known = [version(30, parent_ms=20), version(10)]
    assert state_at(known, at_ms)[1] is is_certain


def test_a_parent_older_than_what_is_known_is_none_of_our_business() -> None:
    """Two sites wrote: the later write replaced an older version than the one served here."""
    known = [version(30, parent_ms=10), version(20)]
    assert state_at(known, 25) == (known[1], True)


def test_what_was_never_served_does_not_count() -> None:
    known = [version(90, quarantined=True), version(10)]
    assert state_at(known, 99) == (known[1], True)
    assert decide("k", known[1], known) is None


def test_what_was_committed_meanwhile_counts_and_old_tags_stay() -> None:
    kept = Entry("k", "v10", 10, etag="e", tags={"a": "then"})
    live = [version(30), version(20), Entry("k", "v10", 10, etag="e", tags={"a": "now"})]
    known = history([kept], live)
    assert [each.version_id for each in known] == ["v30", "v20", "v10"]
    assert known[-1] is kept and state_at(known, 25)[0] == live[1]
    action = decide("k", kept, live)
    assert action and (action.do, action.is_live, action.over_id) == (Do.REVERT, True, "v30")


@pytest.mark.parametrize(
    ("wished", "live", "do"),
    [
        (version(10), [], Do.ADD),
        (version(10), [version(20, marker=True)], Do.ADD),
        (version(10), [version(20)], Do.REVERT),
        (version(10), [version(10)], None),
        (None, [version(20)], Do.HIDE),
        (version(10, marker=True), [version(20)], Do.HIDE),
        (version(10, marker=True), [version(20, marker=True)], None),
        (None, [], None),
    ],
)
def test_each_thing_to_be_done_and_what_undoes_it(
    wished: Entry | None, live: list[Entry], do: Do | None
) -> None:
    action = decide("k", wished, live)
    assert (action.do if action else None) == do
    if action is None:
        return
    assert Action.parse(action.dump()) == action
    after = version(40, marker=do is Do.HIDE)
    back = undo_of(action, after)
    was_live = live and not live[0].is_delete_marker
    assert back.do is ((Do.ADD if do is Do.HIDE else Do.REVERT) if was_live else Do.HIDE)
    assert (back.over_id, back.version_id) == ("v40", live[0].version_id if was_live else "")


def test_a_line_that_is_no_action_is_refused() -> None:
    for line in (
        b"",
        b"[]",
        b'{"key": "k"}',
        b'{"key": "k", "do": "burn"}',
        b'{"do": "add", "x": 1}',
    ):
        with pytest.raises(IntegrityError, match="malformed"):
            Action.parse(line)


def test_an_estimate_says_what_it_rests_on() -> None:
    sums = Sums(add=200, bytes=50_000_000).as_dict()
    assert estimate(sums, past=[]).seconds == 2
    assert "assumed" in estimate(sums, past=[{"keys": 1, "bytes": 1, "seconds": 0.1}]).basis
    measured = estimate(sums, past=[{"keys": 400, "bytes": 0, "seconds": 8}])
    assert (measured.seconds, measured.basis) == (8, "measured in 1 earlier restores")
