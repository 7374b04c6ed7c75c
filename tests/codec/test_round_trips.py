"""What is written is read again: whole, in ranges, offline, and by somebody who knows the page."""

import io
from collections.abc import AsyncIterator, Sequence

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from entrepot.codec.blocks import BLOCK_BYTES, pays
from entrepot.codec.decode import Reader
from entrepot.codec.encode import encoded, footer, footer_size, stored_size
from entrepot.codec.footer import Segment, Table
from entrepot.codec.frames import FRAME_BYTES, STORED_BYTES
from entrepot.codec.header import Shape, header_size
from entrepot.errors import InvalidInput
from tests.codec import independent, making
from tests.codec.making import KINDS, Held, noise, opened, read, segment, shape, table, text

EDGES = [0, 1, FRAME_BYTES, 2 * FRAME_BYTES, 16 * FRAME_BYTES, BLOCK_BYTES + FRAME_BYTES]
SIZES = st.one_of(
    st.builds(lambda edge, by: max(0, edge + by), st.sampled_from(EDGES), st.integers(-2, 2)),
    st.integers(0, 3 * BLOCK_BYTES),
)
PARTS = st.lists(
    st.builds(lambda size, body: body(size, seed=size), SIZES, st.sampled_from([noise, text])),
    min_size=1,
    max_size=4,
)
CUTS = st.lists(st.integers(0, 3 * BLOCK_BYTES), max_size=6)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1))
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@settings(max_examples=60)
@given(parts=PARTS, cuts=CUTS, ranges=st.lists(SHARES, max_size=4), piece=st.integers(1000, 2**21))
async def test_what_is_written_is_read(
    kind: str,
    parts: list[bytes],
    cuts: list[int],
    ranges: list[tuple[float, float]],
    piece: int,
) -> None:
    made = shape(kind)
    segments = [
        segment(made, body, part=part, cuts=[cut for cut in cuts if cut < len(body)])
        for part, body in enumerate(parts, start=1)
    ]
    rows = table([row for _, row in segments])
    stored = b"".join([one for one, _ in segments]) + footer(made, rows)
    plaintext = b"".join(parts)

    store = Held(stored, piece=piece)
    reader = await opened(stored, made, fetch=store.fetch)
    assert (reader.table, reader.shape) == (rows, made)
    assert await read(reader) == plaintext
    assert making.decrypted(stored) == plaintext
    assert independent.decode(stored, making.tenant_key) == plaintext
    known = Reader.of(store.fetch, rows, shape=made)
    for shares in ranges:
        start, stop = sorted(round(share * len(plaintext)) for share in shares)
        assert await read(reader, start, stop) == plaintext[start:stop]
        assert await read(known, start, stop) == plaintext[start:stop]
    assert store.closed == len(store.asked)


@kinds
@settings(max_examples=40)
@given(size=SIZES, pieces=st.lists(st.integers(0, 2**20), max_size=8))
@example(size=0, pieces=[])
async def test_a_stream_is_encoded_as_a_whole_is(kind: str, size: int, pieces: list[int]) -> None:
    body = noise(size)

    async def source() -> AsyncIterator[bytes]:
        start = 0
        for piece in pieces:
            yield body[start : start + piece]
            start += piece
        yield body[start:]

    made = shape(kind)
    stream = encoded(source(), made, part_number=7)
    with pytest.raises(InvalidInput):
        _ = stream.segment
    stored = [piece async for piece in stream]
    assert all(stored)
    row = stream.segment
    whole = b"".join(stored) + footer(made, table([row]))
    assert (row.part_number, row.size_bytes, row.stored_bytes) == (7, size, sum(map(len, stored)))
    assert independent.decode(whole, making.tenant_key) == body


@kinds
@given(size=SIZES, checksums=st.dictionaries(st.sampled_from("abc"), st.text("xyz"), max_size=3))
def test_lengths_are_known_beforehand(kind: str, size: int, checksums: dict[str, str]) -> None:
    made = shape(kind)
    stored, row = segment(made, text(size))
    assert stored_size(made, size_bytes=size) == (None if made.compressed else len(stored))
    rows = Table(size, "e" * 32, checksums, (row,))
    lengths = {name: len(value) for name, value in checksums.items()}
    assert footer_size(made, size_bytes=size, checksums=lengths) == len(footer(made, rows))


def test_a_footer_of_many_segments_has_the_length_that_was_said() -> None:
    made = shape("encrypted")
    head = header_size(made)
    rows = [
        Segment(part, 0, head + 16, bytes(16), part.to_bytes(16, "big"))
        for part in range(1, 10_001)
    ]
    written = footer(made, table(rows))
    said = footer_size(
        made, size_bytes=0, etag_bytes=38, checksums={"crc32c": 8}, segments=len(rows)
    )
    assert said == len(written) > 8 * FRAME_BYTES


@pytest.mark.parametrize("edge", EDGES)
@kinds
async def test_ranges_around_edges_against_slices(kind: str, edge: int) -> None:
    made = shape(kind)
    parts = [text(edge, seed=1), noise(edge, seed=2), b"", text(5, seed=3)]
    plaintext = b"".join(parts)
    reader = await opened(making.stored_object(made, *parts), made)
    corners = sorted(
        {
            min(max(place + by, 0), len(plaintext))
            for place in (0, FRAME_BYTES, BLOCK_BYTES, edge, edge + FRAME_BYTES, 2 * edge)
            for by in (-1, 0, 1)
        }
    )
    for start in corners:
        for stop in corners[corners.index(start) :]:
            assert await read(reader, start, stop) == plaintext[start:stop]


async def test_a_small_object_is_fetched_once_and_a_range_fetches_its_frames_only() -> None:
    made = shape("encrypted")
    small = Held(making.stored_object(made, b"x" * 1000))
    reader = await opened(small.stored, made, fetch=small.fetch)
    assert await read(reader) == b"x" * 1000
    assert await read(reader, 10, 20) == b"x" * 10
    assert small.asked == [(0, len(small.stored))]

    body = noise(10 * FRAME_BYTES)
    large = Held(making.stored_object(made, body))
    reader = await opened(large.stored, made, fetch=large.fetch)
    assert await read(reader, 5 * FRAME_BYTES - 1, 6 * FRAME_BYTES) == body[327679:393216]
    assert await read(reader, 7, 7) == b""
    head = header_size(made)
    expected = (head + 4 * STORED_BYTES, head + 6 * STORED_BYTES)
    assert large.asked == [(len(large.stored) - 65536, len(large.stored)), expected]


async def test_a_footer_longer_than_the_tail_takes_a_second_fetch() -> None:
    made = shape("encrypted")
    parts = [bytes([part % 256]) * (part % 3) for part in range(1500)]
    store = Held(making.stored_object(made, *parts))
    reader = await opened(store.stored, made, fetch=store.fetch)
    assert len(store.asked) == 2 and store.asked[1][1] == store.asked[0][0]
    assert await read(reader) == b"".join(parts)
    assert await read(reader, 700, 703) == b"".join(parts)[700:703]


@pytest.mark.parametrize("bounds", [(-1, 1), (2, 1), (0, 11), (11, 11)])
async def test_a_range_that_is_not_there_is_refused(bounds: tuple[int, int]) -> None:
    made = shape("both")
    reader = await opened(making.stored_object(made, b"0123456789"), made)
    with pytest.raises(InvalidInput):
        reader.read(*bounds)


async def test_a_reader_that_stops_early_closes_what_it_opened() -> None:
    made = shape("encrypted")
    store = Held(making.stored_object(made, noise(5 * BLOCK_BYTES)))
    reader = await opened(store.stored, made, fetch=store.fetch)
    pieces = reader.read()
    first = await anext(pieces)
    await pieces.aclose()
    assert 0 < len(first) < 3 * BLOCK_BYTES
    assert store.closed == len(store.asked) == 2


@pytest.mark.parametrize("parts", [(b"",), (text(3 * BLOCK_BYTES + 7),), (b"a", b"", noise(9999))])
def test_what_is_only_compressed_is_a_stream_of_zstd(parts: Sequence[bytes]) -> None:
    stored = making.stored_object(shape("compressed"), *parts)
    zstd = zstandard.ZstdDecompressor()
    with zstd.stream_reader(io.BytesIO(stored), read_across_frames=True) as stream:
        assert stream.read() == b"".join(parts)


def test_what_is_neither_compressed_nor_encrypted_has_no_shape() -> None:
    with pytest.raises(InvalidInput):
        Shape(bytes(16), False, None, b"")


def test_compression_is_for_what_it_makes_smaller() -> None:
    assert pays(text(100_000)) and pays(bytes(1000))
    assert not pays(b"") and not pays(noise(100_000)) and not pays(noise(2**20) + bytes(2**24))
