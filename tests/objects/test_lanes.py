"""Lanes: who waits for whom, and for how long."""

import asyncio
from collections.abc import Sequence

import pytest

from entrepot.errors import InvalidInput, Unavailable
from entrepot.objects.lanes import Lane

PATIENCE_S = 0.2
"""Far longer than a batch takes here, so that waiting is told from not waiting."""


class Batches:
    """Doubles numbers, and keeps each batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    async def __call__(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.seen.append(list(items))
        await asyncio.sleep(0.005)
        if 13 in items:
            raise InvalidInput("an unlucky number")
        if 17 in items:
            raise Unavailable("everybody has to try again")
        return [2 * item for item in items]


async def seconds(*work: "asyncio.Future[int] | asyncio.Task[int]") -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(*work, return_exceptions=True)
    return loop.time() - started


def submitted(lane: Lane[int, int], *items: int) -> list["asyncio.Task[int]"]:
    return [asyncio.create_task(lane.submit(item)) for item in items]


async def test_a_single_caller_never_waits() -> None:
    batches = Batches()
    lane = Lane(batches, patience_s=PATIENCE_S)
    for item in range(20, 40):
        assert await lane.submit(item) == 2 * item
    assert batches.seen == [[item] for item in range(20, 40)]


async def test_a_crowd_waits_until_enough_are_there() -> None:
    batches = Batches()
    lane = Lane(batches, patience_s=60.0, expected=lambda: 3)
    tasks = submitted(lane, 1, 2)  # two at once are a crowd
    await asyncio.sleep(0.05)
    assert batches.seen == []
    tasks += submitted(lane, 3)
    assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [2, 4, 6]
    assert batches.seen == [[1, 2, 3]]


async def test_nobody_waits_longer_than_patience() -> None:
    batches = Batches()
    lane = Lane(batches, patience_s=PATIENCE_S)
    assert PATIENCE_S <= await seconds(*submitted(lane, 1, 2)) < 60
    assert PATIENCE_S <= await seconds(*submitted(lane, 3)) < 60  # a crowd was seen
    assert batches.seen == [[1, 2], [3]]
    assert await seconds(*submitted(lane, 4)) < PATIENCE_S  # it has gone


async def test_a_batch_has_a_limit_and_a_full_one_goes_at_once() -> None:
    batches = Batches()
    lane = Lane(batches, most=4, patience_s=60.0)
    assert await asyncio.wait_for(asyncio.gather(*submitted(lane, *range(8))), 5)
    assert [len(batch) for batch in batches.seen] == [4, 4]


async def test_one_bad_item_does_not_take_the_others_with_it() -> None:
    lane = Lane(batches := Batches())
    found = await asyncio.gather(*submitted(lane, 1, 13, 2), return_exceptions=True)
    assert [found[0], found[2]] == [2, 4]
    assert isinstance(found[1], InvalidInput)
    assert batches.seen[-3:] == [[1], [13], [2]]


async def test_what_may_pass_is_told_to_all() -> None:
    lane = Lane(Batches())
    found = await asyncio.gather(*submitted(lane, 1, 17), return_exceptions=True)
    assert [type(each) for each in found] == [Unavailable, Unavailable]
    assert await lane.submit(3) == 6


async def test_a_caller_that_goes_away_holds_up_nobody() -> None:
    batches = Batches()
    lane = Lane(batches, patience_s=PATIENCE_S)
    first, second = submitted(lane, 1, 2)
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 4
    with pytest.raises(asyncio.CancelledError):
        await first
