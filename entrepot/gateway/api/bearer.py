"""A bearer token as text: ``ent_<id>_<secret>``, sent as ``Authorization: Bearer`` (RFC 6750).

The id finds the row, the whole text proves itself by its SHA-256. That needs no salt and no slow
hash: the secret is 256 random bits, so there is nothing to guess. Pure, but for chance.
"""

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from entrepot.clock import new_bytes, new_token
from entrepot.errors import AccessDenied

ID_BYTES: Final = 8
_HEADER = re.compile(rb"(?i:bearer) +(ent_([0-9a-f]{16})_[A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token's text and its two parts that may be kept."""

    id: str
    text: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """What is stored of it, 64 hex digits."""
        return sha256(self.text.encode()).hexdigest()

    def is_the_one(self, token_sha256: str) -> bool:
        """Whether this is the text that was stored so, in constant time."""
        return hmac.compare_digest(self.sha256, token_sha256)


def new_bearer() -> Bearer:
    """A new random token."""
    id = new_bytes(ID_BYTES).hex()
    return Bearer(id, f"ent_{id}_{new_token()}")


def parse_header(headers: Iterable[tuple[bytes, bytes]]) -> Bearer:
    """The token of a request's headers (names in lower case); ``AccessDenied`` for any other."""
    given = [value for name, value in headers if name == b"authorization"]
    match = _HEADER.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        raise AccessDenied("no bearer token", hint="entrepot token add NAME")
    return Bearer(match[2].decode(), match[1].decode())
