"""A bucket's lifecycle document as rules, as far as they remove something."""

from datetime import datetime
from xml.etree import ElementTree

from entrepot.store.lifecycle import Expiry
from entrepot.store.s3.documents import text


def expiries(root: ElementTree.Element) -> tuple[Expiry, ...]:
    """The enabled rules of a ``LifecycleConfiguration``, but those with a filter on tags."""
    return tuple(
        _expiry(rule)
        for rule in root.iterfind("{*}Rule")
        if text(rule, "Status") == "Enabled" and rule.find("{*}Filter//{*}Tag") is None
    )


def _expiry(rule: ElementTree.Element) -> Expiry:
    def said(path: str) -> str:
        return rule.findtext("/".join(f"{{*}}{name}" for name in path.split("/"))) or ""

    def within(name: str) -> str:
        return said(f"Filter/{name}") or said(f"Filter/And/{name}")

    def number(value: str) -> int:
        return int(value or "0")

    date = said("Expiration/Date")
    return Expiry(
        prefix=said("Prefix") or within("Prefix"),
        larger_bytes=int(within("ObjectSizeGreaterThan") or "-1"),
        smaller_bytes=number(within("ObjectSizeLessThan")),
        days=number(said("Expiration/Days")),
        date_ms=round(datetime.fromisoformat(date).timestamp() * 1000) if date else 0,
        all_versions=said("Expiration/ExpiredObjectAllVersions") == "true",
        lone_marker=said("Expiration/ExpiredObjectDeleteMarker") == "true",
        noncurrent_days=number(said("NoncurrentVersionExpiration/NoncurrentDays")),
        newer_noncurrent=number(said("NoncurrentVersionExpiration/NewerNoncurrentVersions")),
    )
