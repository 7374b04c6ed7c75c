"""The key ring: numbered tenant keys, unwrapped on use and held for a while.

What an outage of the root does (``docs/keys.md`` says it to operators): a key is used for up to
``ttl_s`` after its last unwrap without the root. Reads and writes with such keys go on; a failed
refresh is counted and not raised. After that, and for keys not in use, ``Unavailable`` says which
root, and since when. Processes that share a directory see each other's rotations and shreds
within ``ttl_s``. See ``held`` for the clockwork and ``directory`` for what the disk guarantees.

Words: *current* the key that new objects get, the highest number; *rotate* add a number; *rewrap*
the same keys under another root; *shred* make a key gone for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from entrepot.clock import SYSTEM_CLOCK, Clock, new_bytes
from entrepot.codec.keys import record
from entrepot.codec.keys.directory import RingDirectory
from entrepot.codec.keys.held import Held
from entrepot.codec.keys.record import NUMBER_MAX, TenantKey, check_name, shredded
from entrepot.codec.keys.root import Root
from entrepot.codec.primitives import KEY_BYTES
from entrepot.errors import (
    AccessDenied,
    Busy,
    IntegrityError,
    LimitExceeded,
    NotFound,
    Unavailable,
)

__all__ = ["Health", "KeyInfo", "KeyRing", "KeyState", "TenantKey"]

KEYS_MAX: Final = 10_000
"""Keys held in memory: some 5 MB, and as many tenants as one gateway serves within a TTL."""

_TRIES: Final = 100
"""Numbers that others may take first before a rotation gives up."""

T = TypeVar("T")


class KeyState(Enum):
    """Whether a key can be used."""

    ACTIVE = "active"
    SHREDDED = "shredded"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key; ``None`` where its file no longer tells."""

    tenant: str
    number: int
    state: KeyState
    created: datetime | None
    root: str | None
    shredded: datetime | None


@dataclass(frozen=True, slots=True)
class Health:
    """How the root does, as this process sees it.

    ``calls`` counts wraps and unwraps, ``failed_refreshes`` those of them that nobody saw fail,
    because the key was still good.
    """

    root: str
    calls: int
    failed_refreshes: int
    failing_since: datetime | None


class KeyRing:
    """The keys of ``directory``, wrapped by ``root``; used by one event loop.

    With ``create`` a ring is made where the directory is missing or empty; otherwise that is a
    ``SetupError``, as a service wants it whose volume is not mounted. Other errors that any verb
    may raise: ``InvalidInput`` for a tenant that cannot name keys, ``AccessDenied`` for files open
    to others, ``Unsupported`` for a newer format, ``IntegrityError`` for damage, ``Unavailable``.
    """

    def __init__(
        self,
        directory: Path,
        root: Root,
        *,
        ttl_s: float = 300.0,
        keys_max: int = KEYS_MAX,
        create: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.directory = (
            RingDirectory.create(directory, clock=clock) if create else RingDirectory(directory)
        )
        self._root = root
        self._ttl_s = ttl_s
        self._clock = clock
        self._keys: Held[tuple[str, int], TenantKey | None] = Held(
            ttl_s=ttl_s, size_max=keys_max, clock=clock
        )
        self._newest: Held[str, int] = Held(ttl_s=ttl_s, size_max=keys_max, clock=clock)
        self._calls = 0
        self._failing_since: datetime | None = None

    @property
    def health(self) -> Health:
        failures = self._keys.failures + self._newest.failures
        return Health(self._root.name, self._calls, failures, self._failing_since)

    async def close(self) -> None:
        """Close the root."""
        await self._root.close()

    async def current(self, tenant: str) -> TenantKey:
        """The tenant's key of the highest number.

        Makes number 1 where the tenant has none, and the next where the highest is shredded.
        ``PermanentError`` where the tenant is shredded.
        """
        check_name(tenant)
        for _ in range(_TRIES):
            number = await self._newest.get(tenant, lambda: self._find_newest(tenant))
            key = await self._held(tenant, number)
            if key is not None:
                return key
            self._newest.drop(tenant)  # shredded since
        raise _busy(tenant)

    async def get(self, tenant: str, number: int) -> TenantKey:
        """One key. ``NotFound`` where its file is missing, ``PermanentError`` if shredded."""
        check_name(tenant, number)
        key = await self._held(tenant, number)
        if key is None:
            raise shredded(tenant, number)
        return key

    async def rotate(self, tenant: str) -> TenantKey:
        """A new key with the next number, current from now on; older ones stay for reading.

        Two at once, also of two processes, end with two numbers.
        """
        check_name(tenant)
        for _ in range(_TRIES):
            since_s = self._clock.monotonic()
            number = max(await self._all_numbers(tenant), default=0) + 1
            key = await self._create(tenant, number)
            if key is not None:
                self._newest.put(tenant, number, since_s=since_s)
                return key
        raise _busy(tenant)

    async def rewrap(self, new_root: Root) -> int:
        """Wrap every key by ``new_root`` instead, and use that from then; how many were not yet.

        A key is done when the new root opens it, so a run that was killed is simply run again, and
        another root of the same name is noticed. Keys that come meanwhile are rewrapped too.
        Objects and data keys are not touched. The old root stays the caller's to close.
        """
        moved, done = 0, set[tuple[str, int]]()
        while todo := await asyncio.to_thread(self._records) - done:
            for tenant, number in sorted(todo):
                moved += await self._rewrap(new_root, tenant, number)
            done |= todo
        await asyncio.to_thread(self.directory.sweep, now=self._clock.now())
        self._root = new_root
        return moved

    async def shred(self, tenant: str, *, number: int | None = None) -> tuple[int, ...]:
        """Make a key gone for ever, or with ``None`` all of the tenant, now and later; numbers.

        The tombstone is on disk first, so a shred that is killed is in force and finished by the
        next one. ``NotFound`` for what the ring never had: recover that first.
        """
        check_name(tenant, 1 if number is None else number)
        known = await asyncio.to_thread(lambda: set().union(*self.directory.numbers(tenant)))
        if not known or number not in {None, *known}:
            raise NotFound(
                "ring has no such key to shred",
                hint="entrepot keys list; what only a kit has is recovered first",
                tenant=tenant,
                number=number,
            )
        now = self._clock.now()
        await asyncio.to_thread(self.directory.shred, tenant, number, now=now)
        self._newest.drop(tenant)
        for name in self._keys.names():
            if name[0] == tenant and number in (None, name[1]):
                self._keys.drop(name)
        return tuple(sorted(known)) if number is None else (number,)

    def tenants(self) -> list[str]:
        """Ids of the tenants that have or had a key, sorted. Blocks for a disk access."""
        return self.directory.tenants()

    def describe(self, tenant: str) -> list[KeyInfo]:
        """What may be shown of each key of the tenant, by number. Blocks for disk accesses."""
        return [
            self._info(tenant, number)
            for number in sorted(set().union(*self.directory.numbers(tenant)))
        ]

    def _info(self, tenant: str, number: int) -> KeyInfo:
        try:
            found = self.directory.read(tenant, number)
        except IntegrityError:
            return KeyInfo(tenant, number, KeyState.DAMAGED, None, None, None)
        if found is None:
            when = self.directory.shredded_at(tenant, number)
            return KeyInfo(tenant, number, KeyState.SHREDDED, None, None, when)
        return KeyInfo(tenant, number, KeyState.ACTIVE, found.created, found.root, None)

    async def _held(self, tenant: str, number: int) -> TenantKey | None:
        return await self._keys.get((tenant, number), lambda: self._load(tenant, number))

    async def _load(self, tenant: str, number: int) -> TenantKey | None:
        """The key from its file and the root; ``None`` where it is shredded."""
        found = await asyncio.to_thread(self.directory.read, tenant, number)
        if found is None:
            return None
        root = self._root
        if found.root != root.name:
            raise AccessDenied(
                f"key is wrapped by {found.root}, and this process has {root.name}",
                hint="point the settings at the first, or go on with: entrepot keys rewrap",
                tenant=tenant,
                number=number,
            )
        return await self._ask(root, partial(record.unwrap, root, found))

    async def _find_newest(self, tenant: str) -> int:
        """The number of the current key, which is made if need be, and is held afterwards."""
        for _ in range(_TRIES):
            highest = max(await self._all_numbers(tenant), default=0)
            # It is unwrapped here, so that where the root is down, the one before stays in use.
            if highest and await self._held(tenant, highest) is not None:
                await asyncio.to_thread(self.directory.settle, tenant)
                return highest
            if await self._create(tenant, highest + 1) is not None:
                return highest + 1
        raise _busy(tenant)

    async def _all_numbers(self, tenant: str) -> set[int]:
        if await asyncio.to_thread(self.directory.is_shredded, tenant):
            raise shredded(tenant, None)
        keys, tombstones = await asyncio.to_thread(self.directory.numbers, tenant)
        return keys | tombstones

    async def _create(self, tenant: str, number: int) -> TenantKey | None:
        """A new key under this number; ``None`` where the number is taken."""
        if number > NUMBER_MAX:
            raise LimitExceeded("tenant has no key numbers left", tenant=tenant)
        since_s, root = self._clock.monotonic(), self._root
        key = TenantKey(tenant, number, new_bytes(KEY_BYTES))
        created = self._clock.now()
        new = await self._ask(root, partial(record.wrap, root, key, created=created))
        if not await asyncio.to_thread(self.directory.add, new):
            return None
        self._keys.put((tenant, number), key, since_s=since_s)
        return key

    def _records(self) -> set[tuple[str, int]]:
        return {
            (tenant, number)
            for tenant in self.directory.tenants()
            for number in self.directory.numbers(tenant)[0]
        }

    async def _rewrap(self, new_root: Root, tenant: str, number: int) -> bool:
        found = await asyncio.to_thread(self.directory.read, tenant, number)
        if found is None:
            return False
        if found.root == new_root.name:
            try:
                await self._ask(new_root, partial(record.unwrap, new_root, found))
            except (IntegrityError, AccessDenied):
                pass  # another root of the same name wrapped it
            else:
                return False
        old, created = self._root, found.created
        key = await self._ask(old, partial(record.unwrap, old, found))
        new = await self._ask(new_root, partial(record.wrap, new_root, key, created=created))
        await asyncio.to_thread(self.directory.replace, new)
        return True

    async def _ask(self, root: Root, call: Callable[[], Awaitable[T]]) -> T:
        """Call the root, and keep account of how it does."""
        self._calls += 1
        try:
            answer = await call()
        except Unavailable as error:
            self._failing_since = self._failing_since or self._clock.now()
            since = self._failing_since.isoformat(timespec="seconds")
            raise Unavailable(
                f"root key is out of reach since {since}: {error.message}",
                hint=error.hint or f"bring {root.name} back; keys in use last {self._ttl_s:.0f} s",
                root=root.name,
            ) from error
        self._failing_since = None
        return answer


def _busy(tenant: str) -> Busy:
    return Busy("others change this tenant's keys all the time", hint="try again", tenant=tenant)
