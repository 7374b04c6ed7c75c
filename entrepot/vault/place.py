"""Where a vault lies: the few things it asks of a store.

Invariant: nothing is written over. What has a name of its own (a record, a slot) is put on the
condition that there is none; what is named by its content (a pack) may be there already, and is
then the same.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import md5
from typing import Final

from entrepot.crc import crc32c
from entrepot.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    RetryableError,
    Unsupported,
)
from entrepot.store.protocol import Capability, ObjectStore

VAULT_FILE = "vault"
OBJECT_MAX_BYTES: Final = (1 << 30) + (1 << 25)
"""No reader takes a larger object: a pack is closed before, and so is a record."""

TRIES: Final = 3
"""Of a conditional write whose answer is lost. Between two of them the place is looked at, which
the store itself tries again for as long as it thinks right: no wait is needed here."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of a vault; ``name`` is without the vault's prefix."""

    name: str
    size_bytes: int
    mtime_ms: int


@dataclass(frozen=True, slots=True)
class VaultPlace:
    """A prefix of a bucket; ``prefix`` is empty or ends with a slash."""

    store: ObjectStore
    bucket: str
    prefix: str = ""
    capabilities: frozenset[Capability] = field(default=frozenset())

    async def put(self, name: str, data: bytes) -> None:
        """Write an object that there is not yet; ``AlreadyExists``.

        An endpoint without conditional writes is looked at before: two writers of one name, which
        only slots and vault files could have, may then both be told that it is theirs.
        """
        if Capability.CONDITIONAL_WRITE not in self.capabilities and await self.has(name):
            raise AlreadyExists("the vault has that already", name=name)
        if not await self._put_once(name, data):
            raise AlreadyExists("the vault has that already", name=name)

    async def put_same(self, name: str, data: bytes) -> None:
        """Write an object whose name follows from its bytes; it may be there."""
        if Capability.CONDITIONAL_WRITE not in self.capabilities:
            await self._put(name, data, if_none_match=False)
            return
        if await self._put_once(name, data):
            return
        found = await self.store.head(self.bucket, self.prefix + name)
        if found.size_bytes != len(data):  # of that name, and not it: damaged since
            raise IntegrityError(
                "the vault has other bytes under that name",
                hint="take it from another copy of the vault",
                name=name,
            )

    async def _put_once(self, name: str, data: bytes) -> bool:
        """Write on the condition that there is nothing; ``False`` where there is another's."""
        for left in reversed(range(TRIES)):
            try:
                await self._put(name, data, if_none_match=True)
            except Unsupported:
                await self._put(name, data, if_none_match=False)
            except PreconditionFailed:
                if await self.has(name):
                    return left < TRIES - 1 and await self._holds(name, data)
                # Some endpoints take a delete marker for an object (versitygw, tried).
                await self._put(name, data, if_none_match=False)
            except RetryableError:
                if await self._holds(name, data):
                    return True
                if not left:
                    raise
                continue
            return True
        raise AssertionError("the last try returns or raises")

    async def _holds(self, name: str, data: bytes) -> bool:
        """Whether a write whose answer was lost is there."""
        try:
            return await self.read(name) == data
        except NotFound:
            return False

    async def _put(self, name: str, data: bytes, *, if_none_match: bool) -> None:
        key = self.prefix + name
        if Capability.TRAILER in self.capabilities:  # a CRC costs nothing, an MD5 more than AES
            await self.store.put(
                self.bucket,
                key,
                data,
                crc32c=lambda: crc32c(data),
                if_none_match=if_none_match,
            )
            return
        digest = md5(data, usedforsecurity=False).digest()
        await self.store.put(self.bucket, key, data, md5=digest, if_none_match=if_none_match)

    async def read(self, name: str, *, limit_bytes: int = OBJECT_MAX_BYTES) -> bytes:
        """All of an object; ``NotFound``, or ``LimitExceeded`` where it has more than a limit."""
        async with self.store.get(self.bucket, self.prefix + name) as body:
            if body.length > limit_bytes:
                raise LimitExceeded(
                    "an object of the vault is larger than any can be",
                    name=name,
                    size_bytes=body.length,
                )
            return await body.read()

    async def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to before ``stop``; ``IntegrityError`` where there are fewer."""
        try:
            async with self.store.get(
                self.bucket, self.prefix + name, start=start, stop=stop
            ) as body:
                data = await body.read()
        except InvalidInput:  # what is left ends before the range
            data = b""
        if len(data) != stop - start:
            raise IntegrityError("an object of the vault is cut off", name=name)
        return data

    async def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            await self.store.head(self.bucket, self.prefix + name)
        except NotFound:
            return False
        return True

    async def list(self, folder: str) -> AsyncIterator[Stored]:
        """What lies under ``folder/``, by name."""
        start = len(self.prefix)
        async for page in self.store.list(self.bucket, prefix=f"{self.prefix}{folder}/"):
            for found in page.versions:
                yield Stored(found.key[start:], found.size_bytes, found.mtime_ms)

    async def remove(self, name: str) -> None:
        """Remove an object: for ``prune`` and for slots."""
        await self.store.delete(self.bucket, self.prefix + name)
