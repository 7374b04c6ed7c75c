"""A vault that is open: its records, its index, its keys.

Invariant: what an index names was stored before it, and what a snapshot names is in an index
before it; so whoever reads in the order snapshot, index, pack finds all of it, whatever crashed.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from entrepot.clock import SYSTEM_CLOCK, Clock, new_bytes
from entrepot.codec.keys.ring import KeyRing
from entrepot.codec.primitives import KEY_BYTES, Random
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    LimitExceeded,
    NotFound,
    PermanentError,
    SetupError,
)
from entrepot.vault import index, keys, records
from entrepot.vault.index import Index, PackInfo
from entrepot.vault.keys import OWN, Cutting, Domain, DomainKeys, RingSlot, VaultFile
from entrepot.vault.place import VAULT_FILE, VaultPlace
from entrepot.vault.records import Kind
from entrepot.vault.snapshots import Snapshot

RING_NAME: Final = "entrepot-vault"
"""Of the ring's key that new vaults are sealed with."""

RING_SLOT: Final = "ring"
READERS: Final = 8
"""Index records that are fetched at a time."""

LOOKS: Final = 3
"""Listings of indexes, where a prune replaces some while they are read."""

SLOT_MAX_BYTES: Final = 1 << 17


def pack_name(pack_id: bytes) -> str:
    """Where a pack lies in its vault."""
    name = pack_id.hex()
    return f"packs/{name[:2]}/{name}"


def ring_slot(file: VaultFile) -> str:
    """Where the first slot of a vault lies: named for the vault, as others may be begun there."""
    return f"slots/{RING_SLOT}-{file.vault_id.hex()[:16]}"


def is_ring_slot(name: str) -> bool:
    """Whether that is where the first slot of some vault lies."""
    return re.fullmatch(f"slots/{RING_SLOT}-[0-9a-f]{{16}}", name) is not None


@dataclass(slots=True)
class Vault:
    """One vault, of which ``key`` is known.

    ``ring`` has the keys of domains; without one only the vault's own domain can be used.
    """

    place: VaultPlace
    file: VaultFile
    key: bytes = field(repr=False)
    ring: KeyRing | None = None
    clock: Clock = SYSTEM_CLOCK
    random: Random = field(default=new_bytes, repr=False)
    _domains: dict[Domain, DomainKeys] = field(default_factory=dict, repr=False)

    @classmethod
    async def create(
        cls,
        place: VaultPlace,
        ring: KeyRing,
        *,
        cutting: Cutting | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random = new_bytes,
    ) -> "Vault":
        """Make a vault where there is none; ``AlreadyExists``.

        The slot is there first: a vault file without one could never be opened.
        """
        if await place.has(VAULT_FILE):
            raise AlreadyExists("there is a vault already", bucket=place.bucket)
        now_ms = int(clock.now().timestamp() * 1000)
        file = keys.new_vault_file(created_ms=now_ms, cutting=cutting, random=random)
        vault_key = random(KEY_BYTES)
        sealer = await ring.current(RING_NAME)
        slot = keys.seal_for_ring(
            vault_key,
            file,
            RingSlot(RING_NAME, sealer.number),
            ring_key=sealer.secret,
            random=random,
        )
        await place.put(ring_slot(file), slot)
        await place.put(VAULT_FILE, file.dump())
        return cls(place, file, vault_key, ring, clock, random)

    @classmethod
    async def open(
        cls, place: VaultPlace, ring: KeyRing, *, clock: Clock = SYSTEM_CLOCK
    ) -> "Vault":
        """A vault by the ring; ``NotFound`` where there is none, ``AccessDenied`` without a key."""
        file = await read_file(place)
        tried: list[str] = []
        async for found in place.list("slots"):
            try:
                slot = await read_slot(place, found.name)
                holder = keys.slot_holder(slot)
                if isinstance(holder, RingSlot):
                    held = await ring.get(holder.name, holder.number)
                    vault_key = keys.open_with_ring(slot, file, ring_key=held.secret)
                    return cls(place, file, vault_key, ring, clock)
            except PermanentError as error:
                tried.append(f"{found.name}: {error.message}")
        raise AccessDenied(
            "no slot of the vault opens with this ring",
            hint="; ".join(tried) or "the vault has no slot for a ring; open it as a recipient",
            bucket=place.bucket,
        )

    @classmethod
    async def open_as_recipient(
        cls, place: VaultPlace, private: bytes, *, ring: KeyRing | None = None
    ) -> "Vault":
        """A vault by an X25519 private key of 32 bytes; ``AccessDenied`` without a slot for it."""
        file = await read_file(place)
        tried: list[str] = []
        async for found in place.list("slots"):
            try:
                slot = await read_slot(place, found.name)
                if isinstance(keys.slot_holder(slot), keys.RecipientSlot):
                    vault_key = keys.open_as_recipient(slot, file, private=private)
                    return cls(place, file, vault_key, ring)
            except (AccessDenied, IntegrityError, LimitExceeded, NotFound) as error:
                tried.append(f"{found.name}: {error.message}")
        raise AccessDenied(
            "no slot of the vault opens for this recipient",
            hint="; ".join(tried),
            bucket=place.bucket,
        )

    async def add_recipient(self, name: str, public: bytes) -> None:
        """Let the holder of the private key to ``public`` open the vault; ``AlreadyExists``."""
        keys.check_slot_name(name)
        slot = keys.seal_for_recipient(self.key, self.file, public=public, random=self.random)
        await self.place.put(f"slots/{name}", slot)

    async def keys_of(self, domain: Domain) -> DomainKeys:
        """The keys of a domain; ``AccessDenied`` without a ring, or what the ring raises."""
        if known := self._domains.get(domain):
            return known
        if domain == OWN:
            secret = self.key
        elif self.ring is None:
            raise AccessDenied(
                "the chunks belong to a key of the ring",
                hint="give the key ring, or recover it from its kit: entrepot keys recover",
                key=domain.name,
                number=domain.number,
            )
        else:
            secret = (await self.ring.get(domain.name, domain.number)).secret
        found = DomainKeys(domain, self.file.vault_id, secret)
        self._domains[domain] = found
        return found

    async def domain_of(self, tenant: str) -> Domain:
        """The domain that a tenant's new chunks belong to; the vault's own for "" ."""
        if not tenant:
            return OWN
        if self.ring is None:
            raise AccessDenied("new chunks of a tenant need the key ring", tenant=tenant)
        return Domain(tenant, (await self.ring.current(tenant)).number)

    async def write(self, kind: Kind, content: bytes) -> str:
        """Store a record under a new name, and have it read back; its name."""
        name = records.new_name(self.clock.now(), random=self.random)
        await self.write_as(kind, name, content)
        if await self.read(kind, name) != content:
            raise IntegrityError("the store gives back other bytes than were written", name=name)
        return name

    async def write_as(self, kind: Kind, name: str, content: bytes) -> None:
        """Store a record under a name that follows from what it is; ``AlreadyExists``."""
        sealed = await asyncio.to_thread(
            records.seal,
            content,
            vault_key=self.key,
            vault_digest=self.file.digest,
            kind=kind,
            name=name,
            random=self.random,
        )
        await self.place.put(f"{kind.folder}/{name}", sealed)

    async def read(self, kind: Kind, name: str) -> bytes:
        """The content of a record; ``NotFound``, ``IntegrityError``."""
        records.check_name(name, kind)
        sealed = await self.place.read(f"{kind.folder}/{name}")
        return await asyncio.to_thread(
            records.unseal,
            sealed,
            vault_key=self.key,
            vault_digest=self.file.digest,
            kind=kind,
            name=name,
        )

    async def names(self, kind: Kind) -> list[str]:
        """Names of the records of a kind, oldest first; what else lies there is passed over."""
        start = len(kind.folder) + 1
        found = [found.name[start:] async for found in self.place.list(kind.folder)]
        return [name for name in found if records.is_name(name)]

    async def snapshot(self, name: str) -> Snapshot:
        """One snapshot."""
        return Snapshot.parse(await self.read(Kind.SNAPSHOT, name))

    async def packs(self, names: Sequence[str] | None = None) -> list[PackInfo]:
        """The packs that index records name, all of them by default."""
        if names is not None:
            return await self._packs(names)
        for _ in range(LOOKS - 1):
            try:
                return await self._packs(await self.names(Kind.INDEX))
            except NotFound:  # a prune has written another one since, with all that it named
                continue
        return await self._packs(await self.names(Kind.INDEX))

    async def _packs(self, names: Sequence[str]) -> list[PackInfo]:
        found: list[PackInfo] = []
        for at in range(0, len(names), READERS):
            some = names[at : at + READERS]
            contents = await asyncio.gather(*(self.read(Kind.INDEX, name) for name in some))
            for content in contents:
                found += index.parse(content)
        return found

    async def index(self) -> Index:
        """All chunks of packs that the store lists in their length and no prune is to remove.

        So a chunk whose pack was lost is found where it was stored again, or not at all.
        """
        doomed, packs, listed = await self.doomed(), await self.packs(), await self.listed()
        lost = {pack.id for pack in packs if listed.get(pack_name(pack.id)) != pack.size_bytes}
        return await asyncio.to_thread(Index, packs, without=lost | doomed.keys())

    async def listed(self) -> dict[str, int]:
        """The packs that the store lists: lengths by name."""
        return {found.name: found.size_bytes async for found in self.place.list("packs")}

    async def write_index(self, packs: Iterable[PackInfo]) -> str:
        """Store an index of packs that are stored already."""
        return await self.write(Kind.INDEX, index.dump(packs))

    async def doomed(self) -> dict[bytes, datetime]:
        """Packs that a prune is about to remove, and since when."""
        found: dict[bytes, datetime] = {}
        for name in await self.names(Kind.DOOM):
            try:
                content = await self.read(Kind.DOOM, name)
            except NotFound:  # that prune has ended meanwhile
                continue
            for pack in doomed_packs(content):
                found.setdefault(pack, records.time_of(name))
        return found


def doomed_packs(content: bytes) -> list[bytes]:
    """The packs that a doom names; ``IntegrityError`` where it is none."""
    try:
        return [bytes.fromhex(pack) for pack in json.loads(content)["packs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("a doom is malformed") from error


async def read_file(place: VaultPlace) -> VaultFile:
    """What the file ``vault`` says; ``SetupError`` where there is none."""
    try:
        data = await place.read(VAULT_FILE, limit_bytes=SLOT_MAX_BYTES)
    except NotFound as error:
        raise SetupError(
            "there is no vault",
            hint="make one: entrepot vault create",
            bucket=place.bucket,
            prefix=place.prefix,
        ) from error
    return VaultFile.parse(data)


async def read_slot(place: VaultPlace, name: str) -> bytes:
    """A slot; ``name`` as the place lists it."""
    return await place.read(name, limit_bytes=SLOT_MAX_BYTES)
