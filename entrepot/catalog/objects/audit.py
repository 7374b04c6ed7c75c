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
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import Json
from entrepot.catalog.objects.rows import as_json

START = bytes(32)
"""The mac before the first row."""

_OPEN = text("""
    INSERT INTO audit_chains (chain, writer, key_number, length, head)
    VALUES (:chain, :writer, :key_number, 0, :head)
    ON CONFLICT DO NOTHING
""")
_HEAD = text("""
    SELECT length, (SELECT mac FROM audit a WHERE a.chain = c.chain AND a.number = c.length)
    FROM audit_chains c WHERE chain = :chain FOR UPDATE
""")
_ADD = text("""
    INSERT INTO audit (at, chain, number, record, mac)
    SELECT at, :chain, number, record, decode(mac, 'hex')
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r
        (at timestamptz, number bigint, record jsonb, mac text)
""")
_MOVE = text("UPDATE audit_chains SET length = :length, head = :head WHERE chain = :chain")
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


async def open_chain(catalog: Catalog, chain: AuditChain) -> None:
    """Start a chain; again is no error."""
    given = {
        "chain": chain.chain,
        "writer": chain.writer,
        "key_number": chain.key_number,
        "head": _sealed_head(chain.secret, chain.chain, 0, START),
    }
    async with catalog.begin() as connection:
        await connection.execute(_OPEN, given)


async def add_records(
    connection: AsyncConnection, chain: AuditChain, records: Sequence[Json], *, at: datetime
) -> None:
    """Add rows to the chain, within the caller's transaction."""
    length, head = (await connection.execute(_HEAD, {"chain": chain.chain})).one()
    mac = bytes(head) if head is not None else START
    rows = []
    for record in records:
        length += 1
        whole = {"at": at.isoformat(), **record}
        mac = _mac(chain.secret, mac, chain.chain, length, whole)
        rows.append({"at": whole["at"], "number": length, "record": whole, "mac": mac.hex()})
    await connection.execute(_ADD, {"chain": chain.chain, "rows": as_json(rows)})
    moved = {"length": length, "head": _sealed_head(chain.secret, chain.chain, length, mac)}
    await connection.execute(_MOVE, {"chain": chain.chain, **moved})


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
