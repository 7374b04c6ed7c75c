"""Certificates of rules, as they were signed; the newest of each rule is asked for most.

Invariant: a row's document is never changed, since its signature would not hold.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.clock import new_id


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate; ``document`` is the JSON that was signed, line feed included."""

    id: UUID
    rule: str
    finished_at: datetime
    identical: bool
    document: str


async def save_certificate(
    catalog: Catalog, *, rule: str, finished_at: datetime, identical: bool, document: str
) -> Certificate:
    """Keep a certificate (8 MiB at most)."""
    kept = Certificate(new_id(), rule, finished_at, identical, document)
    async with catalog.begin() as connection:
        await connection.execute(insert(t.Certificate).values(**asdict(kept)))
    return kept


async def latest_certificates(
    catalog: Catalog, *, rule: str | None = None, most: int = 20
) -> tuple[Certificate, ...]:
    """The newest certificates first, of one rule or of all."""
    query = select(*t.Certificate.__table__.c)
    if rule is not None:
        query = query.where(t.Certificate.rule == rule)
    newest = query.order_by(t.Certificate.finished_at.desc(), t.Certificate.id).limit(most)
    async with catalog.begin() as connection:
        return tuple(Certificate(**row._mapping) for row in await connection.execute(newest))
