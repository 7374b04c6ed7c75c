"""When a rule may run and how fast: pure, a rule and a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from entrepot.catalog.rules import Rule
from entrepot.replication.hours import Allowed, Wait, in_turn, may_run, rate_of
from entrepot.timetable import DAYS, Rate

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday


def rule(**more: Any) -> Rule:
    least = {"name": "r", "buckets": ["photos"], "sites": ["a", "b"], "enabled": True}
    return Rule.model_validate(least | {"created_at": NOW, "updated_at": NOW} | more)


def test_a_rule_that_nothing_holds_may_run() -> None:
    assert may_run(rule(), NOW) == Allowed()
    assert may_run(rule(maintenance=["wed 13:00-14:00"]), NOW) == Allowed()


def test_what_only_a_person_ends_has_no_end() -> None:
    assert may_run(rule(enabled=False), NOW) == Wait(None, "the rule is disabled")
    assert may_run(rule(paused=True), NOW) == Wait(None, "the rule is paused")
    always = rule(maintenance=["daily 00:00-24:00"])
    assert may_run(always, NOW) == Wait(None, "the maintenance windows leave no time")


def test_a_timed_pause_ends_by_itself() -> None:
    until = NOW + timedelta(hours=2)
    paused = rule(paused=True, paused_until=until)
    assert may_run(paused, NOW) == Wait(until, "the rule is paused")
    assert may_run(paused, until) == Allowed()


def test_holds_that_follow_each_other_are_one() -> None:
    until = NOW + timedelta(hours=2)
    held = rule(
        paused=True,
        paused_until=until,
        maintenance=["wed 14:00-15:00", "wed 14:30-16:00"],
    )
    assert may_run(held, NOW) == Wait(NOW + timedelta(hours=4), "the rule is paused")


windows = st.lists(
    st.builds(
        lambda days, start, hours: f"{','.join(days)} {start:02}:00-{(start + hours) % 24:02}:00",
        st.lists(st.sampled_from(DAYS), min_size=1, max_size=7),
        st.integers(0, 23),
        st.integers(1, 20),
    ),
    max_size=4,
)


@given(
    windows,
    st.one_of(st.none(), st.integers(-100, 10_000)),
    st.integers(0, 7 * 24 * 60),
    st.sampled_from(["UTC", "Europe/Berlin"]),
)
def test_it_may_run_when_it_was_told_to_and_not_before(
    maintenance: list[str], pause_min: int | None, minute: int, zone: str
) -> None:
    until = None if pause_min is None else NOW + timedelta(minutes=pause_min)
    held = rule(
        maintenance=maintenance, time_zone=zone, paused=until is not None, paused_until=until
    )
    now = NOW + timedelta(minutes=minute)
    answer = may_run(held, now)
    if isinstance(answer, Wait) and answer.until is not None:
        assert answer.until > now
        assert may_run(held, answer.until) == Allowed()
        for share in (0.01, 0.5, 0.99):
            assert isinstance(may_run(held, now + (answer.until - now) * share), Wait)


def test_limits_by_the_hour() -> None:
    limited = rule(
        bytes_per_s="1MB",
        requests_per_s=5,
        timetable=["mon-fri 08:00-18:00 20kB/s", "sun 00:00-24:00 off"],
        time_zone="Europe/Berlin",
    )
    assert rate_of(limited, NOW) == Rate(20_000, None)
    assert rate_of(limited, NOW.replace(hour=20)) == Rate(1_000_000, 5)
    assert rate_of(limited, NOW - timedelta(days=3)) == Rate()
    assert rate_of(rule(), NOW).unlimited


def test_who_may_run_goes_first_and_who_never_may_is_left_out() -> None:
    later = rule(name="later", paused=True, paused_until=NOW + timedelta(hours=2))
    soon = rule(name="soon", maintenance=["wed 11:00-12:30"])
    never = rule(name="never", paused=True)
    far = rule(name="far", paused=True, paused_until=NOW + timedelta(hours=13))
    off = rule(name="off", enabled=False)
    free = rule(name="free")
    assert [each.name for each in in_turn([later, never, far, soon, off, free], NOW)] == [
        "free",
        "soon",
        "later",
    ]
