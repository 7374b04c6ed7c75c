"""Stamps and the hybrid clock, as properties."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import InvalidInput, Unavailable
from entrepot.stamp import AHEAD_MS, BOUND_MS, HybridClock, Stamp

START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
DAY_MS = 86_400_000

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
WRITERS = st.from_regex(r"[a-z0-9-]{1,36}", fullmatch=True)
STAMPS = st.builds(Stamp, st.integers(0, 10**15 - 1), NAMES, WRITERS)
JUMPS = st.one_of(
    st.integers(-5, 2_000),
    st.integers(-300_000, 300_000),
    st.sampled_from([-DAY_MS, DAY_MS, -BOUND_MS, BOUND_MS]),
)


class JumpingClock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.at_ms = START_MS

    def now(self) -> datetime:
        return START + timedelta(milliseconds=self.at_ms - START_MS)

    def monotonic(self) -> float:
        return 0.0


@given(STAMPS)
def test_a_stamp_survives_its_text(stamp: Stamp) -> None:
    assert Stamp.parse(str(stamp)) == stamp


@given(st.text(max_size=60))
def test_other_text_is_refused(text: str) -> None:
    try:
        stamp = Stamp.parse(text)
    except InvalidInput:
        return
    assert Stamp.parse(str(stamp)) == stamp


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.a", "1.a.", ".a.b", "1..b", "-1.a.b", "1.a.b.c", "1.A.b", "1.a.B"),
        *("1.-a.b", "1.a.b\n", "1 .a.b", "1e3.a.b", "9999999999999999.a.b", "1.a." + "b" * 37),
    ],
)
def test_no_stamp(text: str) -> None:
    with pytest.raises(InvalidInput):
        Stamp.parse(text)


@given(STAMPS, STAMPS, STAMPS)
def test_stamps_are_in_one_order(one: Stamp, two: Stamp, three: Stamp) -> None:
    assert (one < two) + (one == two) + (one > two) == 1
    if one < two < three:
        assert one < three
    wanted = sorted([one, two, three], key=lambda s: (s.time_ms, s.site, s.writer))
    assert sorted([three, one, two]) == wanted
    if one.time_ms < two.time_ms:
        assert one < two


class Owner:
    """Keeps the floor as a site does: before a time above it is used."""

    def __init__(self, clock: JumpingClock) -> None:
        self.clock = clock
        self.kept_ms = 0
        self.restart()

    def restart(self) -> None:
        self.hybrid = HybridClock(floor_ms=self.kept_ms, clock=self.clock)

    def take(self) -> int | None:
        """The next time, or None where it is refused."""
        try:
            time_ms = self.hybrid.now_ms()
        except Unavailable as error:
            assert error.hint
            assert int(error.fields["behind_ms"]) > BOUND_MS
            return None
        if (floor_ms := self.hybrid.next_floor_ms()) is not None:
            assert floor_ms == time_ms + AHEAD_MS
            self.kept_ms = max(self.kept_ms, floor_ms)
            self.hybrid.floor_ms = self.kept_ms
        assert time_ms <= self.kept_ms
        return time_ms


@given(st.lists(st.tuples(JUMPS, st.booleans()), max_size=40))
def test_time_never_goes_back(steps: list[tuple[int, bool]]) -> None:
    """Whatever wall time does, and however often the process dies in between."""
    clock = JumpingClock()
    owner = Owner(clock)
    last_ms = -1
    for jump_ms, dies in steps:
        clock.at_ms += jump_ms
        if dies:
            owner.restart()
        time_ms = owner.take()
        if time_ms is None:
            assert owner.kept_ms > clock.at_ms + BOUND_MS
            continue
        assert time_ms >= max(last_ms, clock.at_ms)
        assert time_ms <= max(clock.at_ms, clock.at_ms + BOUND_MS)
        last_ms = time_ms


@given(st.integers(1, 40))
def test_a_clock_that_stands_still_keeps_no_new_floor(calls: int) -> None:
    clock = JumpingClock()
    owner = Owner(clock)
    owner.take()
    for _ in range(calls):
        owner.take()
        assert owner.hybrid.next_floor_ms() is None
    clock.at_ms += AHEAD_MS
    owner.hybrid.now_ms()
    assert owner.hybrid.next_floor_ms() is None  # at the floor, not above it
    clock.at_ms += 1
    owner.hybrid.now_ms()
    assert owner.hybrid.next_floor_ms() == clock.at_ms + AHEAD_MS


@given(st.integers(-DAY_MS, 2 * DAY_MS))
def test_what_was_seen_is_passed_unless_it_is_beyond(ahead_ms: int) -> None:
    clock = JumpingClock()
    hybrid = HybridClock(clock=clock)
    seen_ms = START_MS + ahead_ms
    assert hybrid.is_beyond(seen_ms) == (ahead_ms > BOUND_MS)
    hybrid.observe(seen_ms)
    wanted = START_MS if ahead_ms > BOUND_MS else max(START_MS, seen_ms)
    assert hybrid.now_ms() == wanted


@given(st.lists(st.integers(0, BOUND_MS), max_size=30))
def test_observing_cannot_carry_the_clock_away(steps: list[int]) -> None:
    """Each time is within the bound of the last one seen; after a few, writes stop."""
    clock = JumpingClock()
    hybrid = HybridClock(clock=clock)
    seen_ms = START_MS
    for step_ms in steps:
        seen_ms += step_ms
        hybrid.observe(seen_ms)
    try:
        assert hybrid.now_ms() <= START_MS + BOUND_MS
    except Unavailable:
        assert sum(steps) > BOUND_MS
