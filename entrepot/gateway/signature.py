"""Whether a delivery was signed by the one who holds the webhook's secret, recently.

Follows the Standard Webhooks convention (https://www.standardwebhooks.com): ``webhook-signature``
is a space-separated list of ``v1,<base64 HMAC-SHA256>`` over ``{id}.{timestamp}.{body}``, and a
secret is ``whsec_<base64>``.

Invariant: every refusal looks the same from outside, every comparison takes the same time, and
the signed text can be read in one way only (no full stop in an id, digits only in a timestamp).
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from entrepot.clock import new_bytes
from entrepot.errors import AccessDenied, InvalidInput

WINDOW_S: Final = 300
"""A timestamp may lie this far in the past or the future."""
SECRET_BYTES: Final = 32
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (a prefix, not a secret)
SIGNATURES_MAX: Final = 8
"""In one header; two are usual while a sender rotates its secret."""

_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")
_TIMESTAMP = re.compile(rb"[0-9]{1,12}")
_NAMES: Final = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")


@dataclass(frozen=True, slots=True)
class Signed:
    """The three headers of a delivery, well-formed but not yet believed."""

    delivery_id: str
    timestamp: int
    prefix: bytes  # what is signed before the body
    signatures: tuple[bytes, ...]


def parse_headers(headers: Iterable[tuple[bytes, bytes]]) -> Signed:
    """The signing headers, each exactly once; names in lower case, as ASGI has them.

    Raises ``AccessDenied`` where one is missing, repeated or malformed.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _NAMES:
            if name in found:
                raise _denied(f"{name.decode()} is there twice")
            found[name] = value
    try:
        delivery_id, timestamp, signature = (found[name] for name in _NAMES)
    except KeyError as error:
        raise _denied("a signing header is missing") from error
    signatures = tuple(signature.split(b" "))
    if not _ID.fullmatch(delivery_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise _denied("the id or the timestamp is malformed")
    if len(signatures) > SIGNATURES_MAX:
        raise _denied("too many signatures")
    prefix = delivery_id + b"." + timestamp + b"."
    return Signed(delivery_id.decode(), int(timestamp), prefix, signatures)


def verify(signed: Signed, body: bytes, *, secret: bytes, now_s: float) -> None:
    """Raises ``AccessDenied`` unless ``secret`` signed this body within the window."""
    expected = sign(signed.prefix + body, secret=secret)
    # All of them are compared, so that time does not tell which one came close.
    matches = [hmac.compare_digest(expected, given) for given in signed.signatures]
    if not any(matches):
        raise _denied("no signature matches")
    if abs(now_s - signed.timestamp) > WINDOW_S:
        raise _denied("the timestamp is outside the window")


def sign(signed_text: bytes, *, secret: bytes) -> bytes:
    """``v1,`` and the HMAC-SHA256 of ``signed_text`` in base64."""
    return b"v1," + base64.b64encode(hmac.digest(secret, signed_text, sha256))


def new_secret() -> bytes:
    """A random secret of 32 bytes."""
    return new_bytes(SECRET_BYTES)


def format_secret(secret: bytes) -> str:
    """The secret as people and other programs carry it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def parse_secret(text: str) -> bytes:
    """The bytes of a formatted secret; ``InvalidInput`` where it is none."""
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("a secret is whsec_ and base64") from error


def _denied(reason: str) -> AccessDenied:
    return AccessDenied(reason, hint="sign id, timestamp and body with the webhook's secret")
