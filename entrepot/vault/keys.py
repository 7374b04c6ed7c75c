"""The file ``vault``, the slots that hold its key, and what follows from the keys of domains.

Invariant: a slot opens only with its holder's key and only beside the vault file it was made for,
so whoever has the vault key has also verified how the vault cuts. Nothing of a domain follows from
the vault key but of the vault's own: shredding the ring's key shreds the domain.

Words: *slot* the vault key, sealed for one holder; *domain* what chunks are shared within.
"""

import re
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

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
from entrepot.errors import AccessDenied, IntegrityError, InvalidInput, Unsupported

VAULT_ID_BYTES: Final = 16
CHUNK_LIMIT_BYTES: Final = 1 << 24
"""No vault cuts larger chunks: a reader can always hold one."""

_VAULT: Final = struct.Struct(f">4s{VAULT_ID_BYTES}sQIIII")
_VAULT_MARK: Final = b"EPV1"
_SLOT_MARK: Final = b"EPVS"
_INFO: Final = b"entrepot/1 vault slot"
_NONCE: Final = bytes(12)  # each slot's key seals one thing
_SEALED_BYTES: Final = KEY_BYTES + TAG_BYTES
_RING, _RECIPIENT = 1, 2
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Domain(NamedTuple):
    """What chunks are shared within: a key of the ring, or the vault's own (``OWN``)."""

    name: str
    number: int


OWN: Final = Domain("", 0)


@dataclass(frozen=True, slots=True)
class Cutting:
    """Bytes of the least, average and largest chunk, and from which on a pack is closed."""

    min_bytes: int = 256 * 1024
    average_bytes: int = 1024 * 1024
    max_bytes: int = 4 * 1024 * 1024
    pack_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        ordered = 64 <= self.min_bytes <= self.average_bytes <= self.max_bytes
        if not ordered or self.max_bytes > CHUNK_LIMIT_BYTES or self.pack_bytes > 1 << 30:
            raise InvalidInput("no vault can cut so", hint="least, average, largest in order")


@dataclass(frozen=True, slots=True)
class VaultFile:
    """What the file ``vault`` says."""

    vault_id: bytes
    created_ms: int
    cutting: Cutting

    def dump(self) -> bytes:
        """Its bytes."""
        cut = self.cutting
        sizes = (cut.min_bytes, cut.average_bytes, cut.max_bytes, cut.pack_bytes)
        return _VAULT.pack(_VAULT_MARK, self.vault_id, self.created_ms, *sizes)

    @classmethod
    def parse(cls, data: bytes) -> "VaultFile":
        """``Unsupported`` for a newer format, ``IntegrityError`` for what is no vault file."""
        if data[:3] == _VAULT_MARK[:3] and data[3:4] > _VAULT_MARK[3:]:
            raise Unsupported(
                "the vault has a newer format",
                hint="read it with the version that wrote it, or a later one",
                format=data[3:4].decode("latin-1"),
            )
        if len(data) != _VAULT.size or data[:4] != _VAULT_MARK:
            raise IntegrityError("this is no vault file, or it is damaged", size_bytes=len(data))
        _, vault_id, created_ms, *sizes = _VAULT.unpack(data)
        try:
            return cls(vault_id, created_ms, Cutting(*sizes))
        except InvalidInput as error:
            raise IntegrityError("the vault file is damaged") from error

    @property
    def digest(self) -> bytes:
        """``V`` of the format."""
        return blake3(self.dump()).digest()


def new_vault_file(
    *, created_ms: int, cutting: Cutting | None = None, random: Random = new_bytes
) -> VaultFile:
    """A vault that there was not before."""
    return VaultFile(random(VAULT_ID_BYTES), created_ms, cutting or Cutting())


def check_slot_name(name: str) -> None:
    """``InvalidInput`` for what cannot name a slot."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "this cannot name a slot",
            hint="1 to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
            name=name,
        )


@dataclass(frozen=True, slots=True)
class RingSlot:
    """Who opens it: a key of the ring."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class RecipientSlot:
    """Who opens it: the holder of an X25519 private key."""

    public: bytes


def slot_holder(slot: bytes) -> RingSlot | RecipientSlot:
    """For whom a slot was made."""
    head, _ = _split(slot)
    if head[4] == _RECIPIENT:
        return RecipientSlot(head[5:37])
    size = int.from_bytes(head[5:7], "big")
    return RingSlot(head[7 : 7 + size].decode(), int.from_bytes(head[7 + size : 11 + size], "big"))


def seal_for_ring(
    vault_key: bytes,
    vault: VaultFile,
    holder: RingSlot,
    *,
    ring_key: bytes,
    random: Random = new_bytes,
) -> bytes:
    """A slot that a key of the ring opens."""
    salt = random(SALT_BYTES)
    head = _SLOT_MARK + bytes([_RING]) + prefixed(holder.name)
    head += holder.number.to_bytes(4, "big") + salt
    return head + _seal(derive(ring_key, salt=salt, info=_INFO), vault, head, vault_key)


def open_with_ring(slot: bytes, vault: VaultFile, *, ring_key: bytes) -> bytes:
    """The vault key; ``AccessDenied`` where this is not the slot's key, or not this vault's."""
    head, sealed = _split(slot)
    return _open(derive(ring_key, salt=head[-SALT_BYTES:], info=_INFO), vault, head, sealed)


def seal_for_recipient(
    vault_key: bytes, vault: VaultFile, *, public: bytes, random: Random = new_bytes
) -> bytes:
    """A slot that the private key to ``public`` (32 bytes, X25519) opens."""
    ephemeral = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    shown = ephemeral.public_key().public_bytes_raw()
    secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    head = _SLOT_MARK + bytes([_RECIPIENT]) + public + shown
    return head + _seal(derive(secret, salt=shown + public, info=_INFO), vault, head, vault_key)


def open_as_recipient(slot: bytes, vault: VaultFile, *, private: bytes) -> bytes:
    """The vault key; ``AccessDenied`` for another's slot."""
    head, sealed = _split(slot)
    own = X25519PrivateKey.from_private_bytes(private)
    public, shown = head[5:37], head[37:69]
    if own.public_key().public_bytes_raw() != public:
        raise AccessDenied("the slot is another recipient's")
    secret = own.exchange(X25519PublicKey.from_public_bytes(shown))
    return _open(derive(secret, salt=shown + public, info=_INFO), vault, head, sealed)


def _split(slot: bytes) -> tuple[bytes, bytes]:
    """What comes before the sealed key, and that."""
    head, sealed = slot[:-_SEALED_BYTES], slot[-_SEALED_BYTES:]
    kind = head[4] if len(head) > 4 else 0
    least = {_RING: 5 + 2 + 1 + 4 + SALT_BYTES, _RECIPIENT: 5 + 2 * KEY_BYTES}.get(kind)
    if head[:4] != _SLOT_MARK or least is None or len(head) < least:
        raise IntegrityError("this is no slot, or it is damaged")
    name_bytes = int.from_bytes(head[5:7], "big") - 1 if kind == _RING else 0
    if len(head) != least + name_bytes:
        raise IntegrityError("the slot is damaged")
    return head, sealed


def _seal(key: bytes, vault: VaultFile, head: bytes, vault_key: bytes) -> bytes:
    sealed = bytearray(_SEALED_BYTES)
    Gcm(key).seal(vault_key, sealed, nonce=_NONCE, aad=_INFO + vault.digest + head)
    return bytes(sealed)


def _open(key: bytes, vault: VaultFile, head: bytes, sealed: bytes) -> bytes:
    vault_key = bytearray(KEY_BYTES)
    try:
        Gcm(key).open(sealed, vault_key, nonce=_NONCE, aad=_INFO + vault.digest + head)
    except IntegrityError as error:
        raise AccessDenied(
            "the slot does not open",
            hint="another key, another vault, or the slot or the vault file was altered",
        ) from error
    return bytes(vault_key)


@dataclass(frozen=True, slots=True)
class DomainKeys:
    """What follows from the secret of a domain in one vault."""

    domain: Domain
    vault_id: bytes
    secret: bytes = field(repr=False)
    _names: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = derive(self.secret, salt=self.vault_id, info=b"entrepot/1 chunk id")
        object.__setattr__(self, "_names", names)

    @property
    def seed(self) -> int:
        """Of the gear table that cuts."""
        derived = derive(self.secret, salt=self.vault_id, info=b"entrepot/1 chunk seed")
        return int.from_bytes(derived[:8], "big")

    def chunk_id(self, chunk: bytes | bytearray | memoryview) -> bytes:
        """The id of a chunk: 32 bytes."""
        return blake3(chunk, key=self._names).digest()

    def pack_key(self, salt: bytes) -> bytes:
        """The key of a pack."""
        return derive(self.secret, salt=self.vault_id + salt, info=b"entrepot/1 pack")
