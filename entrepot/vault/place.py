"""Where a vault lies: the few things it asks of a store.

Invariant: nothing is written over. What has a name of its own (a record, a slot) is put on the
condition that there is none; what is named by its content (a pack) may be there already, and is
then the same.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import md5

from entrepot.crc import crc32c
from entrepot.errors import AlreadyExists, IntegrityError, NotFound, PreconditionFailed
from entrepot.store.protocol import Capability, ObjectStore

VAULT_FILE = "vault"


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
        """Write an object that there is not yet; ``AlreadyExists``."""
        try:
            await self._put(name, data, if_none_match=True)
        except PreconditionFailed as error:
            raise AlreadyExists("the vault has that already", name=name) from error

    async def put_same(self, name: str, data: bytes) -> None:
        """Write an object whose name follows from its bytes; it may be there."""
        conditional = Capability.CONDITIONAL_WRITE in self.capabilities
        try:
            await self._put(name, data, if_none_match=conditional)
        except PreconditionFailed:
            found = await self.store.head(self.bucket, self.prefix + name)
            if found.size_bytes != len(data):  # of that name, and not it: damaged since
                raise IntegrityError(
                    "the vault has other bytes under that name",
                    hint="entrepot backup verify, then repair",
                    name=name,
                ) from None

    async def _put(self, name: str, data: bytes, *, if_none_match: bool) -> None:
        key = self.prefix + name
        if Capability.TRAILER in self.capabilities and len(data) > 1 << 20:
            await self.store.put(
                self.bucket,
                key,
                _pieces(data),
                size_bytes=len(data),
                crc32c=lambda: crc32c(data, 0),
                if_none_match=if_none_match,
            )
            return
        digest = md5(data, usedforsecurity=False).digest()
        await self.store.put(self.bucket, key, data, md5=digest, if_none_match=if_none_match)

    async def read(self, name: str) -> bytes:
        """All of an object; ``NotFound``."""
        return await self.read_range(name, 0, None)

    async def read_range(self, name: str, start: int, stop: int | None) -> bytes:
        """Bytes ``start`` to before ``stop``; ``IntegrityError`` where there are fewer."""
        async with self.store.get(self.bucket, self.prefix + name, start=start, stop=stop) as body:
            data = await body.read()
        if stop is not None and len(data) != stop - start:
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


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), 1 << 20):
        yield bytes(view[start : start + (1 << 20)])
