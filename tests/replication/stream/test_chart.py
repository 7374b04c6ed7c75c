"""Lag over time as one line of text."""

from datetime import UTC, datetime, timedelta

from entrepot.catalog.streams import Window
from entrepot.replication.stream.chart import COLUMNS, chart, lag_by_minute, line

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def window(ago_s: float, lag_ms: int, *, shipped: int = 0) -> Window:
    at = NOW - timedelta(seconds=ago_s)
    return Window("photos", at, 5.0, shipped, 0, 1, 7, 2, lag_ms)


def test_the_worst_of_each_minute() -> None:
    found = lag_by_minute([window(3700, 9), window(150, 5), window(130, 8), window(1, 2)], now=NOW)
    assert len(found) == COLUMNS
    assert found[-3:] == [8.0, None, 2.0]
    assert set(found[:-3]) == {None}


def test_signs_by_share() -> None:
    assert line([None, 0, 50, 99, 100, 500], most=100) == " ▁▅███"
    assert line([0], most=0) == "▁"


def test_the_chart_says_what_is_now_and_in_this_hour() -> None:
    text = chart([window(4000, 0, shipped=9), window(90, 100, shipped=5)], now=NOW, target_ms=100)
    assert "a full one is 0.1 s" in text
    assert "| 11:58:30 UTC | 7 | 2 | 0.1 s | 1.0 |" in text
    assert "In this hour 5 brought, 1 tries failed." in text
    assert chart([], now=NOW, target_ms=100) == "nothing yet"
