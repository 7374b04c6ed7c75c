"""The two primitives that everything here is made of: AES-256-GCM and HKDF-SHA256.

Invariant: a ``Gcm`` never releases a byte that its tag does not cover. Who makes one answers for
its nonces: here each key comes fresh from ``derive``, so that a counter from zero is unique.
"""

import struct
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from entrepot.errors import IntegrityError, InvalidInput

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
TAG_BYTES: Final = 16

Piece = bytes | bytearray | memoryview
"""Bytes that are only read."""

Room = bytearray | memoryview
"""Where bytes are written to."""

Random = Callable[[int], bytes]
"""That many random bytes; everywhere ``entrepot.clock.new_bytes`` but in tests."""


def derive(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    """A key of 32 bytes from ``key`` (HKDF-SHA256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def prefixed(text: str | bytes) -> bytes:
    """``LP`` of the format: the length as 16 bits, then the bytes (UTF-8)."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > 0xFFFF:
        raise InvalidInput("a name has more than 65,535 bytes", size_bytes=len(data))
    return struct.pack(">H", len(data)) + data


class Gcm:
    """AES-256-GCM (NIST SP 800-38D) with nonces of 96 bits and tags of 128."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def seal(self, data: Piece, target: Room, *, nonce: bytes, aad: bytes) -> None:
        """Write ``data``, encrypted, and its tag to ``target``, which is 16 bytes longer."""
        self._aes.encrypt_into(nonce, data, aad, target)

    def open(self, data: Piece, target: Room, *, nonce: bytes, aad: bytes) -> None:
        """The inverse; ``IntegrityError`` where anything is not as it was sealed.

        What ``target`` holds then was not verified.
        """
        try:
            self._aes.decrypt_into(nonce, data, aad, target)
        except InvalidTag as error:
            raise IntegrityError("bytes do not have the tag that was made for them") from error
