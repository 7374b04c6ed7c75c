"""Streams: flat memory, work beside the network, errors that arrive, nothing left behind."""

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from entrepot.codec import encode
from entrepot.codec.decode import Reader
from entrepot.codec.encode import Shape, encoded
from entrepot.codec.primitives import Piece
from entrepot.codec.pump import BATCH_BYTES, INLINE_BYTES, pumped
from entrepot.errors import IntegrityError, InvalidInput, Unavailable
from tests.codec import making
from tests.codec.making import KINDS, noise, shape

MEMORY_MAX_BYTES = 12 * 2**20
STREAM_BATCHES = 256


async def source(batch: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(memoryview(batch))  # a new one each time, as from a socket


class Passing:
    """Gives back what it gets, and notes in which thread."""

    def __init__(self) -> None:
        self.threads: list[bool] = []
        self.taken = threading.Semaphore(0)

    def feed(self, piece: Piece) -> Iterator[Piece]:
        self.threads.append(threading.current_thread() is threading.main_thread())
        self.taken.release()
        yield bytes(piece)

    def drain(self) -> Iterator[Piece]:
        yield b"end"


@pytest.mark.parametrize("kind", KINDS)
async def test_memory_does_not_grow_with_the_stream(kind: str) -> None:
    """256 MiB are encoded twice with one salt: for the table, and to be read by it."""
    made = shape(kind)
    batch = making.text(BATCH_BYTES + 999) if made.compressed else noise(BATCH_BYTES + 999)
    size = len(batch) * STREAM_BATCHES
    tracemalloc.start()
    try:
        first = again(made, batch)
        stored_bytes = sum([len(piece) async for piece in first])
        assert first.segment.size_bytes == size > 2**28
        table = making.table([first.segment])
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX_BYTES
        tracemalloc.reset_peak()

        @asynccontextmanager
        async def fetch(start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
            assert (start, stop) == (0, stored_bytes)
            yield aiter(again(made, batch))

        reader = Reader.of(fetch, table, shape=made)
        assert sum([len(piece) async for piece in reader.read()]) == size
        # Two streams at once, one that writes and one that reads.
        assert tracemalloc.get_traced_memory()[1] < 2 * MEMORY_MAX_BYTES
    finally:
        tracemalloc.stop()


def again(made: Shape, batch: bytes) -> encode.Encoded:
    """An attempt whose salt is that of every other: only here, to read what is not kept."""
    stream = encoded(source(batch, STREAM_BATCHES), made)
    encoder = encode.SegmentEncoder(made, random=bytes)
    stream._encoder, stream._pieces = encoder, pumped(source(batch, STREAM_BATCHES), encoder)
    return stream


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 5 * BATCH_BYTES])
async def test_large_work_is_done_in_a_thread_and_small_work_at_once(size: int) -> None:
    stage = Passing()
    found = b"".join([piece async for piece in pumped(source(bytes(size), 1), stage)])
    assert found == bytes(size) + b"end"
    assert set(stage.threads) <= {size <= INLINE_BYTES}


async def test_a_large_piece_is_worked_on_in_batches() -> None:
    pieces = [piece async for piece in pumped(source(bytes(10 * BATCH_BYTES + 7), 1), Passing())]
    assert {len(piece) for piece in pieces} == {BATCH_BYTES, 7 + len(b"end")}


async def test_the_next_batch_is_worked_on_while_the_caller_has_the_last() -> None:
    stage = Passing()
    pieces = pumped(source(bytes(BATCH_BYTES), 5), stage)
    for _ in range(3):
        await anext(pieces)
        assert await asyncio.to_thread(stage.taken.acquire, timeout=30)
    assert await asyncio.to_thread(stage.taken.acquire, timeout=30)  # the fourth, unasked
    await pieces.aclose()
    assert len(stage.threads) == 4


async def test_an_error_of_the_source_arrives() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(3 * BATCH_BYTES)
        raise Unavailable("connection reset")

    with pytest.raises(Unavailable):
        _ = [piece async for piece in pumped(broken(), Passing())]


async def test_an_error_of_the_stage_arrives_once_and_nothing_after_it() -> None:
    class Failing(Passing):
        def feed(self, piece: Piece) -> Iterator[Piece]:
            if len(self.threads) == 2:
                raise IntegrityError("a frame does not verify")
            return super().feed(piece)

    found = []
    with pytest.raises(IntegrityError):
        async for piece in pumped(source(bytes(BATCH_BYTES), 9), Failing()):
            found.append(piece)
    assert len(found) == 2


async def test_a_caller_that_leaves_while_the_stage_fails_hears_nothing() -> None:
    class Failing(Passing):
        def feed(self, piece: Piece) -> Iterator[Piece]:
            if self.threads:
                self.taken.release()
                raise IntegrityError("a frame does not verify")
            return super().feed(piece)

    stage = Failing()
    pieces = pumped(source(bytes(BATCH_BYTES), 9), stage)
    await anext(pieces)
    for _ in range(2):
        assert await asyncio.to_thread(stage.taken.acquire, timeout=30)
    await pieces.aclose()


async def test_a_stream_that_is_left_early_has_no_segment() -> None:
    stream = encoded(source(bytes(BATCH_BYTES), 9), shape("encrypted"))
    async for _ in stream:
        break
    await stream.aclose()
    with pytest.raises(InvalidInput):
        _ = stream.segment
