"""What happens to the objects between two sweeps, and what must be there afterwards.

The expectation is kept as a plain dict by whoever makes the change, so that the check at the end
knows the truth without asking the product.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from entrepot.cli.demo.files import Item, Shelf, sha256
from entrepot.embedded.stack import SiteEndpoint
from entrepot.store.protocol import Attributes
from entrepot.store.s3 import S3Store

WORKERS = 16


@dataclass(frozen=True, slots=True)
class Expected:
    """What a reader must get for a key, at every site."""

    sha256: str
    content_type: str
    metadata: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Truth:
    """Bucket → key → what must be there; a key that is absent must be absent."""

    buckets: dict[str, dict[str, Expected]] = field(default_factory=dict)

    def count(self) -> int:
        """Objects in all buckets."""
        return sum(len(keys) for keys in self.buckets.values())


@asynccontextmanager
async def connect(site: SiteEndpoint) -> AsyncIterator[S3Store]:
    """A store over one site of the demo's stack."""
    store = S3Store(
        endpoint=site.endpoint,
        access_key=site.access_key,
        secret_key=site.secret_key,
        region=site.region,
        max_connections=WORKERS,
    )
    try:
        yield store
    finally:
        await store.close()


async def load(
    store: S3Store,
    shelf: Shelf,
    items: Iterable[Item],
    truth: Truth,
    *,
    where: str,
    edit: bytes = b"",
    step: Callable[[], None],
) -> None:
    """Put files, each with its own metadata; ``edit`` is appended to make another version."""
    expected = truth.buckets.setdefault(shelf.bucket, {})

    async def put(item: Item) -> None:
        content = await asyncio.to_thread(item.read) + edit
        metadata = {"loaded-at": where, "size-on-disk": str(item.size_bytes)}
        await store.put(
            shelf.bucket,
            item.key,
            content,
            attributes=Attributes(content_type=item.content_type, metadata=metadata),
        )
        expected[item.key] = Expected(
            sha256=sha256(content),
            content_type=item.content_type,
            metadata=tuple(sorted(metadata.items())),
        )
        step()

    await _each(items, put)


async def remove(
    store: S3Store, shelf: Shelf, items: Iterable[Item], truth: Truth, *, step: Callable[[], None]
) -> None:
    """Delete keys as a user would: a delete marker, the bytes stay as a noncurrent version."""

    async def delete(item: Item) -> None:
        await store.delete(shelf.bucket, item.key)
        truth.buckets[shelf.bucket].pop(item.key, None)
        step()

    await _each(items, delete)


async def _each(items: Iterable[Item], work: Callable[[Item], object]) -> None:
    waiting: Iterator[Item] = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)  # type: ignore[misc] # a coroutine function

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker())
