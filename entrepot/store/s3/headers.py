"""Attributes and origins as S3 headers, both ways, as pure functions.

Metadata values travel as the endpoint keeps them: UTF-8 bytes, which plain ASCII always is.
Control characters are refused, since a line break would start another header.
"""

import calendar
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode

from entrepot.errors import InvalidInput
from entrepot.store.check import check_attributes
from entrepot.store.protocol import Attributes, Lock, Origin, Version

BYPASS = {"x-amz-bypass-governance-retention": "true"}
_META = "x-amz-meta-"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STORED = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
_TOLD = frozenset({*_STORED, "content-type", "x-amz-tagging-count"})
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, (\d\d) ({'|'.join(_MONTHS)}) (\d{{4}}) (\d\d):(\d\d):(\d\d) GMT"
)


def attributes_to_headers(attributes: Attributes | None) -> dict[str, str]:
    """Headers that store ``attributes`` with a write."""
    if attributes is None:
        return {}
    check_attributes(attributes)
    headers = {"content-type": attributes.content_type}
    headers |= {name: value for name, value in attributes.headers.items() if name in _STORED}
    headers |= {_META + name.lower(): value for name, value in attributes.metadata.items()}
    if attributes.tags:
        headers["x-amz-tagging"] = urlencode(attributes.tags)
    for name, value in headers.items():
        if not name.isascii() or _CONTROL.search(value):
            raise InvalidInput("metadata holds a sign that no header can carry", name=name)
    return headers


def attributes_from_headers(headers: Mapping[str, str]) -> Attributes:
    """What a GET or HEAD reply says of a version; tags are counted there, not named."""
    metadata: dict[str, str] = {}
    known: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower.startswith(_META):
            metadata[lower[len(_META) :]] = _plain(value)
        elif lower in _TOLD:
            known[lower] = value
    return Attributes(
        content_type=known.pop("content-type", "application/octet-stream"),
        tag_count=int(known.pop("x-amz-tagging-count", "0")),
        metadata=metadata,
        headers=known,
    )


def _plain(value: str) -> str:
    # Endpoints answer values outside ASCII as RFC 2047 encoded words. What is ASCII within, or no
    # such word, or could not be sent, was written as it is; sent again it is answered alike.
    if not value.startswith("=?"):
        return value
    try:
        text = str(make_header(decode_header(value)))
    except (LookupError, ValueError, HeaderParseError):
        return value
    is_sent = text == text.strip() and not any(ord(sign) < 0x20 or sign == "\x7f" for sign in text)
    return text if is_sent and not text.isascii() else value


def version_from_headers(key: str, headers: Mapping[str, str], *, size_bytes: int) -> Version:
    """The version that a GET or HEAD reply describes; its time has whole seconds."""
    modified = headers.get("Last-Modified")
    return Version(
        key=key,
        version_id=headers.get("x-amz-version-id", "null"),
        mtime_ms=_time_s(modified) * 1000 if modified else 0,
        size_bytes=size_bytes,
        etag=headers.get("ETag", "").strip('"'),
        attributes=attributes_from_headers(headers),
    )


def _time_s(text: str) -> int:
    """Unix time of a date as RFC 9110 has it; the general way takes ten times as long."""
    found = _HTTP_DATE.fullmatch(text)
    if found is None:
        return round(parsedate_to_datetime(text).timestamp())
    day, month, year, *time = found.groups()
    number = 1 + _MONTHS.index(month)
    return calendar.timegm((int(year), number, int(day), *map(int, time)))


def origin_to_headers(origin: Origin | None) -> dict[str, str]:
    """Headers that make a MinIO-family endpoint keep our version id's time.

    Source: internal/http/headers.go of minio. The version id itself is a query parameter.
    """
    if origin is None:
        return {}
    headers = {
        "x-minio-source-mtime": rfc3339(origin.mtime_ms),
        "x-minio-source-replication-request": "true",
    }
    if origin.etag:
        headers["x-minio-source-etag"] = origin.etag
    return headers | _lock_to_headers(origin.lock)


def _lock_to_headers(lock: Lock | None) -> dict[str, str]:
    headers = {}
    if lock and lock.mode and lock.until:
        headers["x-amz-object-lock-mode"] = lock.mode.upper()
        headers["x-amz-object-lock-retain-until-date"] = rfc3339(
            round(lock.until.timestamp()) * 1000
        )
    if lock and lock.hold:
        headers["x-amz-object-lock-legal-hold"] = "ON"
    return headers


def copy_origin_to_headers(origin: Origin | None) -> dict[str, str]:
    """The same for a copy within the endpoint.

    With the rest of the headers MinIO takes it for a replica and leaves the tags behind (tried).
    """
    return {"x-minio-source-mtime": rfc3339(origin.mtime_ms)} if origin else {}


def version_query(version_id: str | None) -> dict[str, str]:
    """What names a version in a request."""
    return {"versionId": version_id} if version_id else {}


def rfc3339(time_ms: int) -> str:
    """Unix milliseconds as RFC 3339 with milliseconds, UTC."""
    when = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
