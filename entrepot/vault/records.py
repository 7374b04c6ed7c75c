"""Records: indexes, snapshots, dooms and files of WAL, each sealed under its own name.

Invariant: a record opens only under the name and kind it was written for, in its vault.
"""

import re
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

import zstandard
from blake3 import blake3

from entrepot.clock import new_bytes
from entrepot.codec.frames import FrameOpener, FrameSealer, frame_count, opened_size
from entrepot.codec.primitives import SALT_BYTES, Random, derive, prefixed
from entrepot.errors import IntegrityError, InvalidInput, LimitExceeded

RECORD_MAX_BYTES: Final = 1 << 30
"""A reader takes no larger one."""

_MARK: Final = b"EPVR"
_INFO: Final = b"entrepot/1 vault record"
_HEAD_BYTES: Final = len(_MARK) + 1 + SALT_BYTES
_NAME: Final = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{16}")
_WAL_NAME: Final = re.compile(
    r"[a-z0-9][a-z0-9-]{0,62}/(system|([0-9A-F]{8})/"
    r"\2(\.history|[0-9A-F]{16}(\.partial|\.[0-9A-F]{8}\.backup)?))"
)


class Kind(IntEnum):
    """What a record is; its folder in the vault is ``folder``."""

    INDEX = 1
    SNAPSHOT = 2
    DOOM = 3
    WAL = 4
    DRAFT = 5

    @property
    def folder(self) -> str:
        return {1: "indexes", 2: "snapshots", 3: "dooms", 4: "wal", 5: "drafts"}[self.value]


def new_name(now: datetime, *, random: Random = new_bytes) -> str:
    """A name that sorts by its time."""
    utc = now.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z-{random(8).hex()}"


def time_of(name: str) -> datetime:
    """When a record was named; ``InvalidInput`` for what names none."""
    check_name(name)
    whole = datetime.strptime(name[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return whole.replace(microsecond=int(name[15:18]) * 1000)


def is_name(name: str) -> bool:
    """Whether that can name a record."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, kind: Kind | None = None) -> None:
    """``InvalidInput`` for what cannot name a record, so that no name leads elsewhere."""
    if kind is Kind.WAL:
        if not _WAL_NAME.fullmatch(name):
            raise InvalidInput(
                "this names no file of WAL in a vault",
                hint="such as main/00000001/000000010000000000000003",
                name=name,
            )
    elif not is_name(name):
        raise InvalidInput(
            "this names no record of a vault",
            hint="such as 20261125T224500123Z-0123456789abcdef: entrepot backup list",
            name=name,
        )


def seal(
    content: bytes,
    *,
    vault_key: bytes,
    vault_digest: bytes,
    kind: Kind,
    name: str,
    random: Random = new_bytes,
) -> bytes:
    """The bytes of a record. Memory: twice the content."""
    check_name(name, kind)
    salt = random(SALT_BYTES)
    sealer = FrameSealer(
        derive(vault_key, salt=salt, info=_INFO), aad=_aad(vault_digest, kind, name)
    )
    packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)
    return b"".join([_MARK, bytes([kind]), salt, *sealer.feed(packed), *sealer.drain()])


def unseal(record: bytes, *, vault_key: bytes, vault_digest: bytes, kind: Kind, name: str) -> bytes:
    """The content; ``IntegrityError`` where it is not as it was written under that name."""
    if record[: len(_MARK)] != _MARK or len(record) < _HEAD_BYTES:
        raise IntegrityError(f"this is no {kind.name.lower()}, or it is damaged", name=name)
    salt, frames = record[len(_MARK) + 1 : _HEAD_BYTES], memoryview(record)[_HEAD_BYTES:]
    size_bytes = opened_size(len(frames))
    opener = FrameOpener(
        derive(vault_key, salt=salt, info=_INFO),
        aad=_aad(vault_digest, Kind(kind), name),
        size_bytes=size_bytes,
        first=0,
        last=frame_count(size_bytes) - 1,
    )
    if record[len(_MARK)] != kind:
        raise IntegrityError("a record is of another kind than its place", name=name)
    try:
        return _unpacked(b"".join(opener.feed(frames)))
    except (IntegrityError, zstandard.ZstdError) as error:
        raise IntegrityError(
            f"the {kind.name.lower()} does not verify",
            hint="it was altered, cut off or moved from another place; take another copy",
            name=name,
        ) from error


def _unpacked(packed: bytes) -> bytes:
    said = zstandard.get_frame_parameters(packed).content_size
    if said > RECORD_MAX_BYTES:
        raise LimitExceeded("a record is too large to read", size_bytes=said)
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=said)


def _aad(vault_digest: bytes, kind: Kind, name: str) -> bytes:
    return blake3(_INFO + vault_digest + bytes([kind]) + prefixed(name)).digest()
