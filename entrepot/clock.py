"""Time and chance, the only module that reads either.

Wall time (``now``) says when something happened and may jump; the timer (``monotonic``) measures
how long something took and never goes back. Tests inject their own ``Clock``.
"""

import re
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the library needs of time."""

    def now(self) -> datetime:
        """Wall time, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds of a timer that never goes back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM_CLOCK = SystemClock()


def new_id() -> uuid.UUID:
    """A random identifier (UUID version 4)."""
    return uuid.uuid4()


def new_token(size_bytes: int = 32) -> str:
    """A random secret of ``size_bytes`` bytes in URL-safe base64."""
    return secrets.token_urlsafe(size_bytes)


def new_bytes(size_bytes: int) -> bytes:
    """``size_bytes`` random bytes for keys and nonces."""
    return secrets.token_bytes(size_bytes)


_NAMESPACE = uuid.UUID("6f1d3c0a-8f1e-5d5b-9d7e-2b6a5f0c4e11")  # ours alone, drawn once


def derived_id(*parts: str) -> uuid.UUID:
    """An identifier that follows from ``parts`` (UUID version 5): the same parts, the same id."""
    return uuid.uuid5(_NAMESPACE, "\x00".join(parts))


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID in its canonical form."""
    return _UUID.fullmatch(text) is not None
