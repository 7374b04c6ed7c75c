"""What a caller may ask of any store, decided before a byte moves.

No I/O; every function passes quietly or raises ``InvalidInput``, so that one wrong key, name or
range is refused in the same words by every backend instead of being rewritten by one of them.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import datetime
from uuid import UUID

from entrepot import crc
from entrepot.errors import IntegrityError, InvalidInput
from entrepot.store.protocol import KEY_MAX_BYTES, PAGE_MAX, Attributes, LockMode, Origin, Source

METADATA_MAX_BYTES = 2048
"""Names and values of user metadata together, as S3 documents it."""

TAGS_MAX = 10
TAG_NAME_MAX = 128
TAG_VALUE_MAX = 256
"""Most tags of a version, and most characters of their names and values, as S3 has it."""

HEADERS = frozenset(
    ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # an HTTP token (RFC 9110), lower case
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_bucket(bucket: str) -> None:
    """3 to 63 of ``a-z 0-9 . -``, a letter or digit at both ends."""
    if not _BUCKET.fullmatch(bucket):
        raise InvalidInput(
            "bucket name is not allowed",
            hint="3 to 63 of a-z, 0-9, . and -, a letter or digit at both ends",
            bucket=bucket,
        )


def check_key(key: str) -> None:
    """1 to 1,024 bytes of UTF-8."""
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("key is not unicode text", key=key) from error
    if not 1 <= size_bytes <= KEY_MAX_BYTES:
        raise InvalidInput(f"key has {size_bytes} bytes, 1 to {KEY_MAX_BYTES} are allowed", key=key)


def check_attributes(attributes: Attributes) -> None:
    """Names an HTTP header can have, values it carries unchanged, within S3's sizes."""
    _check_pairs(attributes.metadata)
    _check_pairs(attributes.headers)
    _check_value("content-type", attributes.content_type)
    unknown = sorted(set(attributes.headers) - HEADERS)
    if unknown:
        raise InvalidInput("header is not one that a store keeps", header=unknown[0])
    used_bytes = sum(len(f"{name}{value}".encode()) for name, value in attributes.metadata.items())
    if used_bytes > METADATA_MAX_BYTES:
        raise InvalidInput(f"metadata has {used_bytes} bytes, limit {METADATA_MAX_BYTES}")
    check_tags(attributes.tags)


def check_tags(tags: Mapping[str, str]) -> None:
    """As many and as long as S3 keeps; which signs are allowed is the endpoint's to say."""
    if len(tags) > TAGS_MAX:
        raise InvalidInput(f"{len(tags)} tags, limit {TAGS_MAX}")
    for name, value in tags.items():
        if not 1 <= len(name) <= TAG_NAME_MAX or len(value) > TAG_VALUE_MAX:
            raise InvalidInput(
                f"a tag's name has 1 to {TAG_NAME_MAX} characters, its value {TAG_VALUE_MAX}",
                tag=name,
            )


def check_retention(mode: LockMode | None, until: datetime | None) -> None:
    """A mode and a time, aware and in whole seconds, or neither."""
    if (mode is None) != (until is None):
        raise InvalidInput("a retention has both a mode and a time, or neither")
    if until and (until.utcoffset() is None or until.microsecond):
        raise InvalidInput("a retention's time has a zone and whole seconds", until=str(until))


def _check_pairs(pairs: Mapping[str, str]) -> None:
    for name, value in pairs.items():
        if not _NAME.fullmatch(name):
            raise InvalidInput("name cannot be a header's", name=name)
        _check_value(name, value)


def _check_value(name: str, value: str) -> None:
    # A header loses surrounding blanks on its way and cannot hold control characters.
    if value != value.strip() or _CONTROL.search(value):
        raise InvalidInput("value does not survive in a header", name=name, value=value)


def check_origin(origin: Origin | None) -> None:
    """A UUID in its usual form (36 characters, lower case) and a time that is not negative."""
    if origin is None:
        return
    try:
        usual = str(UUID(origin.version_id))
    except ValueError:
        usual = ""
    if usual != origin.version_id:
        raise InvalidInput("origin's version id is not a uuid", version=origin.version_id)
    if origin.mtime_ms < 0:
        raise InvalidInput("origin's time is negative", mtime_ms=origin.mtime_ms)


def check_copy(
    target: tuple[str, str],
    source: tuple[str, str, str | None],
    attributes: Attributes | None,
) -> None:
    """A copy onto its own source would change nothing, which S3 refuses."""
    if source == (*target, None) and attributes is None:
        raise InvalidInput("a key cannot be copied onto itself as it is", key=target[1])


def check_page_size(page_size: int) -> None:
    """1 to ``PAGE_MAX``."""
    if not 1 <= page_size <= PAGE_MAX:
        raise InvalidInput(f"page size must be 1 to {PAGE_MAX}", page_size=page_size)


def byte_range(size_bytes: int, start: int, stop: int | None) -> tuple[int, int]:
    """``start`` and ``stop`` within a body of ``size_bytes``; a range must hold a byte.

    The whole of an empty body (``start`` 0, no ``stop``) is the one exception.
    """
    end = size_bytes if stop is None else min(stop, size_bytes)
    if start < 0 or (start >= end and (start, stop, size_bytes) != (0, None, 0)):
        raise InvalidInput("range holds no byte", start=start, stop=stop, size_bytes=size_bytes)
    return start, end


def body_size(source: Source, size_bytes: int | None) -> int:
    """The length of a body: given, or that of bytes in memory.

    Raises:
        InvalidInput: an iterator without a length, or a length that is not that of the bytes.
    """
    if not isinstance(source, bytes):
        if size_bytes is None or size_bytes < 0:
            raise InvalidInput("a streamed body needs its size")
        return size_bytes
    if size_bytes is not None and size_bytes != len(source):
        raise InvalidInput("the body has another size", said=size_bytes, has=len(source))
    return len(source)


async def measured(source: Source, size_bytes: int) -> AsyncGenerator[bytes, None]:
    """The pieces of ``source``; ``InvalidInput`` as soon as they are not ``size_bytes``."""
    seen_bytes = 0
    async for piece in _one(source) if isinstance(source, bytes) else source:
        seen_bytes += len(piece)
        if seen_bytes > size_bytes:
            break
        yield piece
    if seen_bytes != size_bytes:
        raise InvalidInput("body is not as long as said", size_bytes=size_bytes, seen=seen_bytes)


async def proved(source: Source, crc32c: Callable[[], int]) -> AsyncGenerator[bytes, None]:
    """The pieces of ``source``; ``IntegrityError`` where they have another CRC than was said."""
    seen = 0
    async for piece in _one(source) if isinstance(source, bytes) else source:
        seen = crc.crc32c(piece, seen)
        yield piece
    if seen != crc32c():
        raise IntegrityError("bytes do not match their CRC-32C", said=crc32c(), came=seen)


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
