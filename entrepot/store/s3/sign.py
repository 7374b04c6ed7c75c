"""AWS signature version 4 for S3, as pure functions.

Source: "Authenticating Requests: Using the Authorization Header" of the S3 API reference. S3
encodes a path once and does not normalise it. The body is not hashed (``UNSIGNED-PAYLOAD``):
what protects it is a signed ``content-md5`` where the caller knows one, or a CRC after it.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

from pydantic import SecretStr

UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One key pair and the region its signatures name."""

    access_key: str
    secret_key: SecretStr
    region: str


def encode_path(bucket: str, key: str = "") -> str:
    """The path of a path-style request, encoded once."""
    path = f"/{bucket}/{key}" if key else f"/{bucket}" if bucket else "/"
    return quote(path, safe="/~-_.")


def encode_query(query: Mapping[str, str]) -> str:
    """The canonical query string: sorted by name, every reserved sign encoded."""
    pairs = sorted((quote(n, safe="~-_."), quote(v, safe="~-_.")) for n, v in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    credentials: Credentials,
    method: str,
    *,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    now: datetime,
    content: str = UNSIGNED,
) -> dict[str, str]:
    """The headers to send: those given (names in lower case) and the signature over them all."""
    # A fifth of what strftime takes.
    stamp = now.isoformat()[:19].replace("-", "").replace(":", "") + "Z"
    day = stamp[:8]
    signed = {**headers, "host": host, "x-amz-content-sha256": content, "x-amz-date": stamp}
    names = sorted(signed)
    lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
    listed = ";".join(names)
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{listed}\n{content}"
    scope = f"{day}/{credentials.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    key = _signing_key(credentials.secret_key.get_secret_value(), day, credentials.region)
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={listed}, Signature={signature}"
    )
    return signed


@lru_cache(maxsize=64)  # one a day, region and key; three sites over midnight are six
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    key = hmac.digest(f"AWS4{secret_key}".encode(), day.encode(), "sha256")
    for step in (region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key
