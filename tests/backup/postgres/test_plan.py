"""Which backup a target takes, and what is refused, without a server."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from entrepot.backup.postgres.plan import (
    BaseBackup,
    Method,
    RestorePlan,
    Target,
    candidates,
    chosen_timeline,
    refusal,
    wal_from,
    with_bases,
)
from entrepot.backup.postgres.restore import settings_for
from entrepot.backup.postgres.wal import Segment, Switch, WalSet
from entrepot.errors import IntegrityError, InvalidInput, NotFound

SEGMENT = 1 << 20
FULL = BaseBackup(
    "full", "main", Method.FULL, None, 7, 180_003, 1, 3 * SEGMENT, 3 * SEGMENT + 9, 1000
)
NEXT = replace(FULL, snapshot="next", method=Method.INCREMENTAL, base="full", start_lsn=6 * SEGMENT)
NEXT = replace(NEXT, stop_lsn=6 * SEGMENT + 9, stopped_ms=5000)
DUMP = replace(FULL, snapshot="dump", method=Method.DUMP, start_lsn=0, stop_lsn=0, stopped_ms=9000)
ALL = [FULL, NEXT, DUMP]


def at(ms: int) -> Target:
    return Target(time=datetime.fromtimestamp(ms / 1000, UTC))


def test_the_newest_backup_that_ends_before_the_target() -> None:
    assert candidates(ALL, at(4999)) == [FULL]
    assert candidates(ALL, at(5000)) == [NEXT, FULL]
    assert candidates(ALL, at(999)) == []
    assert candidates(ALL, Target()) == [NEXT, FULL]
    assert candidates(ALL, Target(lsn=6 * SEGMENT)) == [FULL]


def test_an_incremental_backup_needs_those_before_it() -> None:
    assert with_bases(NEXT, ALL) == (FULL, NEXT)
    with pytest.raises(NotFound, match="gone"):
        with_bases(NEXT, [NEXT])


def wal(*numbers: int, histories: dict[int, tuple[Switch, ...]] | None = None) -> WalSet:
    return WalSet(SEGMENT, frozenset(Segment(1, n) for n in numbers), histories or {})


def test_wal_has_to_come_to_the_backups_stop() -> None:
    crossing = replace(FULL, stop_lsn=4 * SEGMENT + 1)
    assert wal_from(crossing, wal(3), timeline=1) == []
    assert wal_from(crossing, wal(3, 4), timeline=1) == [Segment(1, 3), Segment(1, 4)]
    # A stop at the very beginning of a segment needs nothing of it.
    assert wal_from(replace(FULL, stop_lsn=4 * SEGMENT), wal(3), timeline=1) == [Segment(1, 3)]


def test_a_timeline_that_left_before_the_backup_is_refused() -> None:
    found = wal(3, histories={2: (Switch(1, 3 * SEGMENT),), 3: (Switch(1, 8 * SEGMENT),)})
    assert chosen_timeline(FULL, found, None) == 3
    assert chosen_timeline(FULL, found, 1) == 1
    assert chosen_timeline(FULL, found, 2) is None
    assert chosen_timeline(replace(FULL, timeline=2), found, 3) is None


def test_a_refusal_says_which_segment_is_missing() -> None:
    gap = wal(3, 4, 6)
    said = refusal(at(9000), gap, wal_from(FULL, gap, timeline=1), FULL, timeline=1)
    assert "gap" in said.message
    assert gap.name(Segment(1, 5)) in said.hint
    ended = wal(3, 4)
    said = refusal(at(9000), ended, wal_from(FULL, ended, timeline=1), FULL, timeline=1)
    assert "does not reach" in said.message


def test_targets_are_one_thing_and_times_have_zones() -> None:
    with pytest.raises(InvalidInput):
        Target(lsn=1, point="x")
    with pytest.raises(InvalidInput):
        Target(time=datetime(2026, 1, 1))
    assert str(Target()) == "latest"


def test_settings_name_the_timeline_and_archive_nothing() -> None:
    plan = RestorePlan(at(1500), (FULL,), 3, (), 0)
    said = settings_for(plan, "get %f")
    assert said["recovery_target_time"] == "1970-01-01 00:00:01.500000+00:00"
    assert (said["recovery_target_timeline"], said["archive_command"]) == ("3", "")
    latest = settings_for(replace(plan, target=Target()), "get %f")
    assert not any(
        name.startswith("recovery_target_") and name[16:] != "timeline" for name in latest
    )


def test_points_are_read_as_they_were_written() -> None:
    assert BaseBackup.of_json("next", "main", NEXT.to_json()) == NEXT
    with pytest.raises(IntegrityError):
        BaseBackup.of_json("x", "main", NEXT.to_json() | {"start_lsn": "far"})
