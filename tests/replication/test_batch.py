"""Which copies travel together: each once, small ones only, every worker with a share."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from entrepot.replication.batch import BATCH_MAX, BATCH_MAX_BYTES, ITEM_MAX_BYTES, units
from entrepot.replication.plan import Action, Copy, Mark, Target
from entrepot.replication.sites import Site
from entrepot.store.memory import MemoryStore
from entrepot.store.protocol import Capability

ALL = frozenset(Capability)
CAPABILITIES = [ALL, ALL, ALL - {Capability.BATCH}, ALL - {Capability.ORIGIN}]
SITES = [
    Site(name=str(n), rank=n, store=MemoryStore(), capabilities=each, streams=asyncio.Semaphore(1))
    for n, each in enumerate(CAPABILITIES)
]
sizes = st.one_of(st.integers(0, 9), st.sampled_from([ITEM_MAX_BYTES, ITEM_MAX_BYTES + 1]))


@st.composite
def actions(draw: st.DrawFn) -> list[Action]:
    found: list[Action] = []
    for number in range(draw(st.integers(0, 200))):
        source, *others = draw(st.permutations(range(4)))
        targets = tuple(Target(site, "") for site in sorted(others[: draw(st.integers(1, 2))]))
        if draw(st.integers(0, 9)) == 0:
            found.append(Mark(key=f"{number:03}", version_id="v", mtime_ms=1, targets=targets))
            continue
        found.append(
            Copy(
                key=f"{number:03}",
                version_id="v",
                mtime_ms=1,
                targets=targets,
                source=source,
                source_version="v",
                size_bytes=draw(sizes),
                etag="",
            )
        )
    return found


@given(actions(), st.integers(1, 32))
def test_each_action_once_and_small_ones_together(found: list[Action], workers: int) -> None:
    plain = [int(action.key) % 5 > 0 for action in found]
    is_plain = dict(zip((action.key for action in found), plain, strict=True))
    work = units(found, sites=SITES, workers=workers, plain=plain)
    single = [unit for unit in work if not isinstance(unit, tuple)]
    joined = [unit for unit in work if isinstance(unit, tuple)]
    keys = [each.key for each in single] + [each.key for unit in joined for each in unit]
    assert sorted(keys) == [action.key for action in found]
    for unit in joined:
        assert 1 < len(unit) <= min(BATCH_MAX, -(-len(found) // workers))
        assert sum(each.size_bytes for each in unit) <= BATCH_MAX_BYTES
        assert len({(each.source, tuple(t.site for t in each.targets)) for each in unit}) == 1
        for each in unit:
            assert is_plain[each.key] and each.size_bytes <= ITEM_MAX_BYTES
            assert all(target.site < 2 for target in each.targets)
