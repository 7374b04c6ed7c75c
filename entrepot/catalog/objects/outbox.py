"""The outbox as one consumer sees it: what waits, what is done, what could not be done.

Invariant: a row goes when what it asks for is done, never before, and nobody remembers how far he
has read: a commit that took long has a low number and comes late. The one consumer of a name may
be two for a moment (a process that slept); both then do the same, and doing it twice is no harm.

Words: *consumer* a rule and the site that it brings writes to, ``rule>site``; *dead letter* what
was tried often enough and waits for a person.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.objects.rows import COLUMNS, to_row

CHANNEL: Final = "outbox"
"""What a commit notifies that put rows into the outbox."""

REASON_MAX = 1000

_COLUMNS_V = ", ".join(f"v.{name.strip()}" for name in COLUMNS.split(","))
_WAITING = f"""
    SELECT o.id, o.bucket_id, o.key, o.version_id, o.kind, b.name, b.tenant_id, {_COLUMNS_V}
    FROM (
        SELECT * FROM outbox WHERE consumer = %(consumer)s AND id <> ALL(%(skip)s)
        ORDER BY id LIMIT %(most)s
    ) o
    LEFT JOIN buckets b ON b.id = o.bucket_id
    LEFT JOIN versions v
        ON v.bucket_id = o.bucket_id AND v.key = o.key AND v.version_id = o.version_id
    ORDER BY o.id
"""
_PROGRESS = """
    INSERT INTO outbox_progress AS p (consumer, shipped, shipped_bytes, errors)
    SELECT %(consumer)s, (SELECT count(*) FROM gone), %(size_bytes)s, %(errors)s
    ON CONFLICT (consumer) DO UPDATE SET shipped = p.shipped + excluded.shipped,
        shipped_bytes = p.shipped_bytes + excluded.shipped_bytes,
        errors = p.errors + excluded.errors, updated_at = clock_timestamp()
"""
_DONE = f"""
    WITH gone AS (DELETE FROM outbox WHERE id = ANY(%(ids)s) RETURNING 1) {_PROGRESS}
"""
_BURY = text("""
    WITH gone AS (DELETE FROM outbox WHERE id = ANY(:ids) RETURNING *)
    INSERT INTO dead_letters
        (consumer, bucket_id, key, version_id, kind, stamp, since, tries, reason)
    SELECT consumer, bucket_id, key, version_id, kind, stamp, since, :tries, :reason FROM gone
""")
_AGAIN = text("""
    WITH back AS (
        DELETE FROM dead_letters WHERE id = ANY(:ids) OR :everything RETURNING *
    )
    INSERT INTO outbox (consumer, bucket_id, key, version_id, kind, stamp, since)
    SELECT consumer, bucket_id, key, version_id, kind, stamp, since FROM back
""")
_LETTERS = text("""
    SELECT d.id, d.consumer, coalesce(b.name, ''), d.key, d.version_id, d.kind, d.since,
        d.failed_at, d.tries, d.reason
    FROM dead_letters d LEFT JOIN buckets b ON b.id = d.bucket_id
    WHERE d.id > :after ORDER BY d.id LIMIT :most
""")
_SUBSCRIBE = text("""
    INSERT INTO outbox_consumers (name, bucket_id, prefix, replicas)
    VALUES (:name, :bucket_id, :prefix, false)
    ON CONFLICT (bucket_id, name) DO UPDATE SET prefix = excluded.prefix, replicas = false
        WHERE (outbox_consumers.prefix, outbox_consumers.replicas) <> (excluded.prefix, false)
""")
_CONSUMERS = text("SELECT DISTINCT name FROM outbox_consumers WHERE NOT replicas")
_UNSUBSCRIBE = tuple(
    text(f"DELETE FROM {table} WHERE {column} = :name AND (bucket_id = ANY(:ids)) = :these")
    for table, column in (
        ("outbox_consumers", "name"),
        ("outbox", "consumer"),
        ("dead_letters", "consumer"),
    )
)
_FORGET = text("DELETE FROM outbox_progress WHERE consumer = :name")


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event and the version that it is about, as it is now; ``row`` None: it is gone."""

    id: int
    bucket_id: int
    key: str
    version_id: str
    kind: str
    bucket: str | None
    tenant_id: str | None
    row: ObjectRow | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be brought to a site; ``since`` is when it was written."""

    id: int
    consumer: str
    bucket: str
    key: str
    version_id: str
    kind: str
    since: datetime
    failed_at: datetime
    tries: int
    reason: str


def consumer_name(rule: str, target: str) -> str:
    """The name of the consumer that brings a rule's writes to a site."""
    return f"{rule}>{target}"


def rule_and_target(consumer: str) -> tuple[str, str]:
    """The inverse; a consumer that is none of a rule's has an empty target."""
    rule, _, target = consumer.partition(">")
    return rule, target


async def subscribe(catalog: Catalog, *, name: str, bucket_ids: Iterable[int], prefix: str) -> None:
    """Have the consumer follow these buckets and no others; what other sites wrote is left out."""
    ids = list(bucket_ids)
    async with catalog.begin() as connection:
        for bucket_id in ids:
            given = {"name": name, "bucket_id": bucket_id, "prefix": prefix}
            await connection.execute(_SUBSCRIBE, given)
        for statement in _UNSUBSCRIBE:
            await connection.execute(statement, {"name": name, "ids": ids, "these": False})


async def unsubscribe(catalog: Catalog, *, name: str) -> None:
    """Forget a consumer with all that waits for it; a sweep will find it."""
    async with catalog.begin() as connection:
        for statement in _UNSUBSCRIBE:
            await connection.execute(statement, {"name": name, "ids": [], "these": False})
        await connection.execute(_FORGET, {"name": name})


async def consumers(catalog: Catalog) -> tuple[str, ...]:
    """The consumers of rules that this site knows."""
    async with catalog.begin() as connection:
        return tuple(sorted((await connection.execute(_CONSUMERS)).scalars()))


async def waiting(
    catalog: Catalog, consumer: str, *, skip: Iterable[int], most: int
) -> list[Waiting]:
    """What waits for a consumer, but for the events named by ``skip``; oldest numbers first."""
    given = {"consumer": consumer, "skip": list(skip), "most": most}
    return [_to_waiting(found) for found in await catalog.ask(_WAITING, given)]


async def done(
    catalog: Catalog, consumer: str, ids: Sequence[int], *, size_bytes: int = 0, errors: int = 0
) -> None:
    """Strike events off, and count what was brought and how many tries failed."""
    given = {"consumer": consumer, "ids": list(ids), "size_bytes": size_bytes, "errors": errors}
    # A row that comes back because the server died is one more look at a version that is there.
    await catalog.ask_soon(_DONE, given)


async def bury(catalog: Catalog, ids: Sequence[int], *, tries: int, reason: str) -> None:
    """Turn events into dead letters."""
    given: dict[str, Any] = {"ids": list(ids), "tries": tries, "reason": reason[:REASON_MAX]}
    async with catalog.begin() as connection:
        await connection.execute(_BURY, given)


async def dead_letters(
    catalog: Catalog, *, after: int = 0, most: int = 1000
) -> tuple[DeadLetter, ...]:
    """A page of dead letters by number."""
    async with catalog.begin() as connection:
        found = await connection.execute(_LETTERS, {"after": after, "most": most})
        return tuple(DeadLetter(*row) for row in found)


async def try_again(catalog: Catalog, ids: Sequence[int] = (), *, everything: bool = False) -> int:
    """Put dead letters back into the outbox; how many."""
    async with catalog.begin() as connection:
        given = {"ids": list(ids), "everything": everything}
        return (await connection.execute(_AGAIN, given)).rowcount


def _to_waiting(found: Sequence[Any]) -> Waiting:
    number, bucket_id, key, version_id, kind, bucket, tenant_id, *rest = found
    row = to_row(rest) if rest[0] is not None else None
    return Waiting(number, bucket_id, key, version_id, kind, bucket, tenant_id, row)
