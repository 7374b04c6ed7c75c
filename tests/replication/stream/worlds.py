"""Sites with managed buckets and a stream between them, on real servers."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.rules import Rule
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.objects.ground import Ground, Limits
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping, Travels
from entrepot.replication.stream.channel import Options
from entrepot.replication.stream.engine import Stream
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
        rule: Rule,
        *,
        open_site: Callable[[str], Any] | None = None,
        options: Options = QUICK,
        **how: Any,
    ) -> Stream:
        opening = open_site or self.open_site

        def carrier(source: str, target: str) -> Shipping:
            return Shipping(
                opening, source=source, target=target, rule=rule.name, travels=self.travels
            )

        async def catalog(site: str) -> Catalog:
            found: Catalog = (await opening(site)).ground.catalog
            return found

        how = {"window_s": 0.2} | how
        return Stream(rule, self.control, catalog, carrier, options=options, **how)

    async def backlog(self) -> int:
        """Events that wait anywhere."""
        return sum([await counted(each.ground.catalog, "outbox") for each in self.sites.values()])


def rule_over(bucket: str, sites: Sequence[str], *, prefix: str = "") -> Rule:
    now = datetime.now(UTC)
    return Rule(bucket, (bucket,), prefix, tuple(sites), True, now, now)


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
