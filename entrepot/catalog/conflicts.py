"""The conflict ledger: writes of one key neither of which knew of the other, and who won.

Invariant: a conflict is the same one where bucket, key and the contending versions are; recorded
again, it stays as it was. What a person decided later (``taken``) is beside the first verdict, not
in its place.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.errors import InvalidInput, NotFound, PreconditionFailed

LIST_MAX = 1000
CONTENDERS_MAX = 100
"""As many as a rule has sites."""


@dataclass(frozen=True, slots=True)
class NewConflict:
    """A conflict to be recorded; ``contenders`` as JSON objects with ``identity`` at least, which
    is the same at every site; ``winner`` the place of one of them.
    """

    key: str
    contenders: Sequence[Mapping[str, Any]]
    winner: int
    policy: str
    reason: str
    is_ambiguous: bool
    serves: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A conflict as it is recorded.

    ``serves`` is the version id that stands for the write which is served: the winner, or
    ``taken`` where somebody decided otherwise.
    """

    id: int
    rule: str
    bucket: str
    key: str
    contenders: tuple[Mapping[str, Any], ...]
    winner: int
    policy: str
    reason: str
    is_ambiguous: bool
    serves: str
    job_id: UUID
    detected_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    taken: int | None

    @property
    def served(self) -> int:
        """The place of the contender that is served."""
        return self.winner if self.taken is None else self.taken


async def record_conflicts(
    catalog: Catalog, found: Sequence[NewConflict], *, rule: str, bucket: str, job_id: UUID
) -> None:
    """Record conflicts; those that are recorded already stay as they are.

    One of some contenders of a conflict that is recorded is that conflict, met again by who went
    on where another was killed.
    """
    rows = [
        {
            "rule": rule,
            "bucket": bucket,
            "key": each.key,
            "names": _names(each.contenders),
            "contenders": {"list": [dict(one) for one in each.contenders]},
            "winner": each.winner,
            "policy": each.policy,
            "reason": each.reason,
            "is_ambiguous": each.is_ambiguous,
            "serves": each.serves,
            "job_id": job_id,
        }
        for each in found
    ]
    if not rows:
        return
    query = select(t.Conflict.key, t.Conflict.contenders).where(
        t.Conflict.bucket == bucket, t.Conflict.key.in_([row["key"] for row in rows])
    )
    async with catalog.begin() as connection:
        known: dict[str, list[frozenset[str]]] = {}
        for key, contenders in await connection.execute(query):
            known.setdefault(key, []).append(_identities(contenders["list"]))
        new = [
            row
            for row, each in zip(rows, found, strict=True)
            if not any(_identities(each.contenders) <= names for names in known.get(each.key, ()))
        ]
        if new:
            await connection.execute(insert(t.Conflict).on_conflict_do_nothing(), new)


async def has_lost(catalog: Catalog, *, bucket: str, key: str, identity: str) -> bool:
    """Whether a conflict is recorded which that write lost; it loses its place only once."""
    query = select(t.Conflict.contenders, t.Conflict.winner).where(
        t.Conflict.bucket == bucket, t.Conflict.key == key
    )
    async with catalog.begin() as connection:
        return any(
            str(each["identity"]) == identity
            for contenders, winner in await connection.execute(query)
            for number, each in enumerate(contenders["list"])
            if number != winner
        )


def _identities(contenders: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(each["identity"]) for each in contenders)


def _names(contenders: Sequence[Mapping[str, Any]]) -> str:
    names = "\n".join(sorted(_identities(contenders)))
    return hashlib.sha256(names.encode()).hexdigest()


async def get_conflict(catalog: Catalog, *, number: int) -> Conflict:
    """The conflict of that number, or ``NotFound``."""
    async with catalog.begin() as connection:
        query = select(t.Conflict).where(t.Conflict.id == number)
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound("no such conflict", hint="entrepot replicate conflicts", conflict=number)
    return _conflict(row)


async def list_conflicts(
    catalog: Catalog, *, rule: str = "", open_only: bool = False, limit: int = 100
) -> tuple[Conflict, ...]:
    """The conflicts of a rule, or of all, newest first; ``open_only``: which nobody looked into."""
    if not 1 <= limit <= LIST_MAX:
        raise InvalidInput("limit is out of range", limit=limit, most=LIST_MAX)
    query = select(t.Conflict).order_by(t.Conflict.id.desc()).limit(limit)
    query = query.where(t.Conflict.rule == rule) if rule else query
    query = query.where(t.Conflict.resolved_at.is_(None)) if open_only else query
    async with catalog.begin() as connection:
        return tuple(map(_conflict, await connection.execute(query)))


async def resolve_conflict(
    catalog: Catalog, *, conflict: Conflict, taken: int, serves: str, by: str
) -> None:
    """Record that another contender is served now; ``PreconditionFailed`` if that moved meanwhile.

    Recording the same again changes nothing.
    """
    statement = (
        update(t.Conflict)
        .where(t.Conflict.id == conflict.id)
        .where(or_(t.Conflict.serves == conflict.serves, t.Conflict.serves == serves))
        .values(taken=taken, serves=serves, resolved_by=by, resolved_at=func.clock_timestamp())
    )
    async with catalog.begin() as connection:
        if (await connection.execute(statement)).rowcount == 0:
            raise PreconditionFailed("somebody else resolved this conflict", conflict=conflict.id)


def _conflict(row: Row[Any]) -> Conflict:
    fields = dict(row._mapping)
    del fields["names"]
    return Conflict(**{**fields, "contenders": tuple(row.contenders["list"])})
