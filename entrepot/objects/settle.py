"""What becomes of writes whose bytes are in the store: pure, from what was seen under lock.

Writes of one key are ordered by stamp, whatever the order in which they end. One that ends after a
later one keeps its place behind it: both were under way at once, so either order is true. A write
with a condition is told the truth about the version before it, or refused: where an earlier write
of the key is still under way, nobody knows yet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

from entrepot.catalog.objects.commit import Seen
from entrepot.catalog.objects.facts import (
    Changes,
    EffectKind,
    Event,
    Intent,
    Json,
    ObjectRow,
    Place,
    Usage,
    WriteKind,
)
from entrepot.objects.conditions import Condition


class Refusal(StrEnum):
    """Why a write whose bytes are in the store does not count."""

    CONDITION = "condition"  # the version before it is not the one that was asked for
    CONFLICT = "conflict"  # nobody knows the version before it yet
    DAMAGED = "damaged"  # the bytes are not what was sent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the store has of a write. Sizes, ETag and attributes as in ``ObjectRow``."""

    size_bytes: int = 0
    stored_bytes: int = 0
    etag: str = ""
    seal: str = ""
    attributes: Json = field(default_factory=dict)
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Overtook:
    """A version of another site that is served now, and the one before it that its writer had not
    seen, as far as ``row.parent`` tells; None where it was committed earlier, and nobody knows.
    """

    row: ObjectRow
    before: ObjectRow | None


Verdict = ObjectRow | Overtook | Refusal


@dataclass(slots=True)
class _Book:
    """What a batch adds up to."""

    rows: list[ObjectRow] = field(default_factory=list)
    usage: dict[int, Usage] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    records: list[Json] = field(default_factory=list)
    effects: list[tuple[int, str, str, EffectKind, Json]] = field(default_factory=list)

    def count(self, bucket_id: int, used: Usage) -> None:
        self.usage[bucket_id] = self.usage.get(bucket_id, Usage()) + used


def settle(seen: Seen, outcomes: Mapping[UUID, Outcome]) -> tuple[Changes, Mapping[UUID, Verdict]]:
    """The changes that end these writes, and what each came to."""
    newest: dict[Place, ObjectRow] = dict(seen.newest)
    book, verdicts = _Book(), dict[UUID, Verdict]()
    for intent in sorted(seen.intents.values(), key=lambda one: one.stamp):
        place = intent.bucket_id, intent.key
        before = newest.get(place)
        verdict = _verdict(intent, outcomes[intent.write_id], before, seen.behind.get(place))
        verdicts[intent.write_id] = verdict
        if isinstance(verdict, ObjectRow):
            is_replica = intent.kind is WriteKind.REPLICA
            actor = intent.details.get("actor", "")
            _enter(book, verdict, kind=intent.kind, actor=actor, is_replica=is_replica)
            if not verdict.is_quarantined and (before is None or before.stamp < verdict.stamp):
                newest[place] = verdict
                if is_replica and before is not None and before.stamp != verdict.parent:
                    verdicts[intent.write_id] = Overtook(verdict, before)
        else:
            _turn_away(book, intent, verdict)
    current = _moved(seen.newest, newest, book)
    return _changes(book, current), verdicts


def _verdict(
    intent: Intent, outcome: Outcome, before: ObjectRow | None, behind_ms: int | None
) -> ObjectRow | Refusal:
    if outcome.is_damaged:
        return Refusal.DAMAGED
    if intent.kind is WriteKind.REPLICA:
        return replica_of(intent)
    condition = Condition.from_json(intent.details.get("condition"))
    is_newest = before is None or before.stamp < intent.stamp
    if condition:
        if not is_newest or (behind_ms is not None and behind_ms < intent.stamp.time_ms):
            return Refusal.CONFLICT
        if not condition.holds(before):
            return Refusal.CONDITION
    return ObjectRow(
        bucket_id=intent.bucket_id,
        key=intent.key,
        version_id=intent.version_id,
        stamp=intent.stamp,
        write_id=intent.write_id,
        parent=before.stamp if before and is_newest else intent.parent,
        is_delete_marker=intent.kind is WriteKind.DELETE,
        size_bytes=outcome.size_bytes,
        stored_bytes=outcome.stored_bytes,
        etag=outcome.etag,
        seal=outcome.seal,
        attributes=outcome.attributes,
    )


def replica_of(intent: Intent) -> ObjectRow:
    """The row of a version that came from another site: as it was there, parent and all."""
    return ObjectRow(
        bucket_id=intent.bucket_id,
        key=intent.key,
        version_id=intent.version_id,
        stamp=intent.stamp,
        write_id=intent.write_id,
        parent=intent.parent,
        **intent.details["row"],
    )


def removal(
    row: ObjectRow,
    newest: ObjectRow | None,
    following: ObjectRow | None,
    *,
    actor: str,
    bypass: bool = False,
    is_replica: bool = False,
) -> Changes:
    """The changes that take a version away for good.

    ``newest`` is the key's newest version now, ``following`` the newest once ``row`` is gone.
    """
    book = _Book()
    book.count(row.bucket_id, _less(_size(row)))
    book.records.append(_record("remove", row, actor))
    book.events.append(_event("remove", row, is_replica=is_replica))
    details = {"bypass": bypass}
    book.effects.append((row.bucket_id, row.key, row.version_id, EffectKind.PURGE, details))
    place = row.bucket_id, row.key
    before, after = ({place: one} if one else {} for one in (newest, following))
    return _changes(book, _moved(before, after, book))


def alteration(
    row: ObjectRow,
    attributes: Json,
    *,
    action: str,
    actor: str,
    bypass: bool = False,
    is_replica: bool = False,
) -> Changes:
    """The changes, beside the row itself, that give a version other tags or another lock."""
    book = _Book()
    altered = replace(row, attributes=attributes)
    book.records.append(_record(action, altered, actor))
    book.events.append(_event(action, altered, is_replica=is_replica))
    details = {"bypass": bypass}
    book.effects.append((row.bucket_id, row.key, row.version_id, EffectKind.SETTLE, details))
    return _changes(book, {})


def discovery(
    rows: Iterable[ObjectRow], newest: Mapping[Place, ObjectRow], *, action: str, actor: str
) -> Changes:
    """The changes that take up versions which the store has and the catalog had not."""
    after, book = dict(newest), _Book()
    for row in rows:
        _enter(book, row, kind=action, actor=actor)
        place = row.bucket_id, row.key
        if not row.is_quarantined and (place not in after or after[place].stamp < row.stamp):
            after[place] = row
    return _changes(book, _moved(newest, after, book))


def _enter(book: _Book, row: ObjectRow, *, kind: str, actor: str, is_replica: bool = False) -> None:
    book.rows.append(row)
    book.count(row.bucket_id, _size(row))
    book.records.append(_record(kind, row, actor))
    book.events.append(_event(kind, row, is_replica=is_replica))


def _turn_away(book: _Book, intent: Intent, why: Refusal) -> None:
    place = intent.bucket_id, intent.key, intent.version_id
    # An upload may be completed again, as the same version.
    details = {} if intent.kind is WriteKind.COMPLETE else {"refused": why}
    book.effects.append((*place, EffectKind.PURGE, details))
    book.records.append(
        {
            "action": intent.kind,
            "refused": why,
            "actor": intent.details.get("actor", ""),
            "bucket_id": intent.bucket_id,
            "key": intent.key,
            "version_id": intent.version_id,
            "write_id": str(intent.write_id),
        }
    )


def _moved(
    before: Mapping[Place, ObjectRow], after: Mapping[Place, ObjectRow], book: _Book
) -> dict[Place, ObjectRow | None]:
    """The keys whose live object changed, and what that does to usage."""
    current: dict[Place, ObjectRow | None] = {}
    for place in {**before, **after}:
        old, new = _live(before.get(place)), _live(after.get(place))
        if before.get(place) is after.get(place):
            continue
        current[place] = new
        objects = (new is not None) - (old is not None)
        moved = (new.size_bytes if new else 0) - (old.size_bytes if old else 0)
        book.count(place[0], Usage(objects=objects, current_bytes=moved))
    return current


def _live(row: ObjectRow | None) -> ObjectRow | None:
    return None if row is None or row.is_delete_marker else row


def _size(row: ObjectRow) -> Usage:
    return Usage(
        versions=not row.is_delete_marker,
        delete_markers=row.is_delete_marker,
        total_bytes=row.size_bytes,
        stored_bytes=row.stored_bytes,
    )


def _less(used: Usage) -> Usage:
    return Usage(
        versions=-used.versions,
        delete_markers=-used.delete_markers,
        total_bytes=-used.total_bytes,
        stored_bytes=-used.stored_bytes,
    )


def _record(action: str, row: ObjectRow, actor: str) -> dict[str, Any]:
    return {
        "action": action,
        "actor": actor,
        "bucket_id": row.bucket_id,
        "key": row.key,
        "version_id": row.version_id,
        "stamp": str(row.stamp),
        "write_id": str(row.write_id),
        "size_bytes": row.size_bytes,
        "etag": row.etag,
    }


def _event(kind: str, row: ObjectRow, *, is_replica: bool) -> Event:
    return Event(row.bucket_id, row.key, row.version_id, kind, str(row.stamp), is_replica)


def _changes(book: _Book, current: Mapping[Place, ObjectRow | None]) -> Changes:
    return Changes(
        rows=tuple(book.rows),
        current=current,
        usage={bucket_id: used for bucket_id, used in book.usage.items() if used != Usage()},
        events=tuple(book.events),
        records=tuple(book.records),
        effects=tuple(book.effects),
    )
