"""The file ``vault``, the slots that hold its key, and what follows from the keys of domains.

Invariant: a slot opens only with its holder's key and only beside the vault file it was made for,
so whoever has the vault key has also verified how the vault cuts. Nothing of a domain follows from
the vault key but of the vault's own: shredding the ring's key shreds the domain.

Whoever has the vault key can tell whether a slot is as it was made, also another's: its end is a
check under that key.

Words: *slot* the vault key, sealed for one holder; *domain* what chunks are shared within.
"""

import re
import struct
from dataclasses import dataclass, field
from hmac import compare_digest
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
PACK_LIMIT_BYTES: Final = 1 << 30
"""From here on every vault closes a pack."""

_VAULT: Final = struct.Struct(f">4s{VAULT_ID_BYTES}sQIIII")
_VAULT_MARK: Final = b"EPV1"
_SLOT_MARK: Final = b"EPVS"
_INFO: Final = b"entrepot/1 vault slot"
_NONCE: Final = bytes(12)  # each slot's key seals one thing
_CHECK_INFO: Final = b"entrepot/1 vault slot check"
_CHECK_BYTES: Final = 16
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
    """Bytes of the least, average and largest chunk, and from which on a pack is closed.

    The bounds are those of ``pyfastcdc``.
    """

    min_bytes: int = 256 * 1024
    average_bytes: int = 1024 * 1024
    max_bytes: int = 4 * 1024 * 1024
    pack_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        sizes = (self.min_bytes, self.average_bytes, self.max_bytes)
        allowed = (
            64 <= self.min_bytes <= 1 << 20
            and 256 <= self.average_bytes <= 1 << 22
            and 1024 <= self.max_bytes <= CHUNK_LIMIT_BYTES
            and 1024 <= self.pack_bytes <= PACK_LIMIT_BYTES
        )
        if not allowed or sorted(sizes) != list(sizes):
            raise InvalidInput(
                "no vault can cut so",
                hint="64 B to 1 MiB, 256 B to 4 MiB, 1 KiB to 16 MiB, in order; packs to 1 GiB",
            )


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
    """For whom a slot was made; ``IntegrityError`` for what is no slot."""
    parts = _split(slot)
    head = parts.head
    if head[4] == _RECIPIENT:
        return RecipientSlot(head[5:37])
    size = int.from_bytes(head[5:7], "big")
    try:
        name = head[7 : 7 + size].decode()
    except UnicodeDecodeError as error:
        raise IntegrityError("the slot is damaged") from error
    return RingSlot(name, int.from_bytes(head[7 + size : 11 + size], "big"))


def check_slot(slot: bytes, vault: VaultFile, *, vault_key: bytes) -> None:
    """``IntegrityError`` unless the slot is as it was made, by who had that vault key."""
    said = slot[-_CHECK_BYTES:]
    if not compare_digest(_check(vault_key, vault, slot[:-_CHECK_BYTES]), said):
        raise IntegrityError("the slot was altered, or is another vault's")


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
    return _sealed(derive(ring_key, salt=salt, info=_INFO), vault, head, vault_key)


def open_with_ring(slot: bytes, vault: VaultFile, *, ring_key: bytes) -> bytes:
    """The vault key; ``AccessDenied`` where this is not the slot's key, or not this vault's."""
    parts = _split(slot)
    return _open(derive(ring_key, salt=parts.head[-SALT_BYTES:], info=_INFO), vault, slot)


def seal_for_recipient(
    vault_key: bytes, vault: VaultFile, *, public: bytes, random: Random = new_bytes
) -> bytes:
    """A slot that the private key to ``public`` opens; ``InvalidInput`` where none could be.

    ``public`` has 32 bytes (X25519, RFC 7748).
    """
    ephemeral = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    shown = ephemeral.public_key().public_bytes_raw()
    try:
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # of another length, or a point of small order
        raise InvalidInput("this is no X25519 public key", size_bytes=len(public)) from error
    head = _SLOT_MARK + bytes([_RECIPIENT]) + public + shown
    return _sealed(derive(secret, salt=shown + public, info=_INFO), vault, head, vault_key)


def open_as_recipient(slot: bytes, vault: VaultFile, *, private: bytes) -> bytes:
    """The vault key; ``AccessDenied`` for another's slot, ``InvalidInput`` for no private key."""
    if len(private) != KEY_BYTES:
        raise InvalidInput("an X25519 private key has 32 bytes", size_bytes=len(private))
    head = _split(slot).head
    own = X25519PrivateKey.from_private_bytes(private)
    public, shown = head[5:37], head[37:69]
    if own.public_key().public_bytes_raw() != public:
        raise AccessDenied("the slot is another recipient's")
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(shown))
    except ValueError as error:  # a point of small order, which no writer makes
        raise IntegrityError("the slot is damaged") from error
    return _open(derive(secret, salt=shown + public, info=_INFO), vault, slot)


class _Slot(NamedTuple):
    """Parts of a slot: what comes before the sealed key, that, and the check."""

    head: bytes
    sealed: bytes
    check: bytes


def _split(slot: bytes) -> _Slot:
    rest, check = slot[:-_CHECK_BYTES], slot[-_CHECK_BYTES:]
    head, sealed = rest[:-_SEALED_BYTES], rest[-_SEALED_BYTES:]
    kind = head[4] if len(head) > 4 else 0
    least = {_RING: 5 + 2 + 1 + 4 + SALT_BYTES, _RECIPIENT: 5 + 2 * KEY_BYTES}.get(kind)
    if head[:4] != _SLOT_MARK or least is None or len(head) < least:
        raise IntegrityError("this is no slot, or it is damaged")
    name_bytes = int.from_bytes(head[5:7], "big") - 1 if kind == _RING else 0
    if len(head) != least + name_bytes:
        raise IntegrityError("the slot is damaged")
    return _Slot(head, sealed, check)


def _sealed(key: bytes, vault: VaultFile, head: bytes, vault_key: bytes) -> bytes:
    """The whole slot."""
    sealed = bytearray(_SEALED_BYTES)
    Gcm(key).seal(vault_key, sealed, nonce=_NONCE, aad=_INFO + vault.digest + head)
    slot = head + sealed
    return slot + _check(vault_key, vault, slot)


def _open(key: bytes, vault: VaultFile, slot: bytes) -> bytes:
    parts = _split(slot)
    room = bytearray(KEY_BYTES)
    try:
        Gcm(key).open(parts.sealed, room, nonce=_NONCE, aad=_INFO + vault.digest + parts.head)
    except IntegrityError as error:
        raise AccessDenied(
            "the slot does not open",
            hint="another key, another vault, or the slot or the vault file was altered",
        ) from error
    vault_key = bytes(room)
    check_slot(slot, vault, vault_key=vault_key)
    return vault_key


def _check(vault_key: bytes, vault: VaultFile, slot: bytes) -> bytes:
    key = derive(vault_key, salt=vault.vault_id, info=_CHECK_INFO)
    return blake3(slot, key=key).digest(length=_CHECK_BYTES)


@dataclass(frozen=True, slots=True)
class DomainKeys:
    """What follows from the secret of a domain in one vault."""

    domain: Domain
    vault_id: bytes
    secret: bytes = field(repr=False)
    seed: int = field(init=False, repr=False)
    """Of the gear table that cuts: 63 bits, as ``pyfastcdc`` takes no more."""

    _names: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = derive(self.secret, salt=self.vault_id, info=b"entrepot/1 chunk id")
        seed = derive(self.secret, salt=self.vault_id, info=b"entrepot/1 chunk seed")
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "seed", int.from_bytes(seed[:8], "big") >> 1)

    def chunk_id(self, chunk: bytes | bytearray | memoryview) -> bytes:
        """The id of a chunk: 32 bytes."""
        return blake3(chunk, key=self._names).digest()

    def pack_key(self, salt: bytes) -> bytes:
        """The key of a pack."""
        return derive(self.secret, salt=self.vault_id + salt, info=b"entrepot/1 pack")
