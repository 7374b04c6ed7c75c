"""The one transaction behind every change of a key.

Invariant: whoever changes a key holds its lock until the commit, so what ``settle`` decided from
the newest version still holds. The decision is the caller's and pure; this module reads what it
needs and writes what it says: versions, current object, usage, audit, outbox, effects.

A commit whose answer was lost may have taken effect. Asked again, it finds no intent and the
version's row instead, and gives that. A multipart upload that is completed twice at once may have
a second intent after its row: that one ends with what there is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from entrepot.catalog.connect import SOON, Ask, Catalog, Transaction
from entrepot.catalog.objects.audit import AuditChain, head_of, next_records
from entrepot.catalog.objects.facts import Changes, Intent, ObjectRow, Place, WriteKind
from entrepot.catalog.objects.intents import INTENT_COLUMNS, to_intent
from entrepot.catalog.objects.rows import (
    COLUMNS,
    NEWEST_OF,
    RECORD,
    as_json,
    by_place,
    from_row,
    places_json,
    to_row,
)

# Locks are taken in one order, so two batches never wait for each other in a circle.
_LOCK = """
    SELECT pg_advisory_xact_lock(h) FROM (
        SELECT DISTINCT hashtextextended(k.bucket_id || '/' || k.key, 0) AS h
        FROM jsonb_to_recordset(CAST(%(places)s AS jsonb)) AS k (bucket_id bigint, key text)
        ORDER BY 1
    ) AS hashes
"""
_TAKE = f"DELETE FROM intents WHERE write_id = ANY(%(ids)s) RETURNING {INTENT_COLUMNS}"
_BEHIND = """
    SELECT bucket_id, key, min(stamp_ms) FROM intents
    WHERE kind <> 'replica' AND (bucket_id, key) IN (
        SELECT k.bucket_id, k.key
        FROM jsonb_to_recordset(CAST(%(places)s AS jsonb)) AS k (bucket_id bigint, key text)
    )
    GROUP BY bucket_id, key
"""
_DONE = f"""
    SELECT {COLUMNS} FROM versions WHERE write_id = ANY(%(ids)s) AND (bucket_id, key) IN (
        SELECT k.bucket_id, k.key
        FROM jsonb_to_recordset(CAST(%(places)s AS jsonb)) AS k (bucket_id bigint, key text)
    )
"""
_VERSIONS = f"""
    INSERT INTO versions ({COLUMNS})
    SELECT {COLUMNS} FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r ({RECORD})
"""
_CURRENT = """
    INSERT INTO objects (bucket_id, key, version_id, stamp_ms, size_bytes, etag)
    SELECT bucket_id, key, version_id, stamp_ms, size_bytes, etag
    FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r
        (bucket_id bigint, key text, version_id text, stamp_ms bigint, size_bytes bigint, etag text)
    ON CONFLICT (bucket_id, key) DO UPDATE SET version_id = excluded.version_id,
        stamp_ms = excluded.stamp_ms, size_bytes = excluded.size_bytes, etag = excluded.etag
"""
_GONE = """
    DELETE FROM objects o
    USING jsonb_to_recordset(CAST(%(places)s AS jsonb)) AS k (bucket_id bigint, key text)
    WHERE o.bucket_id = k.bucket_id AND o.key = k.key
"""
_USAGE = """
    INSERT INTO usage_counters AS u
    SELECT bucket_id, %(slot)s, objects, versions, delete_markers, current_bytes, total_bytes,
           stored_bytes
    FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r
        (bucket_id bigint, objects bigint, versions bigint, delete_markers bigint,
         current_bytes bigint, total_bytes bigint, stored_bytes bigint)
    ORDER BY bucket_id
    ON CONFLICT (bucket_id, slot) DO UPDATE SET objects = u.objects + excluded.objects,
        versions = u.versions + excluded.versions,
        delete_markers = u.delete_markers + excluded.delete_markers,
        current_bytes = u.current_bytes + excluded.current_bytes,
        total_bytes = u.total_bytes + excluded.total_bytes,
        stored_bytes = u.stored_bytes + excluded.stored_bytes
"""
_OUTBOX = """
    INSERT INTO outbox (consumer, bucket_id, key, version_id, kind, stamp)
    SELECT c.name, r.bucket_id, r.key, r.version_id, r.kind, r.stamp
    FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r
        (bucket_id bigint, key text, version_id text, kind text, stamp text, is_replica boolean)
    JOIN outbox_consumers c ON c.bucket_id = r.bucket_id AND starts_with(r.key, c.prefix)
        AND (c.replicas OR NOT r.is_replica)
"""
# A write that was refused may have been copied before its bytes went: it must not come back.
_EFFECTS = """
    WITH r AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r
            (bucket_id bigint, key text, version_id text, kind text, details jsonb)
    ), refused AS (
        INSERT INTO purges (bucket_id, key, version_id)
        SELECT bucket_id, key, version_id FROM r WHERE details ? 'refused' ON CONFLICT DO NOTHING
    )
    INSERT INTO effects (bucket_id, key, version_id, kind, details)
    SELECT bucket_id, key, version_id, kind, details FROM r
    RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision is made from, all of it under lock.

    ``newest`` lacks a key without versions. ``behind`` is the least time of a write that is still
    under way. ``done`` are writes of this batch that were committed before.
    """

    intents: Mapping[UUID, Intent]
    newest: Mapping[Place, ObjectRow]
    behind: Mapping[Place, int]
    done: Mapping[UUID, ObjectRow]


@dataclass(frozen=True, slots=True)
class Recorder:
    """Who writes: its audit chain, its share of the usage, and when."""

    chain: AuditChain
    slot: int
    at: Callable[[], datetime]


async def commit_writes(
    catalog: Catalog,
    ids: Sequence[UUID],
    places: Iterable[Place],
    settle: Callable[[Seen], Changes],
    *,
    recorder: Recorder,
    replicas: Sequence[UUID] = (),
) -> Seen:
    """End writes under way as ``settle`` says; what it was told.

    ``places`` are the keys of those writes, ``replicas`` those that bring versions of other sites.
    A batch of nothing but replicas does not wait for the disk (``Catalog.secure`` does).
    """
    keys, all_ids = {"places": places_json(places)}, {"ids": list(ids)}
    async with catalog.transaction() as transaction:
        soon: tuple[Ask, ...] = ((SOON, {}),) if len(replicas) == len(ids) else ()
        reads = (_LOCK, keys), (_TAKE, all_ids), (NEWEST_OF, keys), (_BEHIND, keys)
        found = await transaction.at_once(*soon, *reads, *head_of(recorder.chain))
        _, taken, newest, behind, *_, [head] = found[len(soon) :]
        intents = {intent.write_id: intent for intent in map(to_intent, taken)}
        done: dict[UUID, ObjectRow] = {}
        if doubtful := [one for one in ids if _may_be_done(intents.get(one))]:
            [rows] = await transaction.at_once((_DONE, keys | {"ids": doubtful}))
            done = {row.write_id: row for row in map(to_row, rows)}
        intents = {one: intent for one, intent in intents.items() if one not in done}
        seen = Seen(intents, by_place(newest), {(row[0], row[1]): row[2] for row in behind}, done)
        if len(done) < len(ids):
            asked = _written(settle(seen), head, recorder=recorder)
            await transaction.at_once(*asked, commit=True)
    return seen


def _may_be_done(intent: Intent | None) -> bool:
    """Completions come again; of two that bring a version, the slower began after the other."""
    return intent is None or intent.kind in (WriteKind.COMPLETE, WriteKind.REPLICA)


async def lock_keys(transaction: Transaction, places: Iterable[Place]) -> None:
    """Hold keys until the transaction ends."""
    await transaction.at_once((_LOCK, {"places": places_json(places)}))


async def newest_of(transaction: Transaction, places: Iterable[Place]) -> dict[Place, ObjectRow]:
    """The newest version of each key, delete markers included; a key without any is missing."""
    [found] = await transaction.at_once((NEWEST_OF, {"places": places_json(places)}))
    return by_place(found)


async def write(
    transaction: Transaction, changes: Changes, *, recorder: Recorder
) -> tuple[int, ...]:
    """Write all of it, within the caller's transaction; the ids of the effects, in their order."""
    *_, [head] = await transaction.at_once(*head_of(recorder.chain))
    *_, effects = await transaction.at_once(*_written(changes, head, recorder=recorder))
    return tuple(row[0] for row in effects) if changes.effects else ()


def _written(changes: Changes, head: tuple[Any, ...], *, recorder: Recorder) -> Iterator[Ask]:
    """The statements that write it, the effects last; ``head`` is of the recorder's chain."""
    if changes.rows:
        yield _VERSIONS, {"rows": as_json(map(from_row, changes.rows))}
    if live := [from_row(row) for row in changes.current.values() if row is not None]:
        yield _CURRENT, {"rows": as_json(live)}
    if gone := [place for place, row in changes.current.items() if row is None]:
        yield _GONE, {"places": places_json(gone)}
    if usage := [_usage_row(bucket_id, used) for bucket_id, used in changes.usage.items()]:
        yield _USAGE, {"rows": as_json(usage), "slot": recorder.slot}
    if changes.records:
        yield from next_records(recorder.chain, head, changes.records, at=recorder.at())
    if changes.events:
        rows = as_json({name: getattr(one, name) for name in _EVENT} for one in changes.events)
        yield _OUTBOX, {"rows": rows}
    if changes.effects:
        names = ("bucket_id", "key", "version_id", "kind", "details")
        rows = as_json(dict(zip(names, one, strict=True)) for one in changes.effects)
        yield _EFFECTS, {"rows": rows}


_EVENT = ("bucket_id", "key", "version_id", "kind", "stamp", "is_replica")
_COUNTED = (
    *("objects", "versions", "delete_markers"),
    *("current_bytes", "total_bytes", "stored_bytes"),
)


def _usage_row(bucket_id: int, used: Any) -> dict[str, int]:
    return {"bucket_id": bucket_id} | {name: getattr(used, name) for name in _COUNTED}
