"""What makes a bucket of MinIO tell us of its writes, merged into what its user configured: pure.

A MinIO knows its targets from its start (``MINIO_NOTIFY_WEBHOOK_*_<target>``); a bucket says which
of them hears of what, in S3's ``NotificationConfiguration``.
"""

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree

from entrepot.store.settings import ROOTS, Setting, canonical

AT_ONCE: Final = "ENTREPOT"
KEPT: Final = "ENTREPOT_QUEUE"
"""The target with a queue directory: it looks there every 3 s, and sends until it was heard."""
TARGETS: Final = (AT_ONCE, KEPT)
EVENTS: Final = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")


def arn(target: str) -> str:
    """The name of a webhook target."""
    return f"arn:minio:sqs::{target}:webhook"


def missing(document: str) -> tuple[str, ...]:
    """Which of our targets do not hear of all writes, by a bucket's configuration."""
    told = set()
    for entry in _root(document).iterfind("QueueConfiguration"):
        events = {event.text or "" for event in entry.iterfind("Event")}
        if events >= set(EVENTS) and entry.find("Filter/S3Key/FilterRule") is None:
            told.add(_target(entry.findtext("Queue", "")))
    return tuple(target for target in TARGETS if target not in told)


def merged(document: str, targets: Iterable[str]) -> str:
    """The configuration with these targets of ours besides; what is there stays as it is."""
    root = _root(document)
    for target in targets:
        entry = ElementTree.SubElement(root, "QueueConfiguration")
        ElementTree.SubElement(entry, "Id").text = f"entrepot-{target.lower()}"
        ElementTree.SubElement(entry, "Queue").text = arn(target)
        for event in EVENTS:
            ElementTree.SubElement(entry, "Event").text = event
    return canonical(Setting.NOTIFICATION, ElementTree.tostring(root, encoding="unicode"))


def _root(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document or f"<{ROOTS[Setting.NOTIFICATION]}/>")  # noqa: S314 - canonical


def _target(name: str) -> str:
    """The target of ``arn:minio:sqs:<region>:<target>:webhook``; endpoints fill in their region."""
    parts = name.split(":")
    return parts[4] if len(parts) == 6 and parts[5] == "webhook" else ""
