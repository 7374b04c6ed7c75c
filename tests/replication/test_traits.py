"""What sites agree on about one version: properties of the rule, and what it means in cases."""

import random
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from entrepot.objects.receive import merged
from entrepot.objects.removal import lock_in
from entrepot.replication.traits import (
    TAGS_MAX,
    Agreed,
    Dispute,
    Settled,
    Tags,
    Traits,
    agree,
    settle,
)
from entrepot.stamp import Stamp
from entrepot.store.protocol import Lock, LockMode
from tests.objects.test_receive import attributes

DAYS = st.integers(1, 4).map(lambda day: datetime(2090, 1, day, tzinfo=UTC))
TAGS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)
LOCKS = st.builds(Lock, hold=st.booleans()) | st.builds(
    Lock, st.sampled_from(LockMode), DAYS, st.booleans()
)
STAMPS = st.builds(Stamp, st.integers(1, 3), st.sampled_from(["a", "b"]), st.just("w"))


@st.composite
def worlds(draw: st.DrawFn) -> dict[int, Traits]:
    """Two to four sites, some managed; what a stamp says is the same everywhere."""
    said: dict[Stamp, Tags] = {}
    held: dict[Stamp, bool] = {}
    sides = {}
    for rank in range(draw(st.integers(2, 4))):
        tags, lock = draw(TAGS), draw(LOCKS)
        is_managed = draw(st.booleans())
        tagged = draw(st.none() | STAMPS) if is_managed else None
        holding = draw(st.none() | STAMPS) if is_managed else None
        if tagged:
            tags = said.setdefault(tagged, tags)
        if holding:
            lock = Lock(lock.mode, lock.until, held.setdefault(holding, lock.hold))
        sides[rank] = Traits(tags, lock, tagged, holding, is_managed)
    return sides


def applied(sides: dict[int, Traits], settled: Settled, *, now: int = 9) -> dict[int, Traits]:
    """The sites after a sweep; a catalog stamps what no stamp stands for."""
    found = dict(sides)
    for rank, agreed in settled.agreed.items():
        side = sides[rank]
        fresh = Stamp(now, f"site-{rank}", "w") if side.is_managed else None
        found[rank] = Traits(
            agreed.tags,
            agreed.lock,
            (agreed.tagged or fresh) if agreed.tags != side.tags else side.tagged,
            (agreed.held or fresh) if agreed.lock.hold != side.lock.hold else side.held,
            side.is_managed,
        )
    return found


def is_same(sides: dict[int, Traits]) -> bool:
    return all((side.tags, side.lock) == (sides[0].tags, sides[0].lock) for side in sides.values())


@given(worlds(), TAGS)
def test_one_sweep_makes_them_equal_and_the_next_finds_nothing(
    sides: dict[int, Traits], base: Tags
) -> None:
    settled = settle(sides, base=base)
    after = applied(sides, settled)
    assert is_same(after)
    again = settle(after, base=settled.base)
    assert (again.agreed, again.disputes) == ({}, ())
    assert settle(after, base=base).agreed == {}  # killed before the base was kept


@given(worlds(), TAGS, st.randoms(use_true_random=False))
def test_in_whatever_order_they_are_looked_at(
    sides: dict[int, Traits], base: Tags, chance: random.Random
) -> None:
    ranks = list(sides)
    chance.shuffle(ranks)
    assert agree({rank: sides[rank] for rank in ranks}, base=base) == agree(sides, base=base)


@given(worlds(), TAGS, st.integers(0, 15))
def test_killed_between_two_changes_it_ends_the_same(
    sides: dict[int, Traits], base: Tags, done: int
) -> None:
    settled = settle(sides, base=base)
    some = {rank: each for rank, each in settled.agreed.items() if done >> rank & 1}
    half = applied(sides, Settled(some, settled.base))
    end = applied(half, settle(half, base=base))
    assert is_same(end)
    assert end[0].tags == settled.base


@given(worlds(), TAGS)
def test_no_lock_gets_weaker(sides: dict[int, Traits], base: Tags) -> None:
    agreed = agree(sides, base=base)
    for side in sides.values():
        if side.lock.until and side.lock.mode:
            assert agreed.lock.until
            assert agreed.lock.until >= side.lock.until
            assert agreed.lock.mode in (side.lock.mode, LockMode.COMPLIANCE)
        if side.lock.hold and not any(each.held for each in sides.values()):
            assert agreed.lock.hold
    if any(side.lock.hold for side in sides.values() if not side.is_managed):
        assert agreed.lock.hold


@given(st.lists(TAGS, min_size=2, max_size=4), TAGS)
def test_no_change_of_a_tag_is_lost_in_silence(tags: list[dict[str, str]], base: Tags) -> None:
    sides = {rank: Traits(each) for rank, each in enumerate(tags)}
    agreed = agree(sides, base=base)
    told = {(dispute.site, name) for dispute in agreed.disputes for name in dispute.lost}
    for rank, each in enumerate(tags):
        for name, value in each.items():
            if value != base.get(name) and agreed.tags.get(name) != value:
                assert (rank, name) in told
    unchanged = {n for n in base if all(each.get(n) == base[n] for each in tags)}
    assert {n: base[n] for n in unchanged} == {n: agreed.tags[n] for n in unchanged}


@given(st.lists(attributes(), min_size=3, max_size=3))
def test_catalogs_agree_on_what_the_stream_makes_of_them(rows: list[dict[str, Any]]) -> None:
    streamed = merged(merged(rows[0], rows[1]), rows[2])

    def stamp(text: object) -> Stamp | None:
        return Stamp.parse(str(text)) if text else None

    sides = {
        rank: Traits(
            row.get("tags", {}),
            lock_in(row),
            stamp(row.get("tagged")),
            stamp(row.get("held")),
            is_managed=True,
        )
        for rank, row in enumerate(rows)
    }
    agreed = agree(sides, base={})
    assert agreed.tags == streamed.get("tags", {})
    assert agreed.lock == lock_in(streamed)
    assert (agreed.tagged, agreed.held) == (
        stamp(streamed.get("tagged")),
        stamp(streamed.get("held")),
    )


def tags_of(*sides: Tags, base: Tags) -> Tags:
    return agree({rank: Traits(tags) for rank, tags in enumerate(sides)}, base=base).tags


def test_who_still_has_the_base_follows() -> None:
    assert tags_of({"s": "1"}, {"s": "2"}, base={"s": "1"}) == {"s": "2"}
    assert tags_of({"s": "1"}, {}, base={"s": "1"}) == {}
    assert tags_of({"s": "1", "a": "x"}, {"b": "y"}, base={"s": "1"}) == {"a": "x", "b": "y"}
    assert tags_of({}, {"s": "2"}, base={"s": "1"}) == {"s": "2"}  # a value beats a removal


def test_without_a_base_nothing_goes() -> None:
    assert tags_of({"a": "x"}, {}, {"b": "y"}, base={}) == {"a": "x", "b": "y"}
    agreed = agree({0: Traits({"s": "1"}), 1: Traits({"s": "2", "b": "y"})}, base={})
    assert agreed == Agreed({"s": "1", "b": "y"}, Lock(), disputes=(Dispute(1, {"s": "2"}),))


def test_more_tags_than_an_object_may_have_are_not_mixed() -> None:
    first = {f"a{number}": "x" for number in range(TAGS_MAX)}
    agreed = agree({0: Traits(first), 1: Traits({"b": "y"})}, base={})
    assert agreed.tags == first
    assert agreed.disputes == (Dispute(1, {"b": "y"}),)


def test_a_release_that_a_catalog_knows_of_travels_and_another_does_not() -> None:
    holds, free = Lock(hold=True), Lock()
    early, late = (Stamp(number, "a", "w") for number in (1, 2))
    released = Traits(lock=free, held=late, is_managed=True)
    assert not agree(
        {0: released, 1: Traits(lock=holds, held=early, is_managed=True)}, base={}
    ).lock.hold
    assert agree({0: released, 1: Traits(lock=holds)}, base={}).lock.hold
    assert agree({0: Traits(lock=free), 1: Traits(lock=holds)}, base={}).lock.hold


def test_a_site_that_only_receives_is_followed_by_nobody() -> None:
    sides = {0: Traits({"own": "x"}), 1: Traits({"s": "2"}), 2: Traits({"s": "1"})}
    settled = settle(sides, base={"s": "1"}, source=1)
    assert {rank: each.tags for rank, each in settled.agreed.items()} == {
        0: {"own": "x", "s": "2"},
        2: {"s": "2"},
    }
    assert (settled.base, settled.drifted) == ({"s": "2"}, (0,))
