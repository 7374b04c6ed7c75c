"""One write of a managed bucket, from intent to commit.

Steps: intent (a row, and with it the stamp) → bytes in the store under a version id and a time
that we chose → one transaction. A writer that dies after any of them leaves what ``recover`` needs
to go on: the intent says which version to look for, the version says what it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import Intent, NewIntent, ObjectRow, WriteKind
from entrepot.catalog.objects.intents import drop
from entrepot.clock import new_id
from entrepot.errors import (
    Busy,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    NotFound,
    PermanentError,
    PreconditionFailed,
)
from entrepot.objects.bodies import How, Incoming, incoming, send
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import End, Ground
from entrepot.objects.leftovers import expected_upload
from entrepot.objects.marks import marked, to_json
from entrepot.objects.names import stored_key
from entrepot.objects.settle import Outcome, Refusal, Verdict
from entrepot.store.protocol import Attributes, Capability, Origin, Source

ACTOR_MAX_CHARS = 1024
"""A record of the audit trail has 16 KiB, a key up to 6 of them as JSON, an actor as many."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants of a write, beside the bytes.

    ``checksums`` are promised ones by name (``md5``, ``sha256``, ``sha1``, ``crc32``), in hex.
    ``actor`` is who asks, for the audit trail; ``InvalidInput`` above 1,024 characters.
    ``write_id`` is for who must know the write again: there is one of it.
    """

    attributes: Attributes = field(default_factory=Attributes)
    condition: Condition = field(default_factory=Condition)
    checksums: Mapping[str, str] = field(default_factory=dict)
    actor: str = ""
    write_id: UUID | None = None

    def __post_init__(self) -> None:
        if len(self.actor) > ACTOR_MAX_CHARS:  # the end of the write would be too late to say so
            raise InvalidInput("an actor's name is too long", limit=ACTOR_MAX_CHARS)


async def put(
    ground: Ground,
    bucket: Bucket,
    key: str,
    source: Source,
    *,
    size_bytes: int | None,
    wish: Wish,
    min_size: int,
) -> ObjectRow:
    """Write a new version; ``PreconditionFailed`` or ``Busy`` where its condition says no."""
    how = How(bucket.tenant_id, bucket.encrypted, bucket.compressed, min_size)
    body = await incoming(
        source,
        size_bytes=size_bytes,
        expected=wish.checksums,
        how=how,
        ring=ground.ring,
        place=(bucket.name, key),
        proves=Capability.TRAILER in ground.capabilities,
    )
    kept = to_json(wish.attributes)
    intent = await intend(ground, bucket, key, WriteKind.PUT, wish=wish, details={"kept": kept})
    try:
        outcome = await _send(ground, bucket, intent, body, wish)
    except BaseException as error:
        await give_up(ground, bucket, intent, error)
        raise
    return await end(ground, bucket, intent, outcome)


async def _send(
    ground: Ground, bucket: Bucket, intent: Intent, body: Incoming, wish: Wish
) -> Outcome:
    version, stored_bytes = await send(
        ground.store,
        body,
        bucket=bucket.name,
        key=stored_key(intent.key),
        attributes=marked(
            wish.attributes, intent.stamp, intent.write_id, parent=intent.parent, seal=body.seal
        ),
        origin=Origin(intent.version_id, intent.stamp.time_ms),
        uploading=expected_upload(ground, bucket, intent.key, intent.version_id),
    )
    # Of a single PUT the store's ETag is the MD5 of what it has: the last look at the bytes.
    plain = not body.seal and "-" not in version.etag and len(version.etag) == 32
    etag = body.digest.etag if body.seal or body.digest.has_md5 else version.etag
    return Outcome(
        size_bytes=body.digest.size_bytes,
        stored_bytes=stored_bytes,
        etag=etag,
        seal=body.seal,
        attributes=intent.details["kept"] | _checked(body.digest.values),
        is_damaged=plain and version.etag != etag,
    )


def _checked(values: Mapping[str, str]) -> dict[str, Any]:
    return {"checksums": dict(values)} if values else {}


async def put_marker(ground: Ground, bucket: Bucket, key: str, *, wish: Wish) -> ObjectRow:
    """Add a delete marker."""
    intent = await intend(ground, bucket, key, WriteKind.DELETE, wish=wish, details={})
    try:
        origin = Origin(intent.version_id, intent.stamp.time_ms)
        await ground.store.delete(bucket.name, stored_key(key), origin=origin)
    except BaseException as error:
        await give_up(ground, bucket, intent, error)
        raise
    return await end(ground, bucket, intent, Outcome())


async def intend(
    ground: Ground,
    bucket: Bucket,
    key: str,
    kind: WriteKind,
    *,
    wish: Wish,
    details: Mapping[str, Any],
    write_id: UUID | None = None,
) -> Intent:
    """Record that a write is about to start; its condition is looked at for the first time."""
    noted: dict[str, Any] = {"actor": wish.actor, **details}
    if wish.condition:
        wish.condition.check_write(await ground.lookups.submit((bucket.id, key)))
        noted["condition"] = wish.condition.to_json()
    if wish.checksums:
        noted["checksums"] = {name: text.lower() for name, text in wish.checksums.items()}
    write_id = write_id or wish.write_id or new_id()
    # The version id is the write id: whoever finds the one has the other.
    return await ground.intend(NewIntent(write_id, bucket.id, key, kind, str(write_id), 0, noted))


async def end(ground: Ground, bucket: Bucket, intent: Intent, outcome: Outcome) -> ObjectRow:
    """Commit a write whose bytes are in the store."""
    try:
        verdict = await ground.ends.submit(End(intent, outcome))
    finally:
        ground.under_way.discard(intent.write_id)
    return accepted(verdict, bucket=bucket.name, key=intent.key)


async def give_up(ground: Ground, bucket: Bucket, intent: Intent, error: BaseException) -> None:
    """Leave a write that failed; what the store has of it may not be known.

    Where the store said no and has nothing, the intent goes. Else it is no longer renewed, and
    recovery looks when the lease has run out: an answer may have been lost.
    """
    ground.under_way.discard(intent.write_id)
    if not isinstance(error, PermanentError):
        return
    try:
        await ground.store.head(bucket.name, stored_key(intent.key), version_id=intent.version_id)
    except NotFound as missing:
        if missing.fields.get("status") != 405:  # that would be a delete marker: it is there
            await drop(ground.catalog, [intent.write_id])
    except EntrepotError:
        return


def accepted(verdict: Verdict, *, bucket: str, key: str) -> ObjectRow:
    """The row, or the error that a refusal is."""
    where = {"bucket": bucket, "key": key}
    if isinstance(verdict, ObjectRow):
        return verdict
    assert isinstance(verdict, Refusal)
    if verdict is Refusal.CONDITION:
        raise PreconditionFailed("the object is not the one that was asked for", **where)
    if verdict is Refusal.CONFLICT:
        raise Busy("another write of this key is under way", hint="try again", **where)
    raise IntegrityError("the store has other bytes than were sent", hint="send it again", **where)
