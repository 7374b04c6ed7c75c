"""MinIO's bucket notifications as notices: pure.

The document is ``event.Log`` of minio (internal/event/event.go): ``EventName``, ``Key`` and
``Records``, of which only the records count. Keys are escaped as in a query, so a blank is ``+``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus

from entrepot.errors import InvalidInput
from entrepot.objects.notices import Notice
from entrepot.store.check import check_bucket, check_key

RECORDS_MAX: Final = 100
"""MinIO sends one at a time."""

_CREATED, _REMOVED = "ObjectCreated:", "ObjectRemoved:"
_ALTERED: Final = ("PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold")
"""Changes of a version that is there: of its tags, or its lock."""
_INTERNAL: Final = "Internal: "
"""How MinIO's own agents begin that write or remove, its lifecycle among them."""


@dataclass(frozen=True, slots=True)
class Told:
    """A notice, and the bucket that it is about."""

    bucket: str
    notice: Notice


def parse_notification(body: bytes) -> tuple[Told | None, ...]:
    """What each record tells; None for events of no interest. ``InvalidInput`` for other texts."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON") from error
    records = found.get("Records") if isinstance(found, Mapping) else None
    if not isinstance(records, list) or len(records) > RECORDS_MAX:
        raise InvalidInput(f"the body is no notification of up to {RECORDS_MAX} records")
    return tuple(map(_told, records))


def _told(record: Any) -> Told | None:
    try:
        kind = record["eventName"].removeprefix("s3:")
        if not kind.startswith((_CREATED, _REMOVED)):
            return None
        bucket, told = record["s3"]["bucket"]["name"], record["s3"]["object"]
        key, version_id = unquote_plus(told["key"], errors="strict"), told.get("versionId", "")
        agent = record.get("source", {}).get("userAgent", "")
        if not all(isinstance(each, str) for each in (bucket, version_id, agent)):
            raise TypeError
        check_bucket(bucket)
        check_key(key)
        if "\0" in key + version_id:
            raise ValueError
        notice = Notice(
            key,
            version_id,
            removed=kind.startswith(_REMOVED),
            expired=agent.startswith(_INTERNAL),
            altered=kind.endswith(_ALTERED),
            time_ms=_time_ms(told.get("sequencer", ""), record.get("eventTime", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput("a record is no event of a bucket") from error
    return Told(bucket, notice)


def _time_ms(sequencer: str, event_time: str) -> int | None:
    """The version's time (Unix ms) where the sequencer is that.

    MinIO makes it from the version's time in nanoseconds. Where it has none, and in older releases,
    it is that of the event, which is the later one: what is not earlier may be either.
    """
    try:
        time_ms = int(sequencer, 16) // 1_000_000
        told_ms = datetime.fromisoformat(event_time).timestamp() * 1000
    except ValueError:
        return None
    return time_ms if time_ms < round(told_ms) else None
