"""The key of one write, and the two seals that keep it.

    root key → tenant keys, numbered → one data key a write

Invariant: a seal opens only with the tenant key that made it, and only for what it was made for:
the object (tenant and data id), or its place (bucket and key too). So an object that somebody put
in the place of another does not open there. Whoever holds a tenant key hands it in; nothing here
keeps one. The bytes are in ``docs/format.md``, under Keys.
"""

import base64
import binascii
import struct
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from entrepot.clock import new_bytes
from entrepot.codec.primitives import (
    KEY_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    Gcm,
    Random,
    derive,
    prefixed,
)
from entrepot.errors import IntegrityError, InvalidInput, Unsupported

METADATA_NAME: Final = "entrepot-seal"
"""Of the metadata entry that says how an object is encoded."""

TENANT_KEY_BYTES: Final = KEY_BYTES
DATA_ID_BYTES: Final = 16
SEALED_BYTES: Final = SALT_BYTES + KEY_BYTES + TAG_BYTES
TENANT_MAX_BYTES: Final = 255
"""So that a header has a largest size."""

KEY_NUMBER_MAX: Final = 2**32 - 1

_NONCE: Final = bytes(12)  # each seal has a key of its own, from its salt
_INFO: Final = b"entrepot/1 seal"
_VERSION: Final = "1."
_ENTRY: Final = struct.Struct(f">B{DATA_ID_BYTES}sI{SEALED_BYTES}s")


class Flags(IntFlag):
    """What is done to the bytes of an object."""

    COMPRESSED = 1
    ENCRYPTED = 2


@dataclass(frozen=True, slots=True)
class DataKey:
    """The key of one write. ``key_number`` is of the tenant key that seals it, from 1."""

    tenant: str
    key_number: int
    data_id: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.tenant.encode()) <= TENANT_MAX_BYTES:
            raise InvalidInput("a tenant id has 1 to 255 bytes", tenant=self.tenant)
        if not 1 <= self.key_number <= KEY_NUMBER_MAX:
            raise InvalidInput("tenant keys are numbered from 1", key_number=self.key_number)
        if len(self.data_id) != DATA_ID_BYTES or len(self.secret) != KEY_BYTES:
            raise InvalidInput("a data key has 32 bytes and an id of 16", tenant=self.tenant)


def new_data_id(random: Random = new_bytes) -> bytes:
    """An id for a write that is compressed and not encrypted."""
    return random(DATA_ID_BYTES)


def new_data_key(*, tenant: str, key_number: int, random: Random = new_bytes) -> DataKey:
    """A key for one write, with a new data id."""
    return DataKey(tenant, key_number, random(DATA_ID_BYTES), random(KEY_BYTES))


def seal_for_object(data_key: DataKey, *, tenant_key: bytes, random: Random = new_bytes) -> bytes:
    """The seal of 64 bytes that headers carry."""
    return _seal(data_key.secret, tenant_key, _of_object(data_key), random)


def open_for_object(
    sealed: bytes, *, tenant: str, key_number: int, data_id: bytes, tenant_key: bytes
) -> DataKey:
    """The data key in a header's seal; ``IntegrityError`` where it is not this object's."""
    closed = DataKey(tenant, key_number, data_id, bytes(KEY_BYTES))
    secret = _open(sealed, tenant_key, _of_object(closed), key_number)
    return DataKey(tenant, key_number, data_id, secret)


@dataclass(frozen=True, slots=True)
class Seal:
    """The metadata entry ``entrepot-seal``. Key number and seal are zeros where only compressed."""

    flags: Flags
    data_id: bytes
    key_number: int = 0
    sealed: bytes = bytes(SEALED_BYTES)

    @property
    def compressed(self) -> bool:
        return Flags.COMPRESSED in self.flags

    @property
    def encrypted(self) -> bool:
        return Flags.ENCRYPTED in self.flags

    def text(self) -> str:
        """The value of the entry: 116 characters."""
        entry = _ENTRY.pack(self.flags, self.data_id, self.key_number, self.sealed)
        return _VERSION + base64.urlsafe_b64encode(entry).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Seal":
        """What ``text`` wrote: ``IntegrityError``, or ``Unsupported`` of another version."""
        if not text.startswith(_VERSION):
            version, dot, _ = text.partition(".")
            if dot and version.isdecimal():
                raise Unsupported(
                    "the seal is of a version that is not known here",
                    hint="read this object with a newer entrepot",
                )
            raise IntegrityError(f"metadata entry {METADATA_NAME} is malformed")
        try:
            entry = base64.b64decode(text[len(_VERSION) :] + "==", altchars=b"-_", validate=True)
            flags, data_id, key_number, sealed = _ENTRY.unpack(entry)
        except (binascii.Error, struct.error, ValueError) as error:
            raise IntegrityError(f"metadata entry {METADATA_NAME} is malformed") from error
        seal = cls(known_flags(flags), data_id, key_number, sealed)
        spare = not seal.encrypted and (key_number or any(sealed))
        if seal.text() != text or spare or (seal.encrypted and not key_number):
            raise IntegrityError(f"metadata entry {METADATA_NAME} is malformed")
        return seal


def known_flags(number: int) -> Flags:
    """The flags; ``Unsupported`` where one is unknown, ``IntegrityError`` where none is set."""
    if number >= 4:
        raise Unsupported(
            "the object is encoded in a way that is not known here",
            hint="read it with a newer entrepot",
            flags=number,
        )
    if number == 0:
        raise IntegrityError("an encoded object is compressed or encrypted, this says neither")
    return Flags(number)


def seal_for_place(
    data_key: DataKey,
    *,
    tenant_key: bytes,
    bucket: str,
    key: str,
    compressed: bool,
    random: Random = new_bytes,
) -> Seal:
    """The metadata entry of an encrypted object at its place; a copy gets a new one."""
    flags = Flags.ENCRYPTED | (Flags.COMPRESSED if compressed else Flags(0))
    sealed = _seal(data_key.secret, tenant_key, _of_place(data_key, bucket, key), random)
    return Seal(flags, data_key.data_id, data_key.key_number, sealed)


def open_for_place(seal: Seal, *, tenant: str, tenant_key: bytes, bucket: str, key: str) -> DataKey:
    """The data key; ``IntegrityError`` where the seal is of another place, tenant or key."""
    if not seal.encrypted:
        raise IntegrityError("the object is not encrypted", bucket=bucket, key=key)
    closed = DataKey(tenant, seal.key_number, seal.data_id, bytes(KEY_BYTES))
    about = _of_place(closed, bucket, key)
    secret = _open(seal.sealed, tenant_key, about, seal.key_number)
    return DataKey(tenant, seal.key_number, seal.data_id, secret)


def _of_object(data_key: DataKey) -> bytes:
    return b"entrepot/1 object" + prefixed(data_key.tenant) + _identity(data_key)


def _of_place(data_key: DataKey, bucket: str, key: str) -> bytes:
    place = prefixed(data_key.tenant) + prefixed(bucket) + prefixed(key)
    return b"entrepot/1 place" + place + _identity(data_key)


def _identity(data_key: DataKey) -> bytes:
    return data_key.data_id + struct.pack(">I", data_key.key_number)


def _sealer(tenant_key: bytes, salt: bytes) -> Gcm:
    if len(tenant_key) != TENANT_KEY_BYTES:
        raise InvalidInput("a tenant key has 32 bytes", size_bytes=len(tenant_key))
    return Gcm(derive(tenant_key, salt=salt, info=_INFO))


def _seal(secret: bytes, tenant_key: bytes, aad: bytes, random: Random) -> bytes:
    salt, sealed = random(SALT_BYTES), bytearray(KEY_BYTES + TAG_BYTES)
    _sealer(tenant_key, salt).seal(secret, sealed, nonce=_NONCE, aad=aad)
    return salt + sealed


def _open(sealed: bytes, tenant_key: bytes, aad: bytes, key_number: int) -> bytes:
    if len(sealed) != SEALED_BYTES:
        raise IntegrityError("a seal has 64 bytes", size_bytes=len(sealed))
    salt, rest, secret = sealed[:SALT_BYTES], sealed[SALT_BYTES:], bytearray(KEY_BYTES)
    try:
        _sealer(tenant_key, salt).open(rest, secret, nonce=_NONCE, aad=aad)
    except IntegrityError as error:
        raise IntegrityError(
            "the seal of the data key does not open",
            hint="the object was altered or moved, or this is not the tenant's key of that number",
            key_number=key_number,
        ) from error
    return bytes(secret)
