"""A signed statement of what a comparison of sites came to, checked without any server.

The document is JSON in one canonical form: keys sorted, no blanks, UTF-8, no floating point, one
line feed at its end. Its signature is Ed25519 (RFC 8032) over that form without the member
``signature``. A document in any other form is refused, so no byte of one can change.

Trust: the document holds the public key, so on its own it proves only that nobody changed it
since. Whose key that is, the reader knows from elsewhere: ``entrepot replicate certificate-key``
at the operator's, who publishes it. The private key follows from a key of the key ring, so who can
open the ring can sign, and a ring that is restored from its kit signs with the same key.
"""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from entrepot.codec.keys.ring import KeyRing, KeyState, TenantKey
from entrepot.codec.primitives import derive
from entrepot.errors import IntegrityError, InvalidInput

CERTIFIER: Final = "entrepot-certificate"
"""The name under which the key ring keeps the keys that certificates are signed with."""

FORMAT: Final = "entrepot-certificate/1"
SIZE_MAX: Final = 8 * 1024 * 1024
"""Largest document that is read: a thousand buckets, and differences of some of them."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Signer:
    """One signing key; ``number`` is that of the ring's key behind it."""

    number: int
    key: Ed25519PrivateKey

    @property
    def public(self) -> str:
        """The public key, 32 bytes in base64."""
        return _base64(self.key.public_key().public_bytes_raw())


async def signer(ring: KeyRing) -> Signer:
    """The key that new certificates are signed with; it is made where there is none."""
    return _signer(await ring.current(CERTIFIER))


async def signers(ring: KeyRing) -> list[Signer]:
    """The keys of old and new certificates, by number; a shredded one is not among them."""
    await ring.current(CERTIFIER)
    infos = await asyncio.to_thread(ring.describe, CERTIFIER)
    numbers = [info.number for info in infos if info.state is KeyState.ACTIVE]
    return [_signer(await ring.get(CERTIFIER, number)) for number in numbers]


def _signer(kept: TenantKey) -> Signer:
    seed = derive(kept.secret, salt=b"", info=b"entrepot/1 certificate")
    return Signer(kept.number, Ed25519PrivateKey.from_private_bytes(seed))


def fingerprint(public: str) -> str:
    """What people compare: the first 16 hexadecimal digits of the key's SHA-256, in fours."""
    digits = sha256(_key_bytes(public)).hexdigest()[:16]
    return "-".join(digits[start : start + 4] for start in range(0, 16, 4))


def sign(facts: Document, by: Signer) -> bytes:
    """The document with its key and signature.

    Raises:
        InvalidInput: it has numbers that are not whole, or is too large.
    """
    key = {"algorithm": "Ed25519", "number": by.number, "public": by.public}
    unsigned = {**facts, "format": FORMAT, "key": key}
    signature = _base64(by.key.sign(_canonical(unsigned)))
    whole = _canonical({**unsigned, "signature": signature}) + b"\n"
    if len(whole) > SIZE_MAX:
        raise InvalidInput("a certificate would be too large", size_bytes=len(whole))
    return whole


def check(document: bytes, *, public: str | None = None) -> Document:
    """What a document states, if it is as it was signed.

    Args:
        public: the key that it must be signed with, in base64; any where ``None``.

    Raises:
        IntegrityError: it was changed, is no certificate, or is signed with another key.
    """
    expected = None if public is None else _key_bytes(public)
    if len(document) > SIZE_MAX:
        raise IntegrityError("not a certificate: it is too large", size_bytes=len(document))
    try:
        stated = json.loads(document, parse_float=_no_float, parse_constant=_no_float)
        if document != _canonical(stated) + b"\n":
            raise IntegrityError("not a certificate in its canonical form")
        unsigned = {name: stated[name] for name in stated if name != "signature"}
        key, signature = stated["key"], stated["signature"]
        if (stated["format"], key["algorithm"]) != (FORMAT, "Ed25519"):
            raise IntegrityError("not a certificate of a known format")
        verifier = Ed25519PublicKey.from_public_bytes(_key_bytes(key["public"]))
        verifier.verify(_bytes(signature), _canonical(unsigned))
    except (InvalidInput, ValueError, TypeError, LookupError, RecursionError) as error:
        raise IntegrityError("not a certificate") from error
    except InvalidSignature as error:
        raise IntegrityError("the certificate was changed after it was signed") from error
    if public is not None and expected != _key_bytes(key["public"]):
        raise IntegrityError(
            "the certificate is signed with another key",
            hint="entrepot replicate certificate-key shows the operator's keys",
            signed_by=fingerprint(key["public"]),
            expected=fingerprint(public),
        )
    return dict(stated)


def _canonical(value: object) -> bytes:
    _check_whole(value)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("a certificate holds text only") from error


def _check_whole(value: object) -> None:
    """Refuse what JSON has several forms of."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if not isinstance(name, str):
                raise InvalidInput("a certificate's names are texts", name=repr(name))
            _check_whole(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_whole(each)
    elif not isinstance(value, str | bool | int | None):
        raise InvalidInput("a certificate holds no such value", value=repr(value)[:100])


def _no_float(text: str) -> float:
    raise ValueError(text)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: str) -> bytes:
    """base64 in its one canonical form: unused bits are zero."""
    data = b64decode(text, validate=True)
    if _base64(data) != text:
        raise ValueError(text)
    return data


def _key_bytes(public: str) -> bytes:
    try:
        data = _bytes(public)
    except ValueError as error:
        raise InvalidInput("not a public key in base64", key=public[:100]) from error
    if len(data) != 32:
        raise InvalidInput("a public key has 32 bytes", size_bytes=len(data))
    return data
