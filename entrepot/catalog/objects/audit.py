"""The audit trail: rows that are only added, each sealed with a key and chained to the one before.

Invariant: ``mac`` is HMAC-SHA256, under a key that the database does not have, of the mac before
it, chain, number and record; the chain's own row counts them and is sealed as well. So a row that
is changed, removed, added or moved is found, and so is the end of a chain that is cut off, unless
an older state of the chain's row is put back with it (anchors outside the database are for that).

Words: *chain* the rows of one writer; writers never wait for each other here.
"""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from entrepot.catalog.connect import Ask, Catalog
from entrepot.catalog.objects.facts import Json
from entrepot.catalog.objects.rows import as_json

START = bytes(32)
"""The mac before the first row."""

_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('audit months', 0))")
_MONTH = text("""
    SELECT to_regclass(:name) IS NOT NULL OR EXISTS (
        SELECT FROM audit_rest WHERE at >= :begins AND at < :ends
    )
""")
_OPEN = """
    INSERT INTO audit_chains (chain, writer, key_number, length, head)
    VALUES (%(chain)s, %(writer)s, %(key_number)s, 0, %(head)s)
    ON CONFLICT DO NOTHING
"""
# Apart from the next, since a statement that waits for a lock does not see what it waited for.
_HOLD = "SELECT 1 FROM audit_chains WHERE chain = %(chain)s FOR UPDATE"
_HEAD = """
    SELECT length, mac FROM audit_chains c LEFT JOIN audit a
        ON a.chain = c.chain AND a.number = c.length
    WHERE c.chain = %(chain)s
"""
_ADD = """
    INSERT INTO audit (at, chain, number, record, mac)
    SELECT at, %(chain)s, number, record, decode(mac, 'hex')
    FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r
        (at timestamptz, number bigint, record jsonb, mac text)
"""
_MOVE = "UPDATE audit_chains SET length = %(length)s, head = %(head)s WHERE chain = %(chain)s"
_CHAINS = text(
    "SELECT chain, writer, key_number, length, head FROM audit_chains ORDER BY started_at"
)
_ROWS = text("""
    SELECT number, record, mac FROM audit WHERE chain = :chain AND number > :after
    ORDER BY number LIMIT 1000
""")


@dataclass(frozen=True, slots=True)
class AuditChain:
    """The chain that one writer adds to. ``secret`` is the audit key of that number."""

    chain: UUID
    writer: str
    key_number: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Where a chain does not hold."""

    chain: UUID
    number: int
    what: str


async def ready_months(catalog: Catalog, now: datetime) -> None:
    """Have a table for the rows of this month and of the next; again changes nothing.

    A month whose first rows found no table stays with the rest.
    """
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    second = (first + timedelta(days=32)).replace(day=1)
    third = (second + timedelta(days=32)).replace(day=1)
    for begins, ends in ((first, second), (second, third)):
        name = f"audit_{begins:%Y_%m}"
        async with catalog.begin() as connection:
            await connection.execute(_ONE_AT_A_TIME)
            given = {"name": name, "begins": begins, "ends": ends}
            if (await connection.execute(_MONTH, given)).scalar_one():
                continue
            bounds = f"FROM ('{begins.isoformat()}') TO ('{ends.isoformat()}')"
            await connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF audit FOR VALUES {bounds}")
            )


def head_of(chain: AuditChain) -> tuple[Ask, ...]:
    """Holds the chain until the transaction ends, and asks for its end; starts it where it is new.

    So who only reads leaves no chain.
    """
    given = {"chain": chain.chain}
    new = given | {
        "writer": chain.writer,
        "key_number": chain.key_number,
        "head": _sealed_head(chain.secret, chain.chain, 0, START),
    }
    return (_OPEN, new), (_HOLD, given), (_HEAD, given)


def next_records(
    chain: AuditChain, head: tuple[Any, ...], records: Sequence[Json], *, at: datetime
) -> tuple[Ask, ...]:
    """Adds rows to the chain, whose end ``head_of`` gave, within the same transaction."""
    length, mac = head[0], bytes(head[1] or START)
    rows = []
    for record in records:
        length += 1
        whole = {"at": at.isoformat(), **record}
        mac = _mac(chain.secret, mac, chain.chain, length, whole)
        rows.append({"at": whole["at"], "number": length, "record": whole, "mac": mac.hex()})
    moved = {"length": length, "head": _sealed_head(chain.secret, chain.chain, length, mac)}
    return (
        (_ADD, {"chain": chain.chain, "rows": as_json(rows)}),
        (_MOVE, {"chain": chain.chain, **moved}),
    )


async def flaws(catalog: Catalog, secrets: dict[int, bytes]) -> AsyncIterator[Flaw]:
    """Every place where a chain does not hold. Memory: 1,000 rows. ``secrets`` by key number."""
    async with catalog.begin() as connection:
        chains = (await connection.execute(_CHAINS)).all()
    for chain, _writer, key_number, length, head in chains:
        if key_number not in secrets:
            yield Flaw(chain, 0, "its key is not in the key ring")
            continue
        async for flaw in _flaws_of(catalog, chain, secrets[key_number], length, bytes(head)):
            yield flaw


async def _flaws_of(
    catalog: Catalog, chain: UUID, secret: bytes, length: int, head: bytes
) -> AsyncIterator[Flaw]:
    mac, number, more = START, 0, True
    while more:
        async with catalog.begin() as connection:
            found = (await connection.execute(_ROWS, {"chain": chain, "after": number})).all()
        more = bool(found)
        for row in found:
            if row.number != number + 1:
                yield Flaw(chain, number + 1, "a row is missing")
            elif not hmac.compare_digest(
                _mac(secret, mac, chain, row.number, row.record), bytes(row.mac)
            ):
                yield Flaw(chain, row.number, "a row was changed")
            number, mac = row.number, bytes(row.mac)
    if number != length or not hmac.compare_digest(_sealed_head(secret, chain, number, mac), head):
        yield Flaw(chain, number, "its end was cut off or added to")


def _mac(secret: bytes, before: bytes, chain: UUID, number: int, record: Any) -> bytes:
    plain = json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)
    bound = before + chain.bytes + number.to_bytes(8) + plain.encode()
    return hmac.digest(secret, bound, hashlib.sha256)


def _sealed_head(secret: bytes, chain: UUID, length: int, mac: bytes) -> bytes:
    return hmac.digest(secret, b"head" + chain.bytes + length.to_bytes(8) + mac, hashlib.sha256)
