"""Weekly windows and the limits in them: what people may write, and what it means."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import InvalidInput
from entrepot.timetable import (
    DAYS,
    Rate,
    Window,
    parse_limit,
    parse_window,
    parse_zone,
    rate_at,
)

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)

days = st.sets(st.integers(0, 6), min_size=1).map(frozenset)
minutes = st.tuples(st.integers(0, 1439), st.integers(0, 1440)).filter(lambda m: m[0] != m[1])
windows = st.builds(lambda when, m: Window(when, *m), days, minutes)
instants = st.datetimes(
    min_value=datetime(2026, 1, 1), max_value=datetime(2027, 12, 31), timezones=st.just(UTC)
)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "days", "start", "stop"),
    [
        ("mon-fri 08:00-18:00", {0, 1, 2, 3, 4}, 480, 1080),
        ("daily 22:00-06:00", set(range(7)), 1320, 360),
        ("sat,sun 00:00-24:00", {5, 6}, 0, 1440),
        ("fri-mon 00:30-01:00", {4, 5, 6, 0}, 30, 60),
        (" WED,fri-sat  09:00-09:01 ", {2, 4, 5}, 540, 541),
    ],
)
def test_windows(text: str, days: set[int], start: int, stop: int) -> None:
    assert parse_window(text) == Window(frozenset(days), start, stop)


@pytest.mark.parametrize(
    "text",
    [
        *("", "mon", "08:00-18:00", "mon 8:00-18:00", "mon 08:00-18:00 x", "mon 08:00", "m 1-2"),
        *("mon 24:00-01:00", "mon 08:60-09:00", "mon 08:00-24:01", "mon 08:00-08:00"),
        *("monday 08:00-09:00", "mon- 08:00-09:00", "mon,,tue 08:00-09:00", "mon-x 01:00-02:00"),
        "mon ٠٨:00-09:00",
    ],
)
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("daily 08:00-18:00 10MB/s", Rate(10_000_000, None)),
        ("daily 08:00-18:00 200req/s", Rate(None, 200)),
        ("daily 08:00-18:00 200req/s 1Mi/s", Rate(1 << 20, 200)),
        ("daily 08:00-18:00 off", Rate()),
    ],
)
def test_limits(text: str, rate: Rate) -> None:
    window, found = parse_limit(text)
    assert (window, found) == (parse_window("daily 08:00-18:00"), rate)
    assert parse_limit(f"daily 08:00-18:00 {found}")[1] == rate


@pytest.mark.parametrize(
    "what",
    [
        *("", "10MB", "10MB/s 20MB/s", "5req/s 6req/s", "off 5req/s", "0req/s", "-5req/s", "fast"),
        *("9999/s", "10MBps", "1.5req/s", "10/s 10/s"),
    ],
)
def test_limits_that_are_none(what: str) -> None:
    with pytest.raises(InvalidInput):
        parse_limit(f"daily 08:00-18:00 {what}")


@pytest.mark.parametrize("name", ["", "Nowhere/City", "../../etc/passwd", "/etc/passwd", "a\0b"])
def test_zones_that_are_none(name: str) -> None:
    with pytest.raises(InvalidInput):
        parse_zone(name)


def test_a_window_is_of_the_wall_clock_of_its_zone() -> None:
    window = parse_window("mon-fri 08:00-18:00")
    assert window.holds(at("2026-07-06T08:00"), BERLIN)  # a Monday in summer
    assert window.holds(at("2026-01-05T08:00"), BERLIN)
    assert not window.holds(at("2026-07-06T07:59:59"), BERLIN)
    assert not window.holds(at("2026-07-06T18:00"), BERLIN)
    assert not window.holds(at("2026-07-05T12:00"), BERLIN)
    assert window.end(at("2026-07-06T08:00"), BERLIN) == at("2026-07-06T18:00")


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    window = parse_window("sat 22:00-06:00")
    assert window.holds(at("2026-03-07T23:00"), BERLIN)
    assert window.holds(at("2026-03-08T05:59"), BERLIN)
    assert not window.holds(at("2026-03-08T06:00"), BERLIN)
    assert not window.holds(at("2026-03-07T05:00"), BERLIN)
    assert window.end(at("2026-03-07T23:00"), BERLIN) == at("2026-03-08T06:00")


def test_clock_changes() -> None:
    """Spring skips 02:00 to 03:00 in Berlin, autumn has 02:00 to 03:00 twice."""
    night = parse_window("daily 01:00-03:30")
    spring = at("2026-03-29T01:30")
    assert night.end(spring, BERLIN) - spring == timedelta(hours=1)
    autumn = at("2026-10-25T01:30")
    assert night.end(autumn, BERLIN) - autumn == timedelta(hours=3)
    second_half_past_two = autumn + timedelta(hours=2)
    short = parse_window("daily 02:15-02:45")
    assert short.end(second_half_past_two, BERLIN) - second_half_past_two == timedelta(minutes=15)


@given(windows, instants, zones)
def test_an_end_lies_ahead_and_within_a_day_and_an_hour(
    window: Window, now: datetime, zone: str
) -> None:
    place = ZoneInfo(zone)
    if not window.holds(now, place):
        with pytest.raises(InvalidInput):
            window.end(now, place)
        return
    end = window.end(now, place)
    assert timedelta(0) < end - now <= timedelta(hours=25)
    # The next minute after an end is in it only where it begins anew at once, or is repeated.
    if window.holds(end, place):
        local = end.astimezone(place)
        begins = (local.hour * 60 + local.minute) == window.start_min % 1440
        repeated = local.utcoffset() != (local - timedelta(hours=3)).utcoffset() or local.fold
        assert begins or repeated or window.start_min == 0 or window.stop_min == 1440


@given(windows, instants)
def test_in_utc_a_window_holds_until_its_end_and_not_at_it(window: Window, now: datetime) -> None:
    utc = ZoneInfo("UTC")
    if window.holds(now, utc):
        end = window.end(now, utc)
        for share in (0.1, 0.5, 0.999):
            assert window.holds(now + (end - now) * share, utc)


def test_the_first_line_that_fits_decides() -> None:
    lines = [parse_limit(text) for text in ("mon 08:00-09:00 1MB/s", "daily 00:00-24:00 off")]
    utc = ZoneInfo("UTC")
    assert rate_at(MONDAY.replace(hour=8), utc, lines) == Rate(1_000_000, None)
    assert rate_at(MONDAY.replace(hour=9), utc, lines) == Rate()
    assert rate_at(MONDAY.replace(hour=9), utc, lines[:1]) is None


def test_days_are_those_of_python() -> None:
    assert [DAYS[(MONDAY + timedelta(days=n)).weekday()] for n in range(7)] == list(DAYS)
