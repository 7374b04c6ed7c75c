"""The objects of a site against a plain dict: Hypothesis plays two gateways and their accidents.

The model holds for each key its versions in the order of their stamps. Each is certain or not: a
write whose gateway died or whose answer was lost is there or is not, and so is one whose removal
was cut short. What is seen must be the model with some of the uncertain ones left out; a recovery
settles them for good.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import Busy, NotFound, PreconditionFailed, Unavailable
from entrepot.objects.conditions import Condition
from entrepot.objects.recover import recover
from entrepot.objects.removal import set_tags
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Store
from entrepot.store.wrapper import Again, StoreWrapper
from tests.objects.conftest import KINDS
from tests.objects.killable import Steps, stepped
from tests.objects.test_kill import assert_whole, expire
from tests.objects.test_service import read
from tests.objects.worlds import new_bucket_name

T = TypeVar("T")

STEADY = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True, database=None
)
# By day a failure is shown as it was found: a shorter one takes minutes on real servers.
BRIEF = settings(
    STEADY, max_examples=20, stateful_step_count=14, phases=(Phase.explicit, Phase.generate)
)

LAST = chr(0x10FFFF)
# No key is a folder of another one: MinIO's listings leave out what is below an object.
KEYS = st.sampled_from(["a", "d/b", "d/c/e", "d0", "b/", "é", "😀", f"d/{LAST}{LAST}z"])
GATEWAYS = st.integers(0, 1)
SIZES = st.sampled_from([0, 1, 900, 5_000])
SKEWS = st.sampled_from([0.0, -15.0, 15.0, 0.4])
ACCIDENTS = st.one_of(
    st.none(),
    st.none(),
    st.just("answer lost"),
    st.integers(1, 18),  # the point at which the gateway dies
)


class SkewedClock:
    """The machine's clock, a little off."""

    def __init__(self, off_s: float) -> None:
        self._off = timedelta(seconds=off_s)

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now() + self._off

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()


class LosingStore(StoreWrapper):
    """Loses the answer of the next write, when told to."""

    loses = False

    async def _around(self, verb: str, call: Callable[[], Awaitable[T]], *, again: Again) -> T:
        answer = await super()._around(verb, call, again=again)
        if self.loses and verb in ("put", "delete", "tag"):
            self.loses = False
            raise Unavailable("the answer was lost (scripted)")
        return answer


@dataclass(slots=True)
class Entry:
    """A version; ``body`` None is a delete marker. ``row`` is known where it was acknowledged."""

    body: bytes | None
    certain: bool
    row: ObjectRow | None = None


class Died(Exception):
    """The gateway is no more; nobody was told anything."""


@dataclass(slots=True)
class Gateway:
    """One service, until it dies."""

    objects: Objects
    steps: Steps
    store: LosingStore
    died: asyncio.Event
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


class ObjectsMachine(RuleBasedStateMachine):
    """``model[key]`` holds entries, oldest first."""

    site: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model: dict[str, list[Entry]] = {}
        self.writes = 0
        self.gateways: list[Gateway] = []
        self.bucket = new_bucket_name()

    @initialize(kind=st.sampled_from(["plain", "both"]), skews=st.tuples(SKEWS, SKEWS))
    def begin(self, kind: str, skews: tuple[float, float]) -> None:
        self.gateways = [self.run(self.opened(skew)) for skew in skews]
        how = KINDS[kind]
        self.run(self.gateways[0].objects.create_bucket(self.bucket, tenant_id="acme", **how))
        for gateway in self.gateways:
            self.run(gateway.objects.ground.bucket(self.bucket))

    def teardown(self) -> None:
        for gateway in self.gateways:
            self.run(gateway.stack.aclose())
        self.run(self.loop.shutdown_asyncgens())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    async def opened(self, skew_s: float) -> Gateway:
        died = asyncio.Event()
        stores: list[LosingStore] = []

        async def die() -> None:
            died.set()
            await asyncio.Event().wait()

        def around(store: Store) -> Store:
            stores.append(LosingStore(store))
            return stores[0]

        steps, stack = Steps(die), AsyncExitStack()
        service = stepped(self.site, steps, clock=SkewedClock(skew_s), around=around)
        objects = await stack.enter_async_context(service)
        return Gateway(objects, steps, stores[0], died, stack)

    def attempt(
        self, number: int, accident: int | str | None, call: Callable[[Objects], Awaitable[T]]
    ) -> T:
        """Ask a gateway; ``Died`` or ``Unavailable`` where the accident hit it."""
        gateway = self.gateways[number]
        gateway.store.loses = accident == "answer lost"
        gateway.steps.arm(accident if isinstance(accident, int) else None)
        try:
            return self.run(_until_it_dies(gateway, call))
        except Died:
            note(f"died {gateway.steps.passed[-1]}")
            self.run(gateway.stack.aclose())
            self.gateways[number] = self.run(self.opened(0.0))
            raise
        finally:
            gateway.steps.disarm()
            gateway.store.loses = False

    def new_body(self, size: int) -> bytes:
        self.writes += 1
        return (f"{self.writes};" * (size // 2 + 1)).encode()[:size]

    def live(self, key: str) -> Entry | None:
        entries = self.model.get(key, [])
        return entries[-1] if entries and entries[-1].body is not None else None

    def is_certain(self, key: str) -> bool:
        return all(entry.certain for entry in self.model.get(key, []))

    # --- What happens -----------------------------------------------------------------------

    @rule(key=KEYS, size=SIZES, gateway=GATEWAYS, accident=ACCIDENTS, again=st.booleans())
    def put(
        self, key: str, size: int, gateway: int, accident: int | str | None, again: bool
    ) -> None:
        body = self.new_body(size)
        entries = self.model.setdefault(key, [])
        for _ in range(2 if again else 1):  # a client that was told nothing sends it again
            try:
                row = self.attempt(gateway, accident, lambda it: it.put(self.bucket, key, body))
            except (Died, Unavailable):
                entries.append(Entry(body, certain=False))
                accident = None
            else:
                entries.append(Entry(body, certain=True, row=row))
                return

    @rule(key=KEYS, gateway=GATEWAYS, accident=ACCIDENTS)
    def delete(self, key: str, gateway: int, accident: int | str | None) -> None:
        entries = self.model.setdefault(key, [])
        try:
            row = self.attempt(gateway, accident, lambda it: it.delete(self.bucket, key))
        except (Died, Unavailable):
            entries.append(Entry(None, certain=False))
        else:
            entries.append(Entry(None, certain=True, row=row))

    @rule(key=KEYS, gateway=GATEWAYS, place=st.integers(0, 9), accident=ACCIDENTS)
    def remove(self, key: str, gateway: int, place: int, accident: int | str | None) -> None:
        known = [entry for entry in self.model.get(key, []) if entry.row]
        if not known:
            return
        entry = known[place % len(known)]
        assert entry.row
        version = entry.row.version_id
        try:
            self.attempt(
                gateway, accident, lambda it: it.delete(self.bucket, key, version_id=version)
            )
        except (Died, Unavailable):
            entry.certain = False
        else:
            self.model[key].remove(entry)

    @rule(key=KEYS, source=KEYS, gateway=GATEWAYS, accident=ACCIDENTS)
    def copy(self, key: str, source: str, gateway: int, accident: int | str | None) -> None:
        if not self.is_certain(source):
            return
        found = self.live(source)
        place = (self.bucket, source, None)
        call = lambda it: it.copy(self.bucket, key, source=place)  # noqa: E731 - used twice
        if found is None:
            with pytest.raises(NotFound):
                self.attempt(gateway, None, call)
            return
        entries = self.model.setdefault(key, [])
        try:
            row = self.attempt(gateway, accident, call)
        except (Died, Unavailable):
            entries.append(Entry(found.body, certain=False))
        else:
            entries.append(Entry(found.body, certain=True, row=row))

    @rule(key=KEYS, gateway=GATEWAYS, absent=st.booleans(), size=SIZES, right=st.booleans())
    def put_if(self, key: str, gateway: int, absent: bool, size: int, right: bool) -> None:
        live, body = self.live(key), self.new_body(size)
        etag = hashlib.md5((live.body if live else b"") or b"").hexdigest() if right else "0" * 32
        condition = Condition(if_none_match=("*",)) if absent else Condition(if_match=(etag,))
        holds = live is None if absent else live is not None and right
        wish = Wish(condition=condition)
        try:
            row = self.attempt(gateway, None, lambda it: it.put(self.bucket, key, body, wish=wish))
        except (PreconditionFailed, NotFound, Busy) as error:
            assert not holds or not self.is_certain(key)
            assert not isinstance(error, Busy) or not self.is_certain(key)
        else:
            assert holds or not self.is_certain(key)
            self.model.setdefault(key, []).append(Entry(body, certain=True, row=row))

    @rule(key=KEYS, sizes=st.tuples(SIZES, SIZES))
    def put_at_once(self, key: str, sizes: tuple[int, int]) -> None:
        bodies = [self.new_body(size) for size in sizes]

        async def both() -> list[ObjectRow]:
            puts = (
                gateway.objects.put(self.bucket, key, body)
                for gateway, body in zip(self.gateways, bodies, strict=True)
            )
            return await asyncio.gather(*puts)

        rows = self.run(both())
        pairs = sorted(zip(rows, bodies, strict=True), key=lambda pair: pair[0].stamp)
        entries = [Entry(body, certain=True, row=row) for row, body in pairs]
        self.model.setdefault(key, []).extend(entries)

    @rule(key=KEYS, gateway=GATEWAYS, accident=ACCIDENTS)
    def tag(self, key: str, gateway: int, accident: int | str | None) -> None:
        live = self.live(key)
        if live is None or live.row is None or not live.certain:
            return
        version, tags = live.row.version_id, {"write": str(self.writes)}

        async def tagged(it: Objects) -> None:
            found = await it.ground.bucket(self.bucket)
            await set_tags(it.ground, found, key, version, tags, actor="")

        try:
            self.attempt(gateway, accident, tagged)
        except (Died, Unavailable):
            return
        row = self.run(self.gateways[gateway].objects.head(self.bucket, key, version_id=version))
        assert row.attributes["tags"] == tags

    @rule(gateway=GATEWAYS)
    def recover(self, gateway: int) -> None:
        """Every lease runs out, somebody looks: no uncertainty is left, and the store agrees."""
        objects = self.gateways[gateway].objects

        async def recovered() -> None:
            await expire(objects.ground.catalog)
            await recover(objects.ground, older_s=0)

        self.run(recovered())
        self.model = {
            key: [Entry(body, certain=True, row=row) for row, body in reversed(found)]
            for key, found in self.run(self.seen(objects)).items()
        }

    # --- What must hold -----------------------------------------------------------------------

    async def seen(self, objects: Objects) -> dict[str, list[tuple[ObjectRow, bytes | None]]]:
        """Every key's versions, newest first, found page by page and read; as the model has it."""
        found: dict[str, list[tuple[ObjectRow, bytes | None]]] = {}
        after, after_version = "", ""
        while page := await objects.versions(
            self.bucket, after=after, after_version=after_version, most=3
        ):
            for row in page:
                version = row.version_id
                body = (
                    None
                    if row.is_delete_marker
                    else await read(objects, self.bucket, row.key, version_id=version)
                )
                found.setdefault(row.key, []).append((row, body))
            after, after_version = page[-1].key, page[-1].version_id
        for key in {*self.model, *found}:
            bodies = [body for _, body in reversed(found.get(key, []))]
            assert _could_be(bodies, self.model.get(key, [])), (key, bodies, self.model.get(key))
        return found

    @invariant()
    def what_is_seen_is_the_model(self) -> None:
        for gateway in self.gateways[self.writes % 2 :][:1]:  # the two in turn
            self.run(self._check(gateway.objects))

    async def _check(self, objects: Objects) -> None:
        found = await self.seen(objects)
        live = {
            key: versions[0]
            for key, versions in sorted(found.items(), key=lambda one: one[0].encode())
            if versions[0][1] is not None
        }
        for key, (row, body) in live.items():
            assert await objects.head(self.bucket, key) == row
            assert len(body or b"") == row.size_bytes
        listed = [(e.key, e.version_id, e.size_bytes) async for e in objects.walk(self.bucket)]
        assert listed == [(key, row.version_id, row.size_bytes) for key, (row, _) in live.items()]
        for prefix in ("", "d/"):
            assert await self._folded(objects, prefix) == _fold(list(live), prefix)
        usage = await objects.usage(self.bucket)
        assert usage == await objects.usage(self.bucket, recount=True)
        rows = [row for versions in found.values() for row, _ in versions]
        assert usage.objects == len(live)
        assert usage.versions + usage.delete_markers == len(rows)
        assert usage.total_bytes == sum(row.size_bytes for row in rows)

    async def _folded(self, objects: Objects, prefix: str) -> list[str]:
        seen: list[str] = []
        while page := await objects.list(
            self.bucket, prefix=prefix, delimiter="/", after=seen[-1] if seen else "", most=2
        ):
            seen += [entry.key for entry in page]
            assert len(seen) < 100
        return seen


class WholeMachine(ObjectsMachine):
    """At the end of each game everything is recovered and looked at as a whole."""

    def teardown(self) -> None:
        if self.gateways:
            self.recover(0)
            self.run(assert_whole(self.gateways[1].objects, self.bucket))
        super().teardown()


async def _until_it_dies(gateway: Gateway, call: Callable[[Objects], Awaitable[T]]) -> T:
    async def asked() -> T:
        return await call(gateway.objects)

    work, death = asyncio.create_task(asked()), asyncio.create_task(gateway.died.wait())
    await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
    if not gateway.died.is_set():
        death.cancel()
        return await work
    everything = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
    for task in everything:
        task.cancel()
    await asyncio.gather(*everything, return_exceptions=True)
    raise Died


def _could_be(bodies: list[bytes | None], entries: list[Entry]) -> bool:
    """Whether these are the entries, some of the uncertain ones left out."""
    ends = {0}  # how many of the bodies may be explained by the entries so far
    for entry in entries:
        taken = {at + 1 for at in ends if at < len(bodies) and bodies[at] == entry.body}
        ends = taken if entry.certain else taken | ends
    return len(bodies) in ends


def _fold(keys: list[str], prefix: str) -> list[str]:
    folded: dict[str, None] = {}
    for key in keys:
        if key.startswith(prefix):
            head, mark, _ = key[len(prefix) :].partition("/")
            folded[prefix + head + mark] = None
    return list(folded)
