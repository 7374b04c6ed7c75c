"""What a rule's stream did, window by window, for a day; and whether another run waits for it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.lag import Lag, lag_of
from entrepot.errors import RetryableError

KEEP = timedelta(days=1)
HEIR_S = 3.0
"""Who waits says so twice a second."""

_HEIR = text("""
    INSERT INTO stream_heirs VALUES (:rule, clock_timestamp())
    ON CONFLICT (rule) DO UPDATE SET waiting_at = excluded.waiting_at
""")
_NO_HEIR = text("DELETE FROM stream_heirs WHERE rule = :rule")
_HAS_HEIR = text("""
    SELECT EXISTS (SELECT FROM stream_heirs
        WHERE rule = :rule AND waiting_at > clock_timestamp() - :within)
""")
_ADD = text("""
    INSERT INTO stream_windows
        (rule, seconds, shipped, shipped_bytes, errors, depth, dead, lag_ms)
    VALUES (:rule, :seconds, :shipped, :shipped_bytes, :errors, :depth, :dead, :lag_ms)
    RETURNING at
""")
_PRUNE = text("DELETE FROM stream_windows WHERE rule = :rule AND at < clock_timestamp() - :keep")
_READ = text("""
    SELECT rule, at, seconds, shipped, shipped_bytes, errors, depth, dead, lag_ms
    FROM stream_windows WHERE rule = :rule AND at > clock_timestamp() - :within ORDER BY at
""")
_LAST = text("""
    SELECT w.rule, w.at, w.seconds, w.shipped, w.shipped_bytes, w.errors, w.depth, w.dead, w.lag_ms
    FROM unnest(CAST(:rules AS text[])) AS r (name) CROSS JOIN LATERAL (
        SELECT * FROM stream_windows WHERE rule = r.name ORDER BY at DESC LIMIT 1
    ) w
""")


@dataclass(frozen=True, slots=True)
class Window:
    """A few seconds of a stream; ``depth``, ``dead`` and ``lag_ms`` as they were at its end."""

    rule: str
    at: datetime
    seconds: float
    shipped: int
    shipped_bytes: int
    errors: int
    depth: int
    dead: int
    lag_ms: int


async def announce_heir(control: Catalog, rule: str) -> None:
    """Say that another run is ready to take the rule's stream over."""
    async with control.begin() as connection:
        await connection.execute(_HEIR, {"rule": rule})


async def forget_heir(control: Catalog, rule: str) -> None:
    """Whoever waits still says so again."""
    async with control.begin() as connection:
        await connection.execute(_NO_HEIR, {"rule": rule})


async def has_heir(control: Catalog, rule: str) -> bool:
    """Whether another run waits for this one to end."""
    async with control.begin() as connection:
        given = {"rule": rule, "within": timedelta(seconds=HEIR_S)}
        return bool((await connection.execute(_HAS_HEIR, given)).scalar_one())


async def record_window(
    control: Catalog,
    sites: Mapping[str, Catalog],
    *,
    rule: str,
    seconds: float,
    shipped: int,
    shipped_bytes: int,
    errors: int,
) -> Window:
    """Keep what a stream did in so many seconds, with how far behind it is now.

    What waits at a site that does not answer is left out.
    """
    lags: list[Lag] = []
    for site, catalog in sites.items():
        with suppress(RetryableError):
            lags += await lag_of({site: catalog}, rule=rule)
    depth, dead = sum(lag.depth for lag in lags), sum(lag.dead for lag in lags)
    lag_ms = round(1000 * max((lag.lag_s for lag in lags), default=0.0))
    given = {
        "rule": rule,
        "seconds": seconds,
        "shipped": shipped,
        "shipped_bytes": shipped_bytes,
        "errors": errors,
        "depth": depth,
        "dead": dead,
        "lag_ms": lag_ms,
    }
    async with control.begin() as connection:
        at = (await connection.execute(_ADD, given)).scalar_one()
        await connection.execute(_PRUNE, {"rule": rule, "keep": KEEP})
    return Window(rule, at, seconds, shipped, shipped_bytes, errors, depth, dead, lag_ms)


async def windows(control: Catalog, rule: str, *, within: timedelta = KEEP) -> tuple[Window, ...]:
    """The windows of a rule's stream, oldest first; a day has 17,280."""
    async with control.begin() as connection:
        found = await connection.execute(_READ, {"rule": rule, "within": within})
        return tuple(Window(*row) for row in found)


async def last_windows(control: Catalog, rules: Sequence[str]) -> dict[str, Window]:
    """The newest window of each of these rules that ever had one within a day."""
    async with control.begin() as connection:
        found = await connection.execute(_LAST, {"rules": list(rules)})
        return {row.rule: Window(*row) for row in found}
