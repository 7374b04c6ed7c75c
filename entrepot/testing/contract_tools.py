"""What the parts of the store contract share: a bucket for each test, and short reads."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from entrepot.clock import new_id
from entrepot.errors import NotFound
from entrepot.store.protocol import ObjectStore, Origin, Store, Version

THEN_MS = 1_700_000_000_123
"""A time before any test, in whole milliseconds."""


class ContractPart:
    """A part of the contract; the subclass that runs gives the fixture ``store``."""

    @pytest.fixture
    async def bucket(self, store: Store) -> str:
        """A new versioned bucket."""
        return await new_bucket(store)


async def new_bucket(store: Store, *, versioned: bool = True, locked: bool = False) -> str:
    """Make a bucket that nobody else uses."""
    name = f"contract-{new_id().hex}"
    await store.create(name, versioned=versioned, locked=locked)
    return name


def origin(*, mtime_ms: int = THEN_MS) -> Origin:
    """A new version id at that time."""
    return Origin(version_id=str(new_id()), mtime_ms=mtime_ms)


async def read(store: ObjectStore, bucket: str, key: str, **how: Any) -> bytes:
    """The whole answer to a get."""
    async with store.get(bucket, key, **how) as body:
        return await body.read()


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A streamed body."""
    for part in parts:
        yield part


async def current(store: ObjectStore, bucket: str, **how: Any) -> list[Version]:
    """Every entry of a listing of current objects."""
    return [version async for page in store.list(bucket, **how) for version in page.versions]


async def history(store: ObjectStore, bucket: str, **how: Any) -> list[Version]:
    """Every entry of a listing of versions."""
    return [version async for page in store.versions(bucket, **how) for version in page.versions]


async def is_visible(store: ObjectStore, bucket: str, key: str) -> bool:
    """Whether anything of the key can be seen: by HEAD or in a listing of versions."""
    try:
        await store.head(bucket, key)
    except NotFound:
        return any(version.key == key for version in await history(store, bucket, prefix=key))
    return True
