"""A store against a plain dict: Hypothesis plays both and compares them after every step."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from entrepot.clock import new_id
from entrepot.errors import NotFound, PreconditionFailed
from entrepot.store.protocol import Origin, Store
from entrepot.testing.contract_tools import current, history, read

T = TypeVar("T")

STEADY = settings(
    max_examples=40, stateful_step_count=25, deadline=None, print_blob=True, database=None
)
BRIEF = settings(STEADY, max_examples=6, stateful_step_count=15)

KEYS = st.sampled_from(["a", "a/b", "a/b/c", "a0", "b", "é", "😀", "x" * 1024])
BODIES = st.binary(max_size=8)
IDS = [str(new_id()) for _ in range(6)]
"""Few, so that origins meet again."""


class SteppingClock:
    """Stands still until a step moves it, back as well as forth."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0


class StoreMachine(RuleBasedStateMachine):
    """``model[key]`` holds (mtime, arrival, version id, body or ``None``), in any order."""

    def make(self, clock: SteppingClock) -> Store:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = SteppingClock()
        self.store = self.make(self.clock)
        self.model: dict[str, list[tuple[int, int, str, bytes | None]]] = {}
        self.arrivals = 0
        self.run(self.store.create("bucket"))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def ordered(self, key: str) -> list[tuple[int, int, str, bytes | None]]:
        return sorted(self.model.get(key, []), reverse=True)

    def shown(self, key: str) -> bytes | None:
        found = self.ordered(key)
        return found[0][3] if found else None

    def remember(self, key: str, version_id: str, mtime_ms: int, body: bytes | None) -> None:
        if all(entry[2] != version_id for entry in self.model.get(key, [])):
            self.arrivals += 1
            entry = (mtime_ms, self.arrivals, version_id, body)
            self.model.setdefault(key, []).append(entry)

    @property
    def now_ms(self) -> int:
        return round(self.clock.time.timestamp() * 1000)

    @rule(milliseconds=st.integers(-5, 10))
    def step(self, milliseconds: int) -> None:
        self.clock.time += timedelta(milliseconds=milliseconds)

    @rule(key=KEYS, body=BODIES)
    def put(self, key: str, body: bytes) -> None:
        put = self.run(self.store.put("bucket", key, body))
        self.remember(key, put.version_id, self.now_ms, body)

    @rule(key=KEYS, body=BODIES, version_id=st.sampled_from(IDS), age_ms=st.integers(-5, 5))
    def put_origin(self, key: str, body: bytes, version_id: str, age_ms: int) -> None:
        origin = Origin(version_id=version_id, mtime_ms=self.now_ms - age_ms)
        self.run(self.store.put("bucket", key, body, origin=origin))
        self.remember(key, version_id, origin.mtime_ms, body)

    @rule(key=KEYS, body=BODIES)
    def put_if_none_match(self, key: str, body: bytes) -> None:
        call = self.store.put("bucket", key, body, if_none_match=True)
        if self.shown(key) is None:
            self.remember(key, self.run(call).version_id, self.now_ms, body)
        else:
            with pytest.raises(PreconditionFailed):
                self.run(call)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        marker = self.run(self.store.delete("bucket", key))
        assert marker is not None
        self.remember(key, marker.version_id, self.now_ms, None)

    @rule(key=KEYS, version_id=st.sampled_from(IDS), age_ms=st.integers(-5, 5))
    def delete_origin(self, key: str, version_id: str, age_ms: int) -> None:
        origin = Origin(version_id=version_id, mtime_ms=self.now_ms - age_ms)
        self.run(self.store.delete("bucket", key, origin=origin))
        self.remember(key, version_id, origin.mtime_ms, None)

    @rule(key=KEYS, place=st.integers(0, 5))
    def remove(self, key: str, place: int) -> None:
        found = self.ordered(key)
        version_id = found[place % len(found)][2] if found else IDS[place]
        self.run(self.store.delete("bucket", key, version_id=version_id))
        self.model[key] = [entry for entry in found if entry[2] != version_id]

    @rule(
        prefix=st.sampled_from(["", "a", "a/", "é"]),
        after=st.sampled_from(["", "a", "a/", "a/b", "b"]),
        page_size=st.integers(1, 4),
    )
    def fold(self, prefix: str, after: str, page_size: int) -> None:
        folded: dict[str, None] = {}
        for key in self._live():
            if key.startswith(prefix):
                head, mark, _ = key[len(prefix) :].partition("/")
                folded[prefix + head + mark] = None
        wanted = [key for key in folded if key.encode() > after.encode()]
        how: dict[str, Any] = {"prefix": prefix, "after": after, "page_size": page_size}
        found = self.run(current(self.store, "bucket", delimiter="/", **how))
        assert [entry.key for entry in found] == wanted

    @invariant()
    def listings_agree(self) -> None:
        listed = self.run(current(self.store, "bucket", page_size=3))
        assert [(entry.key, entry.size_bytes) for entry in listed] == [
            (key, len(self.shown(key) or b"")) for key in self._live()
        ]
        wanted = [
            (key, version_id, mtime_ms, body is None, place == 0)
            for key in sorted(self.model, key=str.encode)
            for place, (mtime_ms, _, version_id, body) in enumerate(self.ordered(key))
        ]
        found = self.run(history(self.store, "bucket", page_size=3))
        note(f"{len(found)} versions")
        assert [
            (entry.key, entry.version_id, entry.mtime_ms, entry.is_delete_marker, entry.is_current)
            for entry in found
        ] == wanted

    @rule(key=KEYS)
    def read_all(self, key: str) -> None:
        body = self.shown(key)
        if body is None:
            with pytest.raises(NotFound):
                self.run(self.store.head("bucket", key))
        else:
            assert self.run(read(self.store, "bucket", key)) == body
        for _, _, version_id, kept in self.model.get(key, []):
            if kept is not None:
                assert self.run(read(self.store, "bucket", key, version_id=version_id)) == kept

    def _live(self) -> list[str]:
        return [key for key in sorted(self.model, key=str.encode) if self.shown(key) is not None]
