"""A stream through a stage that costs CPU time, beside the network.

``pumped`` works in threads, off the event loop, which pays for zstd (3 ms a MiB, without the GIL).
``through`` works where it is called, which is quicker for AES alone (0.3 ms a MiB, in 16 calls that
each give the GIL away and wait for it): reading 64 MiB takes 0.99 of the bare store's rate so, and
0.53 in threads, on two cores.

Invariant: a stage is fed in order and by one thread at a time. While a thread works on one batch,
the caller has the result of the one before, and then the next one is read, in the caller's task.

Memory: one batch that arrives, one that is worked on with its result, one result with the caller,
what the stage holds, and one piece of the source as it came. A batch may expand without limit
(a MiB of zstd frames can hold a GiB), so work stops when 1 MiB of results is there, and goes on
when the caller has taken it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing
from typing import Final, Protocol

from entrepot.codec.primitives import Piece

BATCH_BYTES: Final = 1024 * 1024
"""A block; large enough that the hop to a thread (some 50 µs) is nothing."""

READY_BYTES: Final = BATCH_BYTES * 5 // 4
"""Results that end a piece of work: more than what a batch gives where it does not expand."""

INLINE_BYTES: Final = 64 * 1024
"""Up to this many bytes in all the work takes about as long as the hop, and is done at once."""


class Stage(Protocol):
    """What a stream is put through. Results are made as they are asked for."""

    def feed(self, piece: Piece) -> Iterable[Piece]:
        """Take ``piece``; give what is ready. To be exhausted before the next call."""
        ...

    def drain(self) -> Iterable[Piece]:
        """Nothing more comes: give the rest."""
        ...


Batch = tuple[list[Piece], bool]
"""Pieces, and whether they are the last."""

Work = asyncio.Task[tuple[bytes, bool]]
"""Results of a batch, and whether there may be more of them."""


async def through(source: AsyncIterable[bytes], stage: Stage) -> AsyncGenerator[bytes, None]:
    """What ``stage`` makes of ``source``, on the event loop; none empty.

    Memory: a piece of the source and what the stage makes of it at a time.
    """
    async for piece in source:
        for made in stage.feed(piece):
            if made:
                yield bytes(made)
    for made in stage.drain():
        if made:
            yield bytes(made)


async def pumped(source: AsyncIterable[bytes], stage: Stage) -> AsyncGenerator[bytes, None]:
    """What ``stage`` makes of ``source``, in pieces of about 1 MiB, none empty."""
    results: Iterator[Piece] = iter(())
    working: Work | None = None
    inline = True
    try:
        async with aclosing(_batches(source)) as batches:
            async for pieces, last in batches:
                ready, more = await working if working else (b"", False)
                while more:
                    working = _begun(results)
                    yield ready
                    ready, more = await working
                results = _results(stage, pieces, last=last)
                inline = inline and last and sum(map(len, pieces)) <= INLINE_BYTES
                if inline:
                    ready, more = _made(results)
                working = _begun(results) if more or not inline else None
                del pieces
                if ready:
                    yield ready
                del ready
        while working:
            ready, more = await working
            working = _begun(results) if more else None
            if ready:
                yield ready
    finally:
        if working:  # a thread is not left behind with the stage, nor an error without a reader
            await asyncio.wait([working])
            if not working.cancelled():
                working.exception()


async def _batches(source: AsyncIterable[bytes]) -> AsyncGenerator[Batch, None]:
    held: list[Piece] = []
    held_bytes = 0
    async for piece in source:
        view = memoryview(piece)
        while held_bytes + len(view) >= BATCH_BYTES:
            missing = BATCH_BYTES - held_bytes
            held.append(view[:missing])
            batch, held, held_bytes, view = held, [], 0, view[missing:]
            yield batch, False
        if view:
            held.append(view)
            held_bytes += len(view)
    yield held, True


def _results(stage: Stage, pieces: list[Piece], *, last: bool) -> Iterator[Piece]:
    for piece in pieces:
        yield from stage.feed(piece)
    if last:
        yield from stage.drain()


def _begun(results: Iterator[Piece]) -> Work:
    return asyncio.create_task(asyncio.to_thread(_made, results))


def _made(results: Iterator[Piece]) -> tuple[bytes, bool]:
    """The next results in one piece, and whether there may be more."""
    made: list[Piece] = []
    made_bytes = 0
    for result in results:
        made.append(result)
        made_bytes += len(result)
        if made_bytes > READY_BYTES:
            return b"".join(made), True
    return b"".join(made), False
