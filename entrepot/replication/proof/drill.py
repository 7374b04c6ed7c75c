"""Where trees differ: the prefixes that have to be listed again, found in their sketches: pure.

Everything outside of the places that come back is the same in all trees. Which tree is named first
makes no difference.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from entrepot.replication.proof.tree import Branch, Sketch

PLACES_MAX: Final = 256
"""Places that are listed apart; from there on coarser ones do, down to the whole."""


@dataclass(frozen=True, slots=True)
class Place:
    """All keys that start with ``prefix``, or with ``is_key`` the key of that name alone."""

    prefix: bytes
    is_key: bool = False


def places(sketches: Sequence[Sketch]) -> tuple[Place, ...]:
    """Where trees over the same prefix may differ, in key order."""
    found: list[Place] = []
    waiting = deque([sketches[0].prefix])
    while waiting:
        if len(found) + len(waiting) > PLACES_MAX:
            found += map(Place, waiting)
            break
        prefix = waiting.popleft()
        branches = [sketch.branches.get(prefix) for sketch in sketches]
        known = [branch for branch in branches if branch is not None]
        if len(known) < len(branches):
            found.append(Place(prefix))
            continue
        if len({branch.own for branch in known}) > 1:
            found.append(Place(prefix, is_key=True))
        for byte in sorted(set().union(*(branch.children for branch in known))):
            below = _below(known, byte, sketches)
            if isinstance(below, bytes):
                waiting.append(below)
            elif below:
                found.append(Place(prefix + bytes((byte,))))
    return tuple(sorted(found, key=lambda place: (place.prefix, place.is_key)))


def _below(branches: Sequence[Branch], byte: int, sketches: Sequence[Sketch]) -> bytes | bool:
    """Whether the children differ, or the prefix at which all sketches can say more."""
    children = [branch.children.get(byte) for branch in branches]
    if len({child and child.digest for child in children}) == 1:
        return False
    prefixes = {child.prefix if child else b"" for child in children}
    if len(prefixes) == 1:
        [prefix] = prefixes
        if all(prefix in sketch.branches for sketch in sketches):
            return prefix
    return True
