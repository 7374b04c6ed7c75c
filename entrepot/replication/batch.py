"""Which copies travel together, as pure functions of the plan.

A request costs an endpoint about as much as storing 8 KiB does, so small objects that go the same
way share one (5,000 of 8 KiB: a quarter less time, measured). What is batched is as safe as what
is not: the source's MD5 is checked before, the target's listing after.
"""

from collections.abc import Iterator, Sequence

from entrepot.replication.plan import Action, Copy
from entrepot.replication.sites import Site
from entrepot.store.protocol import Capability

ITEM_MAX_BYTES = 64 * 1024
"""Past it the request is a small part of the work, and MinIO unpacks one after the other."""
BATCH_MAX_BYTES = 1024 * 1024
BATCH_MAX = 64
"""A batch that has to be sent again costs little."""

Unit = Action | tuple[Copy, ...]


def units(
    actions: Sequence[Action], *, sites: Sequence[Site], workers: int, plain: Sequence[bool]
) -> list[Unit]:
    """``actions`` with small copies of one way joined, so that every worker still has its share.

    Args:
        plain: for each action, whether its ETag is the MD5 of its bytes.
    """
    found: list[Unit] = []
    ways: dict[tuple[int, ...], list[Copy]] = {}
    for action, is_plain in zip(actions, plain, strict=True):
        if isinstance(action, Copy) and is_plain and _is_small(action, sites):
            way = (action.source, *(target.site for target in action.targets))
            ways.setdefault(way, []).append(action)
        else:
            found.append(action)
    for copies in ways.values():
        most = min(BATCH_MAX, -(-len(copies) // workers))
        found += (group if len(group) > 1 else group[0] for group in _groups(copies, most))
    return found


def _is_small(action: Copy, sites: Sequence[Site]) -> bool:
    return action.size_bytes <= ITEM_MAX_BYTES and all(
        Capability.BATCH in sites[target.site].capabilities and sites[target.site].keeps_origin
        for target in action.targets
    )


def _groups(copies: Sequence[Copy], most: int) -> Iterator[tuple[Copy, ...]]:
    group: list[Copy] = []
    size_bytes = 0
    for copy in copies:
        if group and (len(group) == most or size_bytes + copy.size_bytes > BATCH_MAX_BYTES):
            yield tuple(group)
            group, size_bytes = [], 0
        group.append(copy)
        size_bytes += copy.size_bytes
    if group:
        yield tuple(group)
