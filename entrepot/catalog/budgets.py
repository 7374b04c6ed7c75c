"""What a rule may still spend, shared by all workers of all processes.

Time is what is given out: a worker that wants as much as a rate allows in 0.2 seconds gets the next
0.2 seconds of the rule that nobody has, and waits until they begin. So no sum of what workers use
passes the rate, and nothing has to be given back: what a worker that dies had taken is unused.

Invariant: of one rule no two reservations overlap, whoever asks, since one statement on one row
makes them; the database's clock is the only one.
"""

from dataclasses import dataclass
from typing import Final

from entrepot.catalog.connect import Catalog

QUEUE_MAX_S: Final = 60.0
"""Nobody waits longer, also where the database's clock was set back."""

_RESERVE: Final = """
    INSERT INTO rule_budgets AS had (rule, bytes_until, requests_until)
    VALUES (
        %(rule)s,
        clock_timestamp() + %(bytes_s)s * interval '1 second',
        clock_timestamp() + %(requests_s)s * interval '1 second'
    )
    ON CONFLICT (rule) DO UPDATE SET
        bytes_until = %(bytes_s)s * interval '1 second' + least(
            greatest(had.bytes_until, clock_timestamp()),
            clock_timestamp() + %(queue_s)s * interval '1 second'),
        requests_until = %(requests_s)s * interval '1 second' + least(
            greatest(had.requests_until, clock_timestamp()),
            clock_timestamp() + %(queue_s)s * interval '1 second')
    RETURNING
        extract(epoch FROM bytes_until - clock_timestamp())::float8 - %(bytes_s)s,
        extract(epoch FROM requests_until - clock_timestamp())::float8 - %(requests_s)s
"""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Seconds from now at which the reserved time of each begins; negative is now."""

    bytes_wait_s: float
    requests_wait_s: float


async def reserve(
    catalog: Catalog, *, rule: str, bytes_s: float = 0.0, requests_s: float = 0.0
) -> Reserved:
    """Take the next so many seconds of a rule's bytes and requests; ``NotFound`` without it.

    After a lost answer the time is taken and unused, and asking again takes more.
    """
    given = {
        "rule": rule,
        "bytes_s": bytes_s,
        "requests_s": requests_s,
        "queue_s": QUEUE_MAX_S,
    }
    [(bytes_wait_s, requests_wait_s)] = await catalog.ask(_RESERVE, given)
    return Reserved(float(bytes_wait_s), float(requests_wait_s))
