"""Stored bytes to plaintext: the whole of an object, or a range of it.

Invariant: a byte leaves here only after what vouches for it was verified: the tag of its frame
where the object is encrypted, the checksum of its zstd frame, by zstd and against the table, where
it is only compressed. Where a segment is read from its start, its header must be the one that
follows from the table; where it is read whole, its MD5 must be the table's before its last bytes
leave (unless the caller waives it). What to ask the store for follows from the table alone.

Words: *range* plaintext from ``start`` to before ``stop``; *span* what of a segment is in a range.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import md5, sha256
from typing import Final, NamedTuple

from entrepot.codec.blocks import BLOCK_BYTES, BlockOpener, packed_sizes
from entrepot.codec.encode import segment_key
from entrepot.codec.footer import TRAILER_BYTES, Segment, Table, read_footer, stated_size
from entrepot.codec.frames import FRAME_BYTES, STORED_BYTES, FrameOpener
from entrepot.codec.header import Shape, header, header_size
from entrepot.codec.primitives import Piece
from entrepot.codec.pump import pumped, through
from entrepot.codec.seal import DataKey
from entrepot.errors import IntegrityError, InvalidInput

Fetch = Callable[[int, int], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens the stored bytes from the first position to before the second."""

TAIL_BYTES: Final = 64 * 1024
"""Asked for first: the footer of 7 GiB compressed or of 1,000 parts, or all of a small object."""


_Stage = Callable[[Piece], Iterator[Piece]]


class _Window:
    """Of a stream, only the bytes from ``start`` to before ``stop``."""

    def __init__(self, start: int, stop: int) -> None:
        self._skip, self._left = start, stop - start

    def feed(self, piece: Piece) -> Iterator[Piece]:
        skipped = min(self._skip, len(piece))
        self._skip -= skipped
        kept = min(self._left, len(piece) - skipped)
        self._left -= kept
        if kept == len(piece):
            yield piece
        elif kept:
            yield memoryview(piece)[skipped : skipped + kept]


class _Span(NamedTuple):
    """Plaintext ``start`` to before ``stop`` of the segment whose stored bytes begin at ``offset``.

    Both are 0 in a segment without plaintext.
    """

    offset: int
    segment: Segment
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Extent:
    """What of a segment a span takes: blocks and frames ``first`` to ``last``, inclusive.

    ``inner`` positions are in what lies under the frames: zstd frames, or the plaintext itself.
    ``stored`` positions are in the segment, header included where the span begins with it.
    """

    first_block: int
    last_block: int
    inner_bytes: int
    inner_start: int
    inner_stop: int
    first_frame: int
    last_frame: int
    stored_start: int
    stored_stop: int


def _extent(shape: Shape, span: _Span) -> _Extent:
    _, segment, start, stop = span
    first_block, last_block = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
    inner_bytes, inner_start, inner_stop = segment.size_bytes, start, stop
    if shape.compressed:
        sizes = list(packed_sizes(segment.packed))
        inner_bytes, inner_start = sum(sizes), sum(sizes[:first_block])
        inner_stop = inner_start + sum(sizes[first_block : last_block + 1])
    first_frame, last_frame = inner_start // FRAME_BYTES, max(0, inner_stop - 1) // FRAME_BYTES
    head_bytes = header_size(shape)
    stored_start, stored_stop = head_bytes + inner_start, head_bytes + inner_stop
    if shape.data_key:
        stored_start = head_bytes + first_frame * STORED_BYTES
        stored_stop = min(head_bytes + (last_frame + 1) * STORED_BYTES, segment.stored_bytes)
    return _Extent(
        first_block,
        last_block,
        inner_bytes,
        inner_start,
        inner_stop,
        first_frame,
        last_frame,
        stored_start if start else 0,
        stored_stop,
    )


class _SpanDecoder:
    """The plaintext of one span, from the stored bytes of its extent."""

    def __init__(self, shape: Shape, span: _Span, *, digest: bool) -> None:
        _, segment, start, stop = span
        extent = _extent(shape, span)
        head = header(shape, part_number=segment.part_number, salt=segment.salt)
        self._segment = segment
        self._head = b"" if start else head
        whole = stop - start == segment.size_bytes
        self._md5 = md5(usedforsecurity=False) if digest and whole else None
        self.left = extent.stored_stop - extent.stored_start
        self._stages: list[_Stage] = []
        if shape.data_key:
            opener = FrameOpener(
                segment_key(shape, salt=segment.salt),
                aad=sha256(head).digest(),
                size_bytes=extent.inner_bytes,
                first=extent.first_frame,
                last=extent.last_frame,
            )
            skipped = extent.first_frame * FRAME_BYTES
            window = _Window(extent.inner_start - skipped, extent.inner_stop - skipped)
            self._stages += [opener.feed, window.feed]
        if shape.compressed:
            unpacker = BlockOpener(
                segment.packed,
                size_bytes=segment.size_bytes,
                first=extent.first_block,
                last=extent.last_block,
            )
            skipped = extent.first_block * BLOCK_BYTES
            self._stages += [unpacker.feed, _Window(start - skipped, stop - skipped).feed]

    def feed(self, piece: memoryview) -> Iterator[Piece]:
        """Plaintext that is ready; the MD5 is compared before the last of it."""
        self.left -= len(piece)
        pieces: Iterator[Piece] = iter([self._behind_head(piece)])
        for stage in self._stages:
            pieces = _through(stage, pieces)
        latest: Piece = b""
        for each in pieces:
            if self._md5:
                self._md5.update(each)
            yield latest
            latest = each
        if self._md5 and not self.left and self._md5.digest() != self._segment.md5:
            part = self._segment.part_number
            raise IntegrityError("the plaintext has not the MD5 of the table", part=part)
        yield latest

    def _behind_head(self, piece: memoryview) -> memoryview:
        common = min(len(self._head), len(piece))
        if piece[:common] != self._head[:common]:
            part = self._segment.part_number
            raise IntegrityError("a header is not that of its segment", part=part)
        self._head = self._head[common:]
        return piece[common:]


def _through(stage: _Stage, pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        yield from stage(piece)


class RangeDecoder:
    """The plaintext from ``start`` to before ``stop``, from its stored bytes, fed in order.

    ``stored_start`` and ``stored_stop`` say which those are; equal where nothing is to be read.
    ``digest``: compare the MD5 of each segment that is read whole. Holds less than a block and a
    frame. ``InvalidInput`` where the object has no such range.
    """

    def __init__(
        self, shape: Shape, table: Table, start: int, stop: int, *, digest: bool = True
    ) -> None:
        if not 0 <= start <= stop <= table.size_bytes:
            raise InvalidInput("no such range", start=start, stop=stop, size_bytes=table.size_bytes)
        self._shape = shape
        spans = [] if start == stop and table.size_bytes else list(_spans(table, start, stop))
        self.stored_start = self.stored_stop = 0
        if spans:
            self.stored_start = spans[0].offset + _extent(shape, spans[0]).stored_start
            self.stored_stop = spans[-1].offset + _extent(shape, spans[-1]).stored_stop
        self._spans = (_SpanDecoder(shape, span, digest=digest) for span in spans)
        self._span = next(self._spans, None)

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """Plaintext that was verified; ``IntegrityError`` of the first that is not as written."""
        view = memoryview(piece)
        while view:
            if self._span is None:
                raise IntegrityError("there are more stored bytes than the table says")
            taken = view[: self._span.left]
            view = view[len(taken) :]
            yield from self._span.feed(taken)
            if not self._span.left:
                self._span = next(self._spans, None)

    def drain(self) -> Iterator[Piece]:
        """Nothing; ``IntegrityError`` where not all of the range came."""
        if self._span is not None:
            raise IntegrityError("there are fewer stored bytes than the table says")
        return iter(())


def _spans(table: Table, start: int, stop: int) -> Iterator[_Span]:
    """What of each segment is in the range; they are neighbours.

    A segment without plaintext is in a range that reaches its place, so that
    reading all of an object also compares its header.
    """
    offset = place = 0
    for segment in table.segments:
        first, last = max(start - place, 0), min(stop - place, segment.size_bytes)
        if first < last or first == last == segment.size_bytes == 0:
            yield _Span(offset, segment, first, last)
        offset += segment.stored_bytes
        place += segment.size_bytes


class Reader:
    """One encoded object, its table verified. Several ranges may be read at a time."""

    def __init__(self, fetch: Fetch, table: Table, *, shape: Shape) -> None:
        self._fetch = fetch
        self.table = table
        self.shape = shape

    @classmethod
    def of(cls, fetch: Fetch, table: Table, *, shape: Shape) -> "Reader":
        """A reader by a table that is known, so that no footer is fetched.

        ``shape`` is that of the write. What is read is verified all the same, against this table.
        """
        return cls(fetch, table, shape=shape)

    @classmethod
    async def open(
        cls,
        fetch: Fetch,
        *,
        stored_bytes: int,
        data_key: DataKey | None,
        data_id: bytes,
        compressed: bool,
    ) -> "Reader":
        """A reader of an object of that many bytes; the rest is what its seal says.

        One fetch of 64 KiB, two where the footer is longer. A smaller object stays in memory and
        is not fetched again. ``IntegrityError`` where the footer is not that of such an object.
        """
        start = max(0, stored_bytes - TAIL_BYTES)
        tail = await _fetched(fetch, start, stored_bytes)
        if len(tail) < TRAILER_BYTES:
            raise IntegrityError("too short to be an encoded object", size_bytes=stored_bytes)
        size_bytes = stated_size(tail[-TRAILER_BYTES:], stored_bytes=stored_bytes)
        footer = tail[-size_bytes:]
        if size_bytes > len(tail):
            footer = await _fetched(fetch, stored_bytes - size_bytes, start) + tail
        read = partial(
            read_footer,
            footer,
            stored_bytes=stored_bytes,
            data_key=data_key,
            data_id=data_id,
            compressed=compressed,
        )
        # A footer longer than a tail has up to 10,000 rows: 50 ms, not for the event loop.
        table, shape = await asyncio.to_thread(read) if size_bytes > TAIL_BYTES else read()
        return cls(fetch if start else _held(tail), table, shape=shape)

    def read(
        self, start: int = 0, stop: int | None = None, *, digest: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """The plaintext from ``start`` to before ``stop`` (the end), in pieces of up to 1 MiB.

        One fetch, of nothing but what holds the range. Decompression works in a thread, while
        the caller takes the piece before and the next bytes arrive. Memory as in ``pump``, with
        a block and a frame: below 12 MiB. ``InvalidInput`` where there is no such range,
        ``IntegrityError`` at the first bytes that are not as they were written.

        ``digest``: compare the MD5 of each segment that is read whole. It takes three quarters of
        the time of reading what is encrypted, and finds nothing there that the tags do not, but
        for a mistake of the writer.
        """
        stop = self.table.size_bytes if stop is None else stop
        return self._read(RangeDecoder(self.shape, self.table, start, stop, digest=digest))

    async def _read(self, decoder: RangeDecoder) -> AsyncGenerator[bytes, None]:
        if decoder.stored_start == decoder.stored_stop:
            return
        work = pumped if self.shape.compressed else through
        async with (
            self._fetch(decoder.stored_start, decoder.stored_stop) as body,
            aclosing(work(body, decoder)) as pieces,
        ):
            async for piece in pieces:
                yield piece


async def _fetched(fetch: Fetch, start: int, stop: int) -> bytes:
    """Exactly these stored bytes; ``IntegrityError`` where there are fewer or more."""
    held = bytearray()
    async with fetch(start, stop) as body:
        async for piece in body:
            held += piece
            if len(held) > stop - start:
                break
    if len(held) != stop - start:
        raise IntegrityError("the store gave other bytes than asked for", start=start, stop=stop)
    return bytes(held)


def _held(stored: bytes) -> Fetch:
    """An object that is in memory already."""

    @asynccontextmanager
    async def fetch(start: int, stop: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        async def body() -> AsyncGenerator[bytes, None]:
            yield stored[start:stop]

        yield body()

    return fetch
