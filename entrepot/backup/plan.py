"""What a bucket's keys were at an instant, and what is to be done to have them so. Pure.

Invariant: no action removes anything. A key whose state at the instant cannot be known is *lost*:
it is counted and left alone.

Words: *wished* the version that was current at the instant; *over* what the key has now, which an
action was planned against.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, Self, TypeVar

from entrepot.errors import IntegrityError
from entrepot.stamp import Stamp

BYTES_PER_S: Final = 50_000_000
KEYS_PER_S: Final = 200
"""Assumed until a restore was carried out; 16 keys at once against one endpoint."""


class Seen(Protocol):
    """A version or delete marker, as an entry of a snapshot has it."""

    @property
    def key(self) -> str: ...
    @property
    def version_id(self) -> str: ...
    @property
    def mtime_ms(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def etag(self) -> str: ...
    @property
    def is_delete_marker(self) -> bool: ...
    @property
    def content_type(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...


S = TypeVar("S", bound=Seen)


class Do(StrEnum):
    """What happens to a key: it is not there; it has another state; it was not there then."""

    ADD = "add"
    REVERT = "revert"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done to one key. ``version_id`` is the wished version, "" to hide.

    ``over_id`` is "" where the key has nothing; ``over_etag`` is "" also for a delete marker.
    ``is_live``: the wished version is still in the bucket.
    """

    key: str
    do: Do
    over_id: str = ""
    over_etag: str = ""
    over_bytes: int = 0
    over_marker: bool = False
    version_id: str = ""
    etag: str = ""
    size_bytes: int = 0
    is_live: bool = False

    @property
    def over_live(self) -> bool:
        """Whether a read of the key found an object."""
        return bool(self.over_id) and not self.over_marker

    def dump(self) -> bytes:
        """Its line of a plan."""
        return json.dumps({name: each for name, each in asdict(self).items() if each}).encode()

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """The inverse; ``IntegrityError`` for what is none."""
        try:
            said = json.loads(line)
            return cls(**{**said, "do": Do(said["do"])})
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("a page of the plan is malformed") from error


@dataclass(slots=True)
class Sums:
    """What a plan comes to, in keys and bytes. ``lost``: what they were is not known any more."""

    add: int = 0
    revert: int = 0
    hide: int = 0
    unchanged: int = 0
    lost: int = 0
    bytes: int = 0
    lost_keys: list[str] = field(default_factory=list)

    def count(self, action: Action) -> None:
        """Add what an action is."""
        setattr(self, action.do.value, getattr(self, action.do.value) + 1)
        self.bytes += action.size_bytes

    def as_dict(self) -> dict[str, int]:
        """The numbers by name."""
        return {name: each for name, each in asdict(self).items() if name != "lost_keys"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long it will take, and where that comes from."""

    seconds: float
    basis: str


def estimate(sums: Mapping[str, int], *, past: Sequence[Mapping[str, float]]) -> Estimate:
    """From what earlier restores (``keys``, ``bytes``, ``seconds``) took, or from assumptions."""
    keys = sums["add"] + sums["revert"] + sums["hide"]
    assumed = _assumed_s(keys, sums["bytes"])
    known = [each for each in past if each["seconds"] >= 1]
    if not known:
        basis = f"assumed: {BYTES_PER_S // 1_000_000} MB/s and {KEYS_PER_S} keys/s"
        return Estimate(round(assumed, 3), basis)
    took = sum(each["seconds"] for each in known)
    ratio = took / sum(_assumed_s(each["keys"], each["bytes"]) for each in known)
    return Estimate(round(assumed * ratio, 3), f"measured in {len(known)} earlier restores")


def _assumed_s(keys: float, size_bytes: float) -> float:
    return keys / KEYS_PER_S + size_bytes / BYTES_PER_S


def history(kept: Sequence[S], live: Sequence[S]) -> list[S]:
    """All that is known of a key, newest first: what a snapshot kept and what is there.

    A version that both have is as the snapshot kept it: its tags may be others by now.
    """
    old = {_name(each): each for each in kept}
    known = [old.pop(_name(each), each) for each in live]
    return sorted([*known, *old.values()], key=_age, reverse=True)


def current(known: Sequence[S]) -> S | None:
    """What a read finds, of a history."""
    return next((each for each in known if not each.extra.get("quarantined")), None)


def state_at(known: Sequence[S], at_ms: int) -> tuple[S | None, bool]:
    """What a read found at ``at_ms``, and whether that is certain.

    It is not where the write that came next says that it replaced one that nobody has any more.
    """
    served = [each for each in known if not each.extra.get("quarantined")]
    then = next((each for each in served if each.mtime_ms <= at_ms), None)
    later = next((each for each in reversed(served) if each.mtime_ms > at_ms), None)
    parent = later.extra.get("parent") if later else None
    if not parent:
        return then, True
    replaced = Stamp.parse(parent)
    is_gone = replaced.time_ms <= at_ms and (then is None or replaced > _stamp(then))
    return then, not is_gone


def decide(key: str, wished: Seen | None, live: Sequence[Seen]) -> Action | None:
    """What is to be done to a key, None where it is as it should be."""
    now = current(live)
    over = _over(now)
    if wished is None or wished.is_delete_marker:
        return Action(key, Do.HIDE, **over) if now and not now.is_delete_marker else None
    if now and is_equal(now, wished):
        return None
    return Action(
        key=key,
        do=Do.REVERT if now and not now.is_delete_marker else Do.ADD,
        version_id=wished.version_id,
        etag=wished.etag,
        size_bytes=wished.size_bytes,
        is_live=any(_name(each) == _name(wished) for each in live),
        **over,
    )


def undo_of(action: Action, after: Seen) -> Action:
    """What brings back what there was before an action that made ``after``."""
    over = _over(after)
    if not action.over_live:
        return Action(action.key, Do.HIDE, **over)
    return Action(
        key=action.key,
        do=Do.ADD if after.is_delete_marker else Do.REVERT,
        version_id=action.over_id,
        etag=action.over_etag,
        size_bytes=action.over_bytes,
        is_live=True,
        **over,
    )


def is_equal(one: Seen, other: Seen) -> bool:
    """Whether readers see the same: bytes by length and ETag, attributes and tags."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("is_delete_marker", "size_bytes", "etag", "content_type")
    ) and all(
        dict(getattr(one, name)) == dict(getattr(other, name))
        for name in ("metadata", "headers", "tags")
    )


def _over(now: Seen | None) -> dict[str, Any]:
    if now is None:
        return {}
    return {
        "over_id": now.version_id,
        "over_etag": now.etag,
        "over_bytes": now.size_bytes,
        "over_marker": now.is_delete_marker,
    }


def _name(seen: Seen) -> tuple[str, int, str]:
    """Which version it is; an id alone does not tell where versioning was off."""
    return seen.version_id, seen.mtime_ms, seen.etag


def _age(seen: Seen) -> tuple[int, Stamp]:
    return seen.mtime_ms, _stamp(seen)


def _stamp(seen: Seen) -> Stamp:
    said = seen.extra.get("stamp")
    return Stamp.parse(said) if said else Stamp(seen.mtime_ms, "", "")
