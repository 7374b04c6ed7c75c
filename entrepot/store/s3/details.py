"""Entries of MinIO's listing of versions with metadata: attributes, tags and locks in one request.

``ListObjectVersions`` with ``metadata=true`` adds to each entry what a HEAD would say, and the
tags and the lock besides (cmd/bucket-listobjects-handlers.go of minio). ``Internal`` is in each
entry that was answered so: without it the endpoint has no such listing, or the user may not read.
The elements come in any order, so equal versions need not have equal tokens.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from html import unescape
from urllib.parse import parse_qsl

from entrepot.errors import IntegrityError
from entrepot.store.protocol import Attributes, Lock, LockMode, Page, Version
from entrepot.store.s3.headers import attributes_from_headers
from entrepot.store.s3.listing import decode, versions_page

_ANSWERED = b"<Internal>"
_OPENING, _CLOSING = b"<UserMetadata>", b"</UserMetadata>"
_PAIR = re.compile(rb"<([^<>/]+)>([^<]*)</")
_TAGS = re.compile(rb"<UserTags>([^<]*)</UserTags>")


def detailed_page(body: bytes) -> Page:
    """A page of ListObjectVersions with metadata."""
    return Page(tokens=versions_page(body).tokens, decode=decode_detailed)


def decode_detailed(token: bytes) -> Version:
    """One entry, with attributes and lock where the endpoint told them."""
    before, _, rest = token.partition(_OPENING)
    inner, _, after = rest.partition(_CLOSING)
    version = decode(before + after)  # an element of the metadata may have any name
    if version.is_delete_marker or _ANSWERED not in token:
        return version
    tagged = _TAGS.search(before + after)
    try:
        attributes, lock = _told(inner, tagged[1] if tagged else b"")
    except ValueError as error:
        raise IntegrityError(
            "the endpoint lists metadata or a lock that cannot be read",
            key=version.key,
            entry=inner[:300].decode("utf-8", "replace"),
        ) from error
    return replace(version, attributes=attributes, lock=lock)


@lru_cache(maxsize=1024)  # most objects of a bucket are written by one program; 4 MB at most
def _told(inner: bytes, tagged: bytes) -> tuple[Attributes, Lock]:
    headers = {
        name.decode().lower(): unescape(text.decode()) for name, text in _PAIR.findall(inner)
    }
    tags = dict(parse_qsl(unescape(tagged.decode()), True))
    attributes = replace(attributes_from_headers(headers), tags=tags, tag_count=len(tags))
    return attributes, _lock(headers)


def _lock(headers: Mapping[str, str]) -> Lock:
    mode = headers.get("x-amz-object-lock-mode", "")
    until = headers.get("x-amz-object-lock-retain-until-date", "")
    held = headers.get("x-amz-object-lock-legal-hold", "") == "ON"
    if not mode or not until:
        return Lock(hold=held)
    when = datetime.fromisoformat(until).astimezone(UTC)
    when += timedelta(microseconds=-when.microsecond % 1_000_000)  # as ``S3Locks.lock`` does
    return Lock(LockMode(mode.lower()), when, held)
