"""Three sites with streams and sweeps between them, against a model: what may go wrong, does.

Each site is a store in memory, a catalog in Postgres and a gateway; one worker does the streams and
the sweeps of all. What stands between them and the servers may refuse, lose an answer, or end the
process. After quiescence every site holds the same, and nothing that was acknowledged is missing.

Words: *weather* what goes wrong for one process; *notice* what the store of an adopted bucket tells
of a write, which may be lost, come twice, or come in any order.
"""

import asyncio
import random
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects import outbox
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import EntrepotError, NotFound
from entrepot.objects.check import check, take_up
from entrepot.objects.ground import Ground
from entrepot.objects.notices import Notice, take
from entrepot.objects.recover import recover
from entrepot.objects.removal import TAGGED
from entrepot.objects.service import Objects
from entrepot.objects.shipping import Shipping
from entrepot.objects.writes import Wish
from entrepot.replication.agree import agree_on_traits
from entrepot.replication.policy import Policy
from entrepot.replication.sites import Site
from entrepot.replication.stream.channel import Channel, Options
from entrepot.replication.stream.engine import Direction, Route, subscribe_site
from entrepot.replication.sweep import Options as SweepOptions
from entrepot.replication.sweep import Range, sweep
from entrepot.replication.totals import Totals
from entrepot.stamp import Stamp
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Attributes, Version
from entrepot.store.retry import RetryPolicy
from tests.objects.test_kill import expire
from tests.objects.test_traits import Known
from tests.objects.test_traits import Rows as RowsOf
from tests.objects.worlds import ALL, SLOW
from tests.replication.stream.weather import Crash, Skewed, WeakCatalog, WeakStore, Weather
from tests.replication.stream.worlds import counted, route_over, until

NAMES = ("site-a", "site-b", "site-c")
KEYS = ("a", "b/1", "ü")
KINDS: Mapping[str, Mapping[str, bool] | None] = {
    "plain": {},
    "both": {"encrypted": True, "compressed": True},
    "adopted": None,
}
HASTY = Options(
    retry=RetryPolicy(max_retries=1, initial_backoff_ms=1, max_backoff_ms=4), give_up_s=0.02
)
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One thing that happens; ``site`` is who writes, or is cut off."""

    what: str
    site: int
    key: str
    unlucky: bool


@dataclass
class Process:
    """What works on sites, until it dies."""

    weather: Weather
    sites: dict[str, Objects]


@dataclass
class Base:
    """What outlives a sequence: the catalogs by site, and the key ring."""

    catalogs: Mapping[str, WeakCatalog]
    ring: KeyRing


@dataclass
class Model:
    """What was acknowledged: (key, body or None of a marker) by version id; what was tried.

    ``tags`` are the latest acknowledged ones of a version with their stamp, where no change of them
    is uncertain.
    """

    acknowledged: dict[str, tuple[str, bytes | None]] = field(default_factory=dict)
    bodies: set[bytes] = field(default_factory=set)
    tags: dict[str, tuple[Stamp, Mapping[str, str]]] = field(default_factory=dict)
    is_certain: bool = True


@dataclass
class Play:
    """One sequence under way."""

    base: Base
    kind: str
    chance: random.Random
    clocks: dict[str, Skewed]
    stores: dict[str, MemoryStore]
    route: Route
    model: Model = field(default_factory=Model)
    gateways: dict[str, Process] = field(default_factory=dict)
    worker: Process = field(init=False)
    notices: list[tuple[str, Notice]] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    sweeps: int = 0
    is_fair: bool = True
    """No sweep took part yet: the stream alone has to make all sites the same."""

    @property
    def bucket(self) -> str:
        return self.route.rule

    @property
    def is_managed(self) -> bool:
        return KINDS[self.kind] is not None

    # --- Processes ------------------------------------------------------------------------------

    async def process(self, names: Sequence[str]) -> Process:
        """A new process; it starts in fair weather."""
        process = Process(Weather(self.chance), {})
        for name in names:
            catalog = copy(self.base.catalogs[name])
            catalog.site, catalog.weather = name, process.weather
            store = WeakStore(self.stores[name], name, process.weather)
            how = {"limits": SLOW, "clock": self.clocks[name]}
            ground = Ground(name, store, catalog, self.base.ring, ALL, **how)
            await ground.start()
            process.sites[name] = Objects(ground, min_size_bytes=10)
        return process

    async def begin(self) -> None:
        for name in NAMES:
            await clear(self.base.catalogs[name])
            self.gateways[name] = await self.process([name])
            objects = self.gateways[name].sites[name]
            if (how := KINDS[self.kind]) is not None:
                await objects.create_bucket(self.bucket, tenant_id="acme", **how)
            else:
                await self.stores[name].create(self.bucket)
                await objects.adopt_bucket(self.bucket, tenant_id="acme")
            await subscribe_site(objects.ground.catalog, self.route, name)
        self.worker = await self.process(NAMES)

    async def risky(self, process: Process, unlucky: bool, work: Awaitable[T]) -> T | None:
        """Do it in this weather; None where it failed, as it may."""
        process.weather.faults = 0.15 if unlucky else 0.0
        try:
            return await work
        except (Crash, EntrepotError, ExceptionGroup):
            if not unlucky:
                raise
            return None
        finally:
            process.weather.faults = 0.0

    async def mended(self) -> None:
        """Who died is followed by another."""
        if self.worker.weather.is_dead:
            self.worker = await self.process(NAMES)
        for name, gateway in self.gateways.items():
            if gateway.weather.is_dead:
                self.gateways[name] = await self.process([name])

    # --- What happens ---------------------------------------------------------------------------

    async def do(self, step: Step, turn: int) -> None:
        site = NAMES[step.site]
        if step.what in ("put", "delete", "tag"):
            await self.write(step.what, site, step.key, turn, unlucky=step.unlucky)
        elif step.what == "notices":
            await self.tell(unlucky=step.unlucky)
        elif step.what in ("stream", "busy", "cut"):
            self.worker.weather.off = {site} if step.what == "cut" else set()
            writing = self.write_everywhere(step.key, turn) if step.what == "busy" else None
            dead = await self.dead()
            await self.risky(self.worker, step.unlucky, self.stream(writing))
            self.worker.weather.off = set()
            assert step.unlucky or await self.dead() == dead  # a site that is away makes none
        elif step.what == "again":
            await self.redrive()
        elif step.what == "recover":
            await expire(self.base.catalogs[site])
            await recover(self.gateways[site].sites[site].ground, older_s=0)
        else:
            self.is_fair = False
            cut = {site} if step.unlucky and self.chance.random() < 0.5 else set()
            names = [name for name in NAMES if name not in cut]
            await self.risky(self.worker, step.unlucky, self.sweep(names))
        await self.mended()

    async def write_everywhere(self, key: str, turn: int) -> None:
        for place, name in enumerate(NAMES):
            await self.write("put", name, key, 100 * (turn + 1) + place, unlucky=False)

    async def write(self, what: str, site: str, key: str, turn: int, *, unlucky: bool) -> None:
        body = f"body {turn} {'again ' * (turn % 20)}".encode()
        tags = {"turn": str(turn)}
        self.model.bodies.add(body)
        if self.is_managed:
            gateway = self.gateways[site]
            objects = gateway.sites[site]
            if what == "put":
                attributes = Attributes(metadata={"turn": str(turn)}, tags=tags if turn % 2 else {})
                wish = Wish(attributes=attributes)
                work: Awaitable[Any] = objects.put(self.bucket, key, body, wish=wish)
            elif what == "delete":
                work = objects.delete(self.bucket, key)
            else:
                work = objects.tag(self.bucket, key, tags)
            with suppress(NotFound):  # there is nothing to tag
                row = await self.risky(gateway, unlucky, work)
                self.note(what, key, body, row)
        else:
            await self.write_beside(what, site, key, body, tags)

    def note(self, what: str, key: str, body: bytes, row: ObjectRow | None) -> None:
        """What a gateway acknowledged; None where it failed."""
        model = self.model
        if what != "tag":
            if row is not None:
                model.acknowledged[row.version_id] = key, body if what == "put" else None
        elif row is None:
            model.is_certain = False
        else:
            told = Stamp.parse(row.attributes[TAGGED]), row.attributes["tags"]
            known = model.tags.get(row.version_id, told)
            model.tags[row.version_id] = max(known, told, key=lambda one: one[0])

    async def write_beside(
        self, what: str, site: str, key: str, body: bytes, tags: Mapping[str, str]
    ) -> None:
        """A user of an adopted bucket, straight to its store."""
        store = self.stores[site]
        if what == "tag":
            with suppress(NotFound):
                await store.tag(self.bucket, key, tags)
            return
        if what == "put":
            attributes = Attributes(metadata=tags)
            made: Version | None = await store.put(self.bucket, key, body, attributes=attributes)
        else:
            made = await store.delete(self.bucket, key)
        assert made is not None
        self.model.acknowledged[made.version_id] = key, body if what == "put" else None
        self.notices.append((site, Notice(key, made.version_id)))

    async def tell(self, *, unlucky: bool) -> None:
        """Some of the notices, in any order; some come twice, and where it is unlucky never."""
        self.chance.shuffle(self.notices)
        while self.notices and self.chance.random() < 0.9:
            site, notice = self.notices.pop()
            gateway = self.gateways[site]
            if unlucky and self.chance.random() < 0.3:
                self.is_fair = False
                continue
            ground = gateway.sites[site].ground
            taking = take(ground, await ground.bucket(self.bucket), notice)
            if await self.risky(gateway, unlucky, taking) is None or self.chance.random() < 0.3:
                self.notices.insert(0, (site, notice))  # its sender was told nothing
            await self.mended()

    async def stream(self, writing: Awaitable[None] | None = None) -> None:
        """Run all channels until nothing waits that can go."""
        worker, off = self.worker, self.worker.weather.off
        channels = {each: self.channel(each) for each in self.route.directions}
        working = [asyncio.create_task(each.run()) for each in channels.values()]
        goes: dict[str, list[str]] = {}
        for each in channels:
            if not {each.source, each.target} & off:
                goes.setdefault(each.source, []).append(self.consumer(each.target))

        async def ended() -> None:
            if writing is not None:
                await writing
                for channel in channels.values():
                    channel.wake()
            await until(nothing_waits)

        async def nothing_waits() -> bool:
            return not any([await self.depth(source, names) for source, names in goes.items()])

        ending = asyncio.create_task(ended())
        await asyncio.wait([ending, *working], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done() and writing is not None:
            await asyncio.wait([ending], timeout=0.2)
        for task in (ending, *working):
            task.cancel()
        found = await asyncio.gather(ending, *working, return_exceptions=True)
        assert worker is self.worker
        for error in found:
            if isinstance(error, Exception):
                raise error

    def channel(self, way: Direction) -> Channel:
        async def open_site(name: str) -> Objects:
            return self.worker.sites[name]

        carrier = Shipping(open_site, source=way.source, target=way.target, rule=self.route.rule)
        return Channel(self.consumer(way.target), carrier, options=HASTY, guard=lambda: None)

    def consumer(self, target: str) -> str:
        return outbox.consumer_name(self.route.rule, target)

    async def depth(self, source: str, consumers: Sequence[str]) -> int:
        statement = "SELECT count(*) FROM outbox WHERE consumer = ANY(%(names)s)"
        [(count,)] = await self.base.catalogs[source].ask(statement, {"names": list(consumers)})
        return int(count)

    async def dead(self) -> int:
        return sum([await counted(self.base.catalogs[name], "dead_letters") for name in NAMES])

    async def redrive(self) -> int:
        return sum(
            [await outbox.try_again(self.base.catalogs[name], everything=True) for name in NAMES]
        )

    # --- Sweeps ---------------------------------------------------------------------------------

    async def sweep(self, names: Sequence[str] = NAMES) -> int:
        """Versions, then tags; how many keys differed."""
        how: dict[str, Any] = {
            "keys": Range(),
            "options": SweepOptions(
                batch_size=2, workers=3, horizon_ms=self.horizon_ms, policy=Policy()
            ),
            "guard": lambda: None,
            "checkpoint": checkpoint,
        }
        sites = [self.site(name) for name in names]
        totals, findings = await sweep(sites, self.bucket, **how)
        assert (totals.failed and not self.worker.weather.faults, totals.quarantined) == (0, 0), (
            findings.rows
        )
        agreed, _ = await agree_on_traits(sites, self.bucket, bases=self.known, **how)
        return totals.differing + agreed.differing

    def site(self, name: str) -> Site:
        objects = self.worker.sites[name]
        ground = objects.ground

        async def took(bucket: str, key: str, versions: Sequence[Version]) -> None:
            del key
            if self.is_managed:
                await take_up(ground, await ground.bucket(bucket), versions)

        rows = RowsOf(objects, is_managed=self.is_managed)
        return Site(name, NAMES.index(name), ground.store, ALL, took=took, rows=rows)

    def horizon_ms(self) -> int:
        return round(self.clocks[NAMES[0]].now().timestamp() * 1000) + 60_000

    # --- Quiescence -----------------------------------------------------------------------------

    async def settled(self) -> None:
        """Nothing more happens: what everybody has is everywhere, and the same."""
        while self.notices:
            await self.tell(unlucky=False)
        for name in NAMES:
            objects = self.gateways[name].sites[name]
            await expire(objects.ground.catalog)
            await recover(objects.ground, older_s=0)
            if self.is_managed:  # what a sweep that died had not told
                await check(objects.ground, await objects.ground.bucket(self.bucket), heal=True)
        await self.redrive()
        await self.stream()
        assert await self.redrive() == 0
        if self.is_fair:
            await self.same()
        while await self.sweep():  # a second name of a conflict may be a conflict, once
            self.sweeps += 1
            assert self.sweeps < 4
        await self.same()
        served = [await self.served(name) for name in NAMES]
        for each in served[1:]:
            assert each == served[0]
        if self.is_managed:
            for name in NAMES:
                await self.books(name, served[0])

    async def same(self) -> None:
        stored = [await self.stored(name) for name in NAMES]
        for each in stored[1:]:
            assert each == stored[0]
        there = {version: (key, body) for key, version, _, body, _ in stored[0]}
        if not self.is_managed:
            assert self.model.acknowledged.items() <= there.items()
            return
        seen = [await self.seen(name) for name in NAMES]
        for each in seen[1:]:
            assert each == seen[0]
        read = {version: (key, body) for key, version, body, *_ in seen[0]}
        assert read.keys() == there.keys()
        assert self.model.acknowledged.items() <= read.items()
        assert {body for _, body in read.values() if body is not None} <= self.model.bodies
        if self.model.is_certain:
            tagged = {version: said["tags"] for _, version, _, said, _ in seen[0]}
            for version, (_, tags) in self.model.tags.items():
                assert tagged[version] == tags

    async def served(self, name: str) -> dict[str, str]:
        """The current version of each key, as the store has it."""
        pages = self.stores[name].versions(self.bucket)
        return {
            each.key: each.version_id
            async for page in pages
            for each in page.versions
            if each.is_current
        }

    async def books(self, name: str, served: Mapping[str, str]) -> None:
        """Nothing is under way; catalog and store serve the same; usage is what a count says."""
        objects = self.gateways[name].sites[name]
        for table in ("intents", "effects"):
            assert await counted(objects.ground.catalog, table) == 0
        first: dict[str, str] = {}
        for row in await objects.versions(self.bucket):
            first.setdefault(row.key, row.version_id)
        assert first == served
        assert await objects.usage(self.bucket) == await objects.usage(self.bucket, recount=True)

    async def stored(self, name: str) -> list[tuple[Any, ...]]:
        """What the store holds, with the bytes."""
        store, found = self.stores[name], []
        async for page in store.versions(self.bucket, details=True):
            for each in page.versions:
                body = None
                if not each.is_delete_marker:
                    where = self.bucket, each.key
                    async with store.get(*where, version_id=each.version_id) as opened:
                        body = await opened.read()
                found.append((each.key, each.version_id, each.mtime_ms, body, each.attributes))
        return sorted(found, key=lambda one: one[:2])

    async def seen(self, name: str) -> list[tuple[Any, ...]]:
        """What readers of a managed bucket get, newest first by key."""
        objects, found = self.gateways[name].sites[name], []
        for row in await objects.versions(self.bucket):
            body = None
            if not row.is_delete_marker:
                async with objects.get(self.bucket, row.key, version_id=row.version_id) as opened:
                    body = await opened.read()
            said = {name: row.attributes.get(name) for name in ("metadata", "tags")}
            found.append((row.key, row.version_id, body, said, row.is_quarantined))
        return found


async def checkpoint(_last: str, _totals: Totals) -> None:
    return


async def clear(catalog: Catalog) -> None:
    """Nothing waits from the sequence before, and the clock starts anew."""
    async with catalog.begin() as connection:
        tables = ("outbox", "outbox_consumers", "dead_letters", "intents", "effects")
        gone = ", ".join(f"t{n} AS (DELETE FROM {name})" for n, name in enumerate(tables))
        await connection.execute(text(f"WITH {gone} UPDATE site_clock SET floor_ms = 0"))


async def play(
    base: Base, kind: str, script: Sequence[Step], offsets: Sequence[int], number: int
) -> None:
    chance, ticks, began = random.Random(number), [0], SYSTEM_CLOCK.now()
    clocks = {
        name: Skewed(began, ticks, offset) for name, offset in zip(NAMES, offsets, strict=True)
    }
    stores = {name: MemoryStore(clock=clock) for name, clock in clocks.items()}
    route = route_over(f"seq-{new_id().hex[:20]}", NAMES)
    one = Play(base, kind, chance, clocks, stores, route)
    try:
        await one.begin()
        for turn, step in enumerate(script):
            await one.do(step, turn)
        await one.settled()
    finally:
        for store in stores.values():
            await store.close()
