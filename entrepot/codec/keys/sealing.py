"""A small secret sealed under a long-lived key, as roots and kits do it.

Invariant: a key encrypts once. Each seal derives its own from 16 random bytes, so the nonce is
zero, and no count of seals under one root key is too large.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from entrepot.clock import new_bytes
from entrepot.codec.primitives import SALT_BYTES, derive
from entrepot.errors import IntegrityError

_NONCE: Final = bytes(12)


def seal(key: bytes, secret: bytes, *, info: bytes, aad: bytes) -> bytes:
    """``salt ‖ GCM(HKDF(key, salt, info), 12 zero bytes, aad, secret)``."""
    salt = new_bytes(SALT_BYTES)
    return salt + AESGCM(derive(key, salt=salt, info=info)).encrypt(_NONCE, secret, aad)


def open_seal(key: bytes, sealed: bytes, *, info: bytes, aad: bytes) -> bytes:
    """What ``seal`` was given; ``IntegrityError`` for another key, other ``aad`` or damage."""
    salt, rest = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
    try:
        return AESGCM(derive(key, salt=salt, info=info)).decrypt(_NONCE, rest, aad)
    except InvalidTag as error:
        raise IntegrityError("seal does not open: another key, another place or damage") from error
