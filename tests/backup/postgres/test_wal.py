"""Names, histories and coverage of WAL, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.backup.postgres.wal import (
    FileKind,
    Run,
    Segment,
    Switch,
    WalFile,
    WalSet,
    lsn_text,
    parse_history,
    parse_lsn,
    segment_name,
)
from entrepot.errors import IntegrityError, InvalidInput

SEGMENT = 16 << 20
HISTORY = {2: (Switch(1, 5 * SEGMENT + 96),)}
"""Timeline 2 leaves timeline 1 within segment 5."""


@pytest.mark.parametrize(
    ("name", "kind", "timeline"),
    [
        ("000000010000000A000000FF", FileKind.SEGMENT, 1),
        ("000000020000000000000005.partial", FileKind.PARTIAL, 2),
        ("000000010000000000000003.00000028.backup", FileKind.BACKUP, 1),
        ("0000000B.history", FileKind.HISTORY, 11),
    ],
)
def test_names_of_files(name: str, kind: FileKind, timeline: int) -> None:
    file = WalFile.parse(name)
    assert (file.kind, file.timeline, file.folder) == (kind, timeline, name[:8])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "000000010000000000000001.gz",
        "../000000010000000000000001",
        "00000001000000000000000a",
        "000000010000000000000001\n",
        "RECOVERYXLOG",
        "1.history",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        WalFile.parse(name)


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**34 - 1), st.sampled_from([20, 24, 30]))
def test_a_name_and_its_number(timeline: int, number: int, bits: int) -> None:
    file = WalFile.parse(segment_name(timeline, number, 1 << bits))
    assert (file.timeline, file.number(1 << bits)) == (timeline, number)


@given(st.integers(0, 2**64 - 1))
def test_an_lsn_and_its_text(lsn: int) -> None:
    assert parse_lsn(lsn_text(lsn)) == lsn


def test_a_history_file_of_postgres() -> None:
    text = (
        b"1\t0/3000060\tno recovery target specified\n\n2\t0/A000000\tbefore 2026-11-25 \xc3\xa9\n"
    )
    assert parse_history(text) == (Switch(1, 0x3000060), Switch(2, 0xA000000))
    with pytest.raises(IntegrityError):
        parse_history(b"2\t0/3000060\tx\n1\t0/A000000\tx\n")
    with pytest.raises(IntegrityError):
        parse_history(b"one\t0/1\tx")


def files(*runs: tuple[int, int, int], histories: dict[int, tuple[Switch, ...]]) -> WalSet:
    segments = {Segment(t, n) for t, first, last in runs for n in range(first, last + 1)}
    return WalSet(SEGMENT, frozenset(segments), histories)


def test_gaps_are_between_runs_and_at_the_beginning_of_a_timeline() -> None:
    found = files((1, 2, 4), (1, 7, 7), (2, 6, 8), histories=HISTORY)
    assert found.runs == [Run(1, 2, 4), Run(1, 7, 7), Run(2, 6, 8)]
    assert found.gaps == [Run(1, 5, 6), Run(2, 5, 5)]
    assert files((1, 2, 9), histories={}).gaps == []


def chained(found: WalSet, lsn: int, timeline: int) -> list[tuple[int, int]]:
    return [tuple(segment) for segment in found.chain(lsn, timeline=timeline)]


def test_recovery_reads_along_a_timeline_up_to_a_gap() -> None:
    both = files((1, 2, 8), (2, 5, 6), histories=HISTORY)
    assert chained(both, 3 * SEGMENT + 40, 1) == [(1, n) for n in range(3, 9)]
    assert chained(both, 3 * SEGMENT, 2) == [(1, 3), (1, 4), (2, 5), (2, 6)]
    assert chained(both, 9 * SEGMENT, 1) == []
    gap = files((1, 2, 3), (2, 5, 6), histories=HISTORY)
    assert chained(gap, 2 * SEGMENT, 2) == [(1, 2), (1, 3)]


def test_the_segment_of_a_switch_may_be_the_parents_and_is_then_the_last() -> None:
    found = files((1, 2, 8), (2, 6, 6), histories=HISTORY)
    assert chained(found, 4 * SEGMENT, 2) == [(1, 4), (1, 5)]


def test_the_newest_timeline_through_a_place() -> None:
    histories = {2: (Switch(1, 500),), 3: (Switch(1, 900),), 4: (Switch(1, 500), Switch(2, 700))}
    found = WalSet(SEGMENT, frozenset(), histories)
    assert found.newest_after(1, 400) == 4
    assert found.newest_after(1, 600) == 3  # 2 and 4 had left timeline 1 before
    assert found.newest_after(2, 600) == 4
    assert found.newest_after(1, 1000) == 1


@given(
    st.sets(st.tuples(st.integers(1, 2), st.integers(3, 9))),
    st.integers(3, 9),
    st.integers(1, 2),
)
def test_a_chain_is_what_a_walk_finds(
    there: set[tuple[int, int]], start: int, timeline: int
) -> None:
    found = WalSet(SEGMENT, frozenset(Segment(*each) for each in there), HISTORY)
    expected = []
    for number in range(start, 11):
        wanted = timeline if timeline == 1 or number >= 5 else 1
        if (wanted, number) in there:
            expected.append((wanted, number))
            continue
        if timeline == 2 and number == 5 and (1, 5) in there:
            expected.append((1, 5))
        break
    assert chained(found, start * SEGMENT, timeline) == expected
