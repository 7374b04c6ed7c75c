"""Tokens of the API: who may call it, for what, until when.

Invariant: a token itself is never stored, only the SHA-256 of its random text; a revoked one stays
listed and is never valid again, and its name is never given out twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.errors import InvalidInput, NotFound


class Scope(StrEnum):
    """What a token is for; one does not imply another."""

    REPLICATION_READ = "replication:read"
    REPLICATION_WRITE = "replication:write"


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``id`` is the part of its text that is no secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    token_sha256: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Neither expired nor revoked."""
        return self.revoked_at is None and now < self.expires_at


async def add_token(
    catalog: Catalog,
    *,
    id: str,
    name: str,
    scopes: Sequence[Scope],
    token_sha256: str,
    expires_at: datetime,
) -> Token:
    """Store a token; ``AlreadyExists`` where the name was ever used."""
    if not scopes:
        raise InvalidInput("a token is for something", hint="--scope may be given several times")
    statement = (
        insert(t.ApiToken)
        .values(
            id=id,
            name=name,
            scopes=sorted(set(scopes)),
            token_sha256=token_sha256,
            expires_at=expires_at,
        )
        .returning(*t.ApiToken.__table__.c)
    )
    async with catalog.begin() as connection:
        return _token((await connection.execute(statement)).one())


async def find_token(catalog: Catalog, *, id: str) -> Token | None:
    """The token of that id, valid or not."""
    query = select(*t.ApiToken.__table__.c).where(t.ApiToken.id == id)
    async with catalog.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    return _token(row) if row else None


async def list_tokens(catalog: Catalog) -> tuple[Token, ...]:
    """All tokens by name, those that are over too."""
    query = select(*t.ApiToken.__table__.c).order_by(t.ApiToken.name)
    async with catalog.begin() as connection:
        return tuple(map(_token, await connection.execute(query)))


async def revoke_token(catalog: Catalog, *, name: str) -> None:
    """End a token now, for ever; ``NotFound`` without one. Twice is once."""
    statement = (
        update(t.ApiToken)
        .where(t.ApiToken.name == name)
        .values(revoked_at=func.coalesce(t.ApiToken.revoked_at, func.clock_timestamp()))
    )
    async with catalog.begin() as connection:
        if (await connection.execute(statement)).rowcount == 0:
            raise NotFound("no such token", hint="entrepot token list", token=name)


def _token(row: Row[Any]) -> Token:
    return Token(**{**row._mapping, "scopes": tuple(row.scopes)})
