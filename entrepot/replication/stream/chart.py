"""A stream's windows as text for people: lag over time in one line, and what was done. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from entrepot.catalog.streams import Window

COLUMNS = 60
"""Points of a line: a minute each of the last hour."""

_BARS = "▁▂▃▄▅▆▇█"


def line(values: Sequence[float | None], *, most: float) -> str:
    """One sign a value, by its share of ``most``; a blank where nothing is known."""
    signs = []
    for value in values:
        if value is None:
            signs.append(" ")
        else:
            share = value / most if most else 0.0
            signs.append(_BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))])
    return "".join(signs)


def lag_by_minute(windows: Sequence[Window], *, now: datetime) -> list[float | None]:
    """The worst lag of each of the last minutes, oldest first, in milliseconds."""
    worst: list[float | None] = [None] * COLUMNS
    for window in windows:
        ago = int((now - window.at) / timedelta(minutes=1))
        if 0 <= ago < COLUMNS:
            at = COLUMNS - 1 - ago
            worst[at] = max(worst[at] or 0.0, float(window.lag_ms))
    return worst


def chart(windows: Sequence[Window], *, now: datetime, target_ms: float) -> str:
    """Markdown: the last hour of one rule."""
    if not windows:
        return "nothing yet"
    lags = lag_by_minute(windows, now=now)
    most = max(target_ms, *(lag for lag in lags if lag is not None), 0.0)
    last = windows[-1]
    hour = [each for each in windows if now - each.at < timedelta(hours=1)]
    shipped, errors = (sum(getattr(each, name) for each in hour) for name in ("shipped", "errors"))
    rate = last.shipped / last.seconds if last.seconds else 0.0
    return "\n".join(
        (
            f"```\n{line(lags, most=most)}\n```",
            f"Lag in the last hour, a minute a sign; a full one is {most / 1000:g} s "
            f"(aimed at: {target_ms / 1000:g} s).",
            "",
            "| now | waiting | dead letters | lag | brought a second |",
            "|---|---:|---:|---:|---:|",
            f"| {last.at:%H:%M:%S} UTC | {last.depth} | {last.dead} | {last.lag_ms / 1000:.1f} s "
            f"| {rate:.1f} |",
            "",
            f"In this hour {shipped} brought, {errors} tries failed.",
        )
    )
