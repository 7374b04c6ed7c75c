"""What MinIO's notifications say, read without a server."""

import json
from typing import Any

import pytest

from entrepot.errors import InvalidInput
from entrepot.gateway.notices import Told, parse_notification
from entrepot.objects.notices import Notice

VERSION = "b09d6a4b-25ab-4d5e-9b41-9d5d0b1d9f0c"
MTIME_MS = 1_795_635_861_542
SEQUENCER = f"{MTIME_MS * 1_000_000 + 123_456:X}"


def told(**changed: Any) -> tuple[Told | None, ...]:
    about = {"key": "a+b%2F%C3%BC%2B", "versionId": VERSION, "sequencer": SEQUENCER}
    record = {
        "eventName": "s3:ObjectCreated:CompleteMultipartUpload",
        "eventTime": "2026-11-25T19:44:21.560Z",
        "s3": {"bucket": {"name": "photos"}, "object": about | changed.pop("object", {})},
        "source": {"host": "127.0.0.1", "userAgent": "MinIO (linux; amd64)"},
    }
    return parse_notification(json.dumps({"Records": [record | changed]}).encode())


def test_keys_are_escaped_and_the_sequencer_is_the_time() -> None:
    assert told() == (Told("photos", Notice("a b/ü+", VERSION, time_ms=MTIME_MS)),)


@pytest.mark.parametrize("sequencer", ["", "x", "-1F", "00" * 9, f"{(MTIME_MS + 18) * 10**6:X}"])
def test_a_sequencer_that_is_no_earlier_time_tells_none(sequencer: str) -> None:
    [found] = told(object={"sequencer": sequencer})
    assert found
    # One that is a time of another second is found out by a look at the version.
    time_ms = found.notice.time_ms
    assert time_ms is None or time_ms // 1000 != MTIME_MS // 1000


def test_who_did_it_and_what() -> None:
    [gone] = told(eventName="s3:ObjectRemoved:Delete")
    assert gone and gone.notice.removed and not gone.notice.expired
    agent = {"userAgent": "Internal: [ILM-Expiry]"}
    [expired] = told(eventName="s3:ObjectRemoved:DeleteAllVersions", source=agent)
    assert expired and expired.notice.removed and expired.notice.expired
    for name in ("PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold"):
        [altered] = told(eventName=f"s3:ObjectCreated:{name}")
        assert altered and altered.notice.altered and not altered.notice.removed
    for name in ("s3:ObjectAccessed:Head", "s3:Replication:x", ""):
        assert told(eventName=name) == (None,)


@pytest.mark.parametrize(
    "changed",
    [
        {"eventName": None},
        {"s3": {}},
        {"s3": []},
        {"source": "x"},
        {"object": {"key": 7}},
        {"object": {"key": "%ff"}},
        {"object": {"key": ""}},
        {"object": {"versionId": None}},
        {"object": {"sequencer": 7}},
        {"eventTime": 7},
    ],
)
def test_other_shapes_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        told(**changed)
