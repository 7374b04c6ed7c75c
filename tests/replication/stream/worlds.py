"""Sites with managed buckets and a stream between them, on real servers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.objects.ground import Ground, Limits
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping, Travels
from entrepot.replication.stream.channel import Options
from entrepot.replication.stream.conflicts import ConflictBook
from entrepot.replication.stream.engine import Route, Stream, subscribe_site
from entrepot.replication.stream.pace import Pace
from entrepot.store.protocol import Store
from entrepot.store.retry import RetryPolicy
from tests.objects.worlds import ALL, SLOW, key_ring

QUICK = Options(retry=RetryPolicy(max_retries=2, initial_backoff_ms=10, max_backoff_ms=50))


@dataclass(frozen=True)
class Place:
    """What a site stands on."""

    name: str
    dsn: str
    store: Store


@asynccontextmanager
async def site_of(
    place: Place, keys: Path, *, limits: Limits = SLOW, clock: Clock = SYSTEM_CLOCK
) -> AsyncGenerator[Objects, None]:
    """The service of one site; several may stand on the same servers."""
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(Catalog.open(place.dsn, pool_size=8))
        ring = key_ring(keys)
        stack.push_async_callback(ring.close)
        ground = Ground(place.name, place.store, catalog, ring, ALL, limits=limits, clock=clock)
        yield await stack.enter_async_context(Objects.open(ground, min_size_bytes=1000))


@dataclass
class World:
    """Sites by name, a control catalog, and streams over them."""

    sites: Mapping[str, Objects]
    control: Catalog
    dsn: str
    """Of the control catalog."""
    travels: Travels = field(default_factory=lambda: Travels(removals=True))

    def __getitem__(self, site: str) -> Objects:
        return self.sites[site]

    async def open_site(self, name: str) -> Objects:
        return self.sites[name]

    async def bucket(self, name: str, **kind: Any) -> str:
        """Make a bucket at every site."""
        for each in self.sites.values():
            await each.create_bucket(name, tenant_id="acme", **kind)
        return name

    def stream(
        self,
        route: Route,
        *,
        open_site: Callable[[str], Any] | None = None,
        options: Options = QUICK,
        pace: Pace | None = None,
        **how: Any,
    ) -> Stream:
        opening = open_site or self.open_site

        def carrier(source: str, target: str, job_id: UUID) -> Shipping:
            return Shipping(
                opening,
                source=source,
                target=target,
                rule=route.rule,
                travels=self.travels,
                met=ConflictBook(stream.control, rule=route.rule, job_id=job_id).met,
                purse=pace,
            )

        async def catalog(site: str) -> Catalog:
            found: Catalog = (await opening(site)).ground.catalog
            return found

        how = {"window_s": 0.2} | ({"resting": pace.is_resting} if pace else {}) | how
        stream = Stream(route, self.control, catalog, carrier, options=options, **how)
        return stream

    async def backlog(self) -> int:
        """Events that wait anywhere."""
        return sum([await counted(each.ground.catalog, "outbox") for each in self.sites.values()])


def route_over(bucket: str, sites: Sequence[str], *, prefix: str = "") -> Route:
    return Route(bucket, (bucket,), prefix, tuple(sites), tuple(sites))


async def counted(catalog: Catalog, table: str) -> int:
    async with catalog.begin() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


async def history(objects: Objects, bucket: str) -> list[tuple[Any, ...]]:
    """All that must be equal at every site, with the bytes as readers get them."""
    found = []
    after, after_version = "", ""
    while rows := await objects.versions(bucket, after=after, after_version=after_version):
        after, after_version = rows[-1].key, rows[-1].version_id
        found += [await _told(objects, bucket, row) for row in rows]
    return found


async def _told(objects: Objects, bucket: str, row: ObjectRow) -> tuple[Any, ...]:
    body: bytes | None = None
    if not row.is_delete_marker:
        async with objects.get(bucket, row.key, version_id=row.version_id) as opened:
            body = await opened.read()
    kept = dict(row.attributes)
    facts = row.write_id, row.parent, row.size_bytes, row.stored_bytes, row.etag, row.seal
    return row.key, row.version_id, row.stamp, body, kept, *facts


@asynccontextmanager
async def running(stream: Stream) -> AsyncGenerator[Stream, None]:
    """The stream at work, subscribed."""
    for site in stream.route.sites:
        await subscribe_site(await stream.open_catalog(site), stream.route, site)
    async with asyncio.TaskGroup() as tasks:  # an error of the stream's ends the test
        task = tasks.create_task(stream.run(holder="test"))
        yield stream
        task.cancel()


async def until(holds: Callable[[], Awaitable[bool]], *, timeout_s: float = 20.0) -> None:
    """Wait for something that another task or process does."""
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110 - it is another's commit
            await asyncio.sleep(0.02)


async def drained(world: World, *, timeout_s: float = 20.0) -> None:
    """Wait until nothing waits anywhere."""

    async def nothing_waits() -> bool:
        return await world.backlog() == 0

    await until(nothing_waits, timeout_s=timeout_s)


async def assert_equal(world: World, bucket: str, *, count: int) -> None:
    """Every site tells the same history, and its books hold."""
    told = [await history(each, bucket) for each in world.sites.values()]
    for each in told[1:]:
        assert each == told[0]
    assert len(told[0]) == count
    for each in world.sites.values():
        assert await each.usage(bucket) == await each.usage(bucket, recount=True)
        of_bucket = f"WHERE bucket_id = {(await each.ground.bucket(bucket)).id}"
        assert await counted(each.ground.catalog, f"intents {of_bucket}") == 0
        # Uploads that a killed writer was about to begin are looked for until its lease has ended.
        owed = f"effects {of_bucket} AND kind <> 'abort'"
        assert await counted(each.ground.catalog, owed) == 0
