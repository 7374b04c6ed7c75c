"""A process that spends requests of a rule's budget and prints when: ``DSN RULE RATE SECONDS``."""

import asyncio
import sys
import time

from entrepot.catalog.budgets import Reserved, reserve
from entrepot.catalog.connect import Catalog
from entrepot.replication.budget import Budget
from entrepot.timetable import Rate


async def spend(dsn: str, rule: str, per_s: int, last_s: float) -> None:
    """One request at a time, each printed as the machine's timer has it."""
    async with Catalog.open(dsn, pool_size=1) as catalog:

        async def ask(*, bytes_s: float = 0.0, requests_s: float = 0.0) -> Reserved:
            return await reserve(catalog, rule=rule, bytes_s=bytes_s, requests_s=requests_s)

        budget = Budget(ask, rate=lambda: Rate(None, per_s))
        end = time.monotonic() + last_s
        while time.monotonic() < end:
            await budget.take(requests=1)
            print(time.monotonic(), flush=True)


if __name__ == "__main__":
    asyncio.run(spend(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
