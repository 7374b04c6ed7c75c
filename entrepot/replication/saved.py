"""A plan as JSON lines, to be looked at, approved, and carried out exactly.

A line is a key: what is to be done to it, and a *seal*, a hash of all versions of the key at all
sites as they were when that was decided. A key whose seal is another by now is left alone: the
plan was not made for what it has become.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from entrepot.errors import IntegrityError
from entrepot.replication.conflicts import Conflict, Contender
from entrepot.replication.merge import Histories
from entrepot.replication.plan import Action, Copy, Decision, Mark, Remove, Target
from entrepot.replication.sites import Site
from entrepot.replication.sweep import Planned

_KINDS: Mapping[str, type[Action]] = {"copy": Copy, "mark": Mark, "remove": Remove}


@dataclass(frozen=True, slots=True)
class SavedKey:
    """What is to be done to one key, ``first`` whole before ``then``."""

    key: str
    seal: str
    first: tuple[Action, ...]
    then: tuple[Action, ...]
    deletes: int
    conflict: Conflict | None = None

    @property
    def decision(self) -> Decision:
        """What is to be done, as it was decided."""
        return Decision(first=self.first, then=self.then, deletes=self.deletes)


def seal_of(key: str, histories: Histories, sites: Sequence[Site]) -> str:
    """The hash of what the sites, by their names, hold of a key."""
    seen = [
        [
            site.name,
            sorted([v.version_id, v.mtime_ms, v.size_bytes, v.etag, v.is_current] for v in history),
        ]
        for site, history in zip(sites, histories, strict=True)
    ]
    return hashlib.sha256(json.dumps([key, seen]).encode()).hexdigest()


def dump_batch(batch: Sequence[Planned], sites: Sequence[Site]) -> bytes:
    """The keys of a batch, a line each; sites by their names."""
    return "".join(json.dumps(_dump(planned, sites)) + "\n" for planned in batch).encode()


def load_page(body: bytes, sites: Sequence[Site]) -> Iterator[SavedKey]:
    """The keys of a page.

    Raises:
        IntegrityError: it names a site that the rule does not have, or is no such page.
    """
    places = {site.name: number for number, site in enumerate(sites)}
    for line in body.splitlines():
        try:
            kept = json.loads(line)
            first, then = (
                tuple(_load(action, places) for action in kept[name]) for name in ("first", "then")
            )
            yield SavedKey(
                key=kept["key"],
                seal=kept["seal"],
                first=first,
                then=then,
                deletes=kept["deletes"],
                conflict=_load_conflict(kept["conflict"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                "the plan does not fit the rule any more",
                hint="make it anew: entrepot replicate run RULE --dry-run --save",
            ) from error


def _dump(planned: Planned, sites: Sequence[Site]) -> dict[str, Any]:
    decision = planned.decision
    return {
        "key": planned.key,
        "seal": seal_of(planned.key, planned.listed, sites),
        "first": [_dump_action(action, sites) for action in decision.first],
        "then": [_dump_action(action, sites) for action in decision.then],
        "deletes": decision.deletes,
        "conflict": asdict(planned.conflict) if planned.conflict else None,
    }


def _dump_action(action: Action, sites: Sequence[Site]) -> dict[str, Any]:
    kept = {"do": type(action).__name__.lower(), **asdict(action)}
    if isinstance(action, Remove):
        return kept | {"site": sites[action.site].name}
    if isinstance(action, Copy):
        kept["source"] = sites[action.source].name
    targets = [[sites[target.site].name, target.expected_etag] for target in action.targets]
    return kept | {"targets": targets}


def _load_conflict(kept: dict[str, Any] | None) -> Conflict | None:
    if kept is None:
        return None
    contenders = tuple(Contender(**each) for each in kept["contenders"])
    return Conflict(**{**kept, "contenders": contenders})


def _load(kept: dict[str, Any], places: Mapping[str, int]) -> Action:
    kind = _KINDS[kept.pop("do")]
    for name in ("site", "source"):
        if name in kept:
            kept[name] = places[kept[name]]
    if "targets" in kept:
        kept["targets"] = tuple(Target(places[site], etag) for site, etag in kept["targets"])
    return kind(**kept)
