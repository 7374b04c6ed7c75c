"""How the bytes of one write are encoded, and the header that says so before each segment.

Invariant: a header follows from the shape, the part number and the salt, so a reader that knows
these writes it down again and compares, instead of trusting what it reads. Only ``offline``, which
knows nothing else, parses one.
"""

import struct
from dataclasses import dataclass
from typing import Final

from entrepot.codec.blocks import BLOCK_LOG
from entrepot.codec.primitives import SALT_BYTES, prefixed
from entrepot.codec.seal import (
    DATA_ID_BYTES,
    SEALED_BYTES,
    TENANT_MAX_BYTES,
    DataKey,
    Flags,
    known_flags,
)
from entrepot.errors import IntegrityError, InvalidInput, Unsupported

PART_MAX: Final = 10_000
"""The largest part number of S3."""

_SKIPPABLE: Final = 0x184D2A5E
_FORMAT: Final = b"EPO"
_VERSION: Final = b"1"
_FIXED: Final = struct.Struct(f">4sBBH{DATA_ID_BYTES}s{SALT_BYTES}sI")
_FRAME: Final = struct.Struct("<II")
HEADER_MAX_BYTES: Final = _FRAME.size + _FIXED.size + SEALED_BYTES + 2 + TENANT_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Shape:
    """What is done to the bytes of one write; all its segments share it.

    ``data_key`` is ``None`` and ``sealed`` (from ``seal_for_object``) empty where it is not
    encrypted. ``InvalidInput`` where it is neither compressed nor encrypted: such an object is
    stored as it came.
    """

    data_id: bytes
    compressed: bool
    data_key: DataKey | None
    sealed: bytes

    def __post_init__(self) -> None:
        key = self.data_key
        if not key and not self.compressed:
            raise InvalidInput("what is neither compressed nor encrypted is stored as it came")
        if len(self.data_id) != DATA_ID_BYTES or (key and key.data_id != self.data_id):
            raise InvalidInput("a data id has 16 bytes and is that of the data key")
        if len(self.sealed) != (SEALED_BYTES if key else 0):
            raise InvalidInput("a seal has 64 bytes and belongs to a data key")

    @property
    def flags(self) -> Flags:
        """The two facts as the format writes them."""
        compressed = Flags.COMPRESSED if self.compressed else Flags(0)
        return compressed | (Flags.ENCRYPTED if self.data_key else Flags(0))


@dataclass(frozen=True, slots=True)
class Opening:
    """What a header says on its own; ``tenant`` and ``sealed`` are empty where not encrypted."""

    flags: Flags
    data_id: bytes
    key_number: int
    sealed: bytes
    tenant: str


def header_size(shape: Shape) -> int:
    """Bytes of each of its headers."""
    return len(header(shape, part_number=1, salt=bytes(SALT_BYTES)))


def header(shape: Shape, *, part_number: int, salt: bytes) -> bytes:
    """The header of one attempt at one segment."""
    if not 1 <= part_number <= PART_MAX:
        raise InvalidInput("parts are numbered from 1 to 10,000", part_number=part_number)
    key = shape.data_key
    fixed = _FIXED.pack(
        _FORMAT + _VERSION,
        shape.flags,
        BLOCK_LOG if shape.compressed else 0,
        part_number,
        shape.data_id,
        salt,
        key.key_number if key else 0,
    )
    rest = fixed + (shape.sealed + prefixed(key.tenant) if key else b"")
    return _FRAME.pack(_SKIPPABLE, len(rest)) + rest


def parse_header(data: bytes) -> Opening:
    """What the header at the start of ``data`` says, which may hold more than it.

    ``Unsupported`` where version or flags are unknown, ``IntegrityError`` where it is no header.
    Part number and salt are not looked at: the footer knows them.
    """
    try:
        magic, length = _FRAME.unpack_from(data)
        mark, flags, _, _, data_id, _, key_number = _FIXED.unpack_from(data, _FRAME.size)
    except struct.error as error:
        raise IntegrityError("too short to be an encoded object", size_bytes=len(data)) from error
    if magic != _SKIPPABLE or not mark.startswith(_FORMAT):
        raise IntegrityError("not an encoded object")
    if mark != _FORMAT + _VERSION:
        raise Unsupported(
            "the object is of a version that is not known here",
            hint="read it with a newer entrepot",
            version=mark[len(_FORMAT) :].decode("ascii", "replace"),
        )
    flags = known_flags(flags)
    if Flags.ENCRYPTED not in flags:
        return Opening(flags, data_id, key_number, b"", "")
    sealed, tenant = _owner(data[: _FRAME.size + length])
    if not key_number:
        raise IntegrityError("the header names no tenant key")
    return Opening(flags, data_id, key_number, sealed, tenant)


def _owner(data: bytes) -> tuple[bytes, str]:
    """Seal and tenant id of a header."""
    at = _FRAME.size + _FIXED.size
    sealed, name = data[at : at + SEALED_BYTES], data[at + SEALED_BYTES + 2 :]
    if not 1 <= len(name) <= TENANT_MAX_BYTES:
        raise IntegrityError("the header names no tenant")
    try:
        return sealed, name.decode()
    except UnicodeDecodeError as error:
        raise IntegrityError("the header names no tenant") from error
