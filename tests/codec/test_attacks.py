"""What somebody who can write to the store may do to an object: an error, never wrong bytes."""

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import md5
from io import BytesIO
from itertools import pairwise

import pytest
import zstandard

from entrepot.codec.blocks import BLOCK_BYTES, PACKED_MAX_BYTES
from entrepot.codec.decode import RangeDecoder, Reader
from entrepot.codec.encode import Shape, footer
from entrepot.codec.footer import FOOTER_MAX_BYTES, Segment, Table, stated_size
from entrepot.codec.frames import FRAME_BYTES, STORED_BYTES
from entrepot.codec.header import header, header_size
from entrepot.codec.offline import decrypt_file
from entrepot.errors import EntrepotError, IntegrityError, InvalidInput, LimitExceeded, Unsupported
from tests.codec import making
from tests.codec.making import KINDS, TENANT_KEY, Held, noise, opened, read, segment, shape, text

kinds = pytest.mark.parametrize("kind", KINDS)
encrypted = pytest.mark.parametrize("kind", ["encrypted", "both"])

SMALL = (b"The quick brown fox", b"", b"jumps over the lazy dog")


async def refused(stored: bytes, made: Shape) -> None:
    """Neither a reader nor ``decrypt_file`` take it."""
    with pytest.raises(EntrepotError):
        await read(await opened(stored, made))
    with pytest.raises(EntrepotError):
        making.decrypted(stored)


async def never_wrong(stored: bytes, made: Shape, plaintext: bytes, table: Table) -> None:
    """Every range is an error or right; of a reader that knows the table, so that it gets far."""
    reader = Reader.of(Held(stored).fetch, table, shape=made)
    steps = [*range(0, len(plaintext), max(1, len(plaintext) // 7)), len(plaintext)]
    for start, stop in [*pairwise(steps), (0, len(plaintext))]:
        try:
            assert await read(reader, start, stop) == plaintext[start:stop]
        except EntrepotError:
            continue


@kinds
async def test_every_byte_is_looked_at(kind: str) -> None:
    made = shape(kind)
    stored = making.stored_object(made, *SMALL)
    reader = await opened(stored, made)
    body = sum(row.stored_bytes for row in reader.table.segments)
    ranges = [(0, 5), (3, 19), (18, 20), (19, 42), (20, 42), (0, 42)]
    taken = [RangeDecoder(made, reader.table, *each) for each in ranges]
    for at in range(len(stored)):
        flipped = bytearray(stored)
        flipped[at] ^= 0xFF
        await refused(bytes(flipped), made)
        known = Reader.of(Held(bytes(flipped)).fetch, reader.table, shape=made)
        for (start, stop), needs in zip(ranges, taken, strict=True):
            if at < body and needs.stored_start <= at < needs.stored_stop:
                with pytest.raises(IntegrityError):
                    await read(known, start, stop)
            else:
                assert await read(known, start, stop) == b"".join(SMALL)[start:stop]


@kinds
async def test_every_bit_is_looked_at(kind: str) -> None:
    made = shape(kind)
    stored = making.stored_object(made, SMALL[0])
    for at in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[at // 8] ^= 1 << at % 8
        if kind == "compressed" and at == header_size(made) * 8 + 4 * 8 + 4:
            # The one bit that zstd has no use for (RFC 8878, 3.1.1.1.1.3): the same plaintext.
            assert making.decrypted(bytes(flipped)) == SMALL[0]
            continue
        await refused(bytes(flipped), made)


@kinds
async def test_cut_off_anywhere(kind: str) -> None:
    made = shape(kind)
    stored = making.stored_object(made, *SMALL)
    table = (await opened(stored, made)).table
    body = sum(row.stored_bytes for row in table.segments)
    for size in range(len(stored)):
        await refused(stored[:size], made)
        if size < body:
            await refused(stored[:size] + stored[body:], made)
            await never_wrong(stored[:size], made, b"".join(SMALL), table)


@kinds
async def test_something_added(kind: str) -> None:
    made = shape(kind)
    stored = making.stored_object(made, *SMALL)
    for junk in (b"\0", stored, stored[-200:], header(made, part_number=1, salt=bytes(16))):
        await refused(stored + junk, made)
        await refused(junk + stored, made)
    reader = await opened(stored, made)
    body = sum(row.stored_bytes for row in reader.table.segments)
    await refused(stored[:body] + b"\0" + stored[body:], made)


Attack = Callable[[list[bytes], list[bytes]], list[bytes]]
FRAME_ATTACKS: dict[str, Attack] = {
    "drop the first": lambda mine, _: mine[1:],
    "drop one": lambda mine, _: mine[:1] + mine[2:],
    "drop the last": lambda mine, _: mine[:-1],
    "swap": lambda mine, _: [mine[1], mine[0], *mine[2:]],
    "repeat": lambda mine, _: [mine[0], mine[0], *mine[2:]],
    "repeat and grow": lambda mine, _: [mine[0], *mine],
    "append": lambda mine, _: [*mine, mine[-1]],
    "append an empty end": lambda mine, _: [*mine, bytes(16)],
    "splice the first": lambda mine, other: [other[0], *mine[1:]],
    "splice the middle": lambda mine, other: [mine[0], other[1], *mine[2:]],
    "splice the end": lambda mine, other: [*mine[:-1], other[-1]],
    "all of another": lambda _, other: other,
}


@encrypted
@pytest.mark.parametrize("attack", FRAME_ATTACKS)
@pytest.mark.parametrize("origin", ["object", "segment", "attempt"])
async def test_frames_in_other_places(kind: str, attack: str, origin: str) -> None:
    """The other frames are of another object of the tenant, of the next segment, of a retry."""
    made = shape(kind)
    body = noise(3 * FRAME_BYTES + 5)
    stored, row = segment(made, body)
    other_shape = shape(kind) if origin == "object" else made
    other, _ = segment(other_shape, body, part=2 if origin == "segment" else 1)
    frames, others = (split(each, header_size(made)) for each in (stored, other))
    table = making.table([row])
    end = footer(made, table)
    changed = FRAME_ATTACKS[attack](frames, others)
    attacked = stored[: header_size(made)] + b"".join(changed)
    await refused(attacked + end, made)
    await never_wrong(attacked + end, made, body, table)


def split(stored: bytes, start: int) -> list[bytes]:
    return [stored[at : at + STORED_BYTES] for at in range(start, len(stored), STORED_BYTES)]


@pytest.mark.parametrize("attack", FRAME_ATTACKS)
async def test_zstd_frames_in_other_places(attack: str) -> None:
    """Without encryption the table's checksums find what is in the wrong place, ranges included."""
    made = shape("compressed")
    bodies = [
        b"".join(noise(1000, seed=(name, block)) * 1024 for block in range(4))[
            : 4 * BLOCK_BYTES - 9
        ]
        for name in "ab"
    ]
    (stored, row), (other, other_row) = (segment(made, body) for body in bodies)
    table = making.table([row])
    frames = zstd_frames(made, stored, row)
    changed = FRAME_ATTACKS[attack](frames, zstd_frames(made, other, other_row))
    attacked = stored[: header_size(made)] + b"".join(changed) + footer(made, table)
    await refused(attacked, made)
    await never_wrong(attacked, made, bodies[0], table)


def zstd_frames(made: Shape, stored: bytes, row: Segment) -> list[bytes]:
    frames, start = [], header_size(made)
    for size, _ in struct.iter_unpack(">I4s", row.packed):
        frames.append(stored[start : start + size])
        start += size
    assert start == len(stored)
    return frames


@kinds
@pytest.mark.parametrize("attack", ["drop", "swap", "repeat", "attempt", "reverse"])
async def test_segments_in_other_places(kind: str, attack: str) -> None:
    made = shape(kind)
    bodies = [text(1000, seed=1), text(1000, seed=2), text(1000, seed=3)]
    segments = [segment(made, body, part=part) for part, body in enumerate(bodies, start=1)]
    first, second, third = (stored for stored, _ in segments)
    # An earlier attempt at the same part: other bytes of the same lengths, then the very same.
    earlier, _ = segment(made, text(1000, seed=9), part=2)
    again, _ = segment(made, bodies[1], part=2)
    attacked = {
        "drop": [[first, third]],
        "swap": [[second, first, third]],
        "repeat": [[first, first, third]],
        "attempt": [[first, earlier, third], [first, again, third]],
        "reverse": [[third, second, first]],
    }[attack]
    table = making.table([row for _, row in segments])
    for each in attacked:
        stored = b"".join(each) + footer(made, table)
        await refused(stored, made)
        await never_wrong(stored, made, b"".join(bodies), table)


@kinds
async def test_the_footer_of_another_object(kind: str) -> None:
    made, other = shape(kind), shape(kind)
    mine, theirs = segment(made, b"mine"), segment(other, b"them")
    again = segment(made, b"same")
    for stored, row, of in ((mine[0], theirs[1], other), (mine[0], again[1], made)):
        await refused(stored + footer(of, making.table([row])), made)


@encrypted
async def test_the_wrong_keys(kind: str) -> None:
    made, other = shape(kind), shape(kind)
    stored = making.stored_object(made, *SMALL)
    with pytest.raises(IntegrityError):
        await opened(stored, other)
    with pytest.raises(IntegrityError, match="seal"):
        decrypt_file(BytesIO(stored), BytesIO(), tenant_key=lambda *_: TENANT_KEY[::-1])
    # An object whose seal says less or more was done to it than was.
    for compressed, key in ((not made.compressed, made.data_key), (True, None)):
        with pytest.raises(IntegrityError):
            await read(
                await Reader.open(
                    Held(stored).fetch,
                    stored_bytes=len(stored),
                    data_key=key,
                    data_id=made.data_id,
                    compressed=compressed,
                )
            )


@kinds
def test_another_version_is_said_to_be_unsupported(kind: str) -> None:
    stored = making.stored_object(shape(kind), *SMALL)
    for at, value in ((11, ord("2")), (12, 4), (12, 0x83)):
        with pytest.raises(Unsupported):
            making.decrypted(stored[:at] + bytes([value]) + stored[at + 1 :])


@pytest.mark.parametrize("stored", [b"", b"x", bytes(8), bytes(200), b"EPOF" * 50])
async def test_what_is_no_object(stored: bytes) -> None:
    for kind in KINDS:
        await refused(stored, shape(kind))


LENGTHS = [0, 1, 7, 8, 15, 16, 17, 2**16, 2**31, 2**32 - 1]


@kinds
@pytest.mark.parametrize("length", LENGTHS)
async def test_absurd_lengths_in_header_and_footer(kind: str, length: int) -> None:
    made = shape(kind)
    stored = making.stored_object(made, *SMALL)
    size = int.from_bytes(stored[-8:-4], "big")
    big, little = length.to_bytes(4, "big"), length.to_bytes(4, "little")
    tracemalloc.start()
    try:
        await refused(stored[:4] + little + stored[8:], made)
        await refused(stored[:-8] + big + stored[-4:], made)
        await refused(stored[: -size + 4] + little + stored[-size + 8 :], made)
        if made.data_key:
            await refused(stored[:116] + length.to_bytes(4, "big")[2:] + stored[118:], made)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_a_footer_has_a_largest_length() -> None:
    trailer = struct.pack(">I4s", FOOTER_MAX_BYTES + 1, b"EPOF")
    with pytest.raises(IntegrityError):
        stated_size(trailer, stored_bytes=2**50)


def forged(made: Shape, frame: bytes, size_bytes: int) -> bytes:
    """An object of one block whose table names ``frame``: who knows no key can write one."""
    head = header(made, part_number=1, salt=bytes(16))
    packed = struct.pack(">I4s", len(frame), frame[-4:])
    digest = md5(b"x" * size_bytes).digest()
    row = Segment(1, size_bytes, len(head) + len(frame), digest, bytes(16), packed)
    return head + frame + footer(made, making.table([row]))


def bomb(size_bytes: int, *, stated: bool = True, checksum: bool = True) -> bytes:
    zstd = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=stated)
    return zstd.compress(b"x" * size_bytes)


def lying(size_bytes: int, frame: bytes) -> bytes:
    """``frame`` with a content size of 4 bytes that says something else."""
    assert frame[4] >> 6 == 2
    return frame[:5] + struct.pack("<I", size_bytes) + frame[9:]


BOMBS = {
    "says more": bomb(200 * 2**20),
    "says less than it gives": lying(100_000, bomb(200 * 2**20)),
    "says more than it gives": lying(100_000, bomb(70_000)),
    "says nothing": bomb(200 * 2**20, stated=False),
    "says nothing, the right length": bomb(100_000, stated=False),
    "without checksum": bomb(100_000, checksum=False),
    "two frames": bomb(100_000) + bomb(100_000),
    "a skippable frame": struct.pack("<II", 0x184D2A50, 100_000) + bytes(100),
    "not zstd": noise(1000),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_zstd_frames_that_are_not_of_their_block(name: str) -> None:
    made = shape("compressed")
    assert making.decrypted(forged(made, bomb(100_000), 100_000)) == b"x" * 100_000
    stored = forged(made, BOMBS[name], 100_000)
    tracemalloc.start()
    try:
        await refused(stored, made)
        reader = await opened(stored, made)
        with pytest.raises(IntegrityError):
            await read(reader, 10, 20)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


async def test_zstd_verifies_its_checksum_where_a_range_is_read() -> None:
    """Content and table agree on a checksum that is not that of the content."""
    made = shape("compressed")
    frame = bomb(100_000)
    reader = await opened(forged(made, frame[:-4] + b"oops", 100_000), made)
    with pytest.raises(IntegrityError, match="damaged"):
        await read(reader, 10, 20)


@kinds
async def test_an_md5_that_is_not_that_of_the_plaintext(kind: str) -> None:
    """The last bytes of the segment do not leave before it was compared."""
    made = shape(kind)
    body = noise(3 * BLOCK_BYTES)
    stored, row = segment(made, body)
    stored += footer(made, making.table([replace(row, md5=bytes(16))]))
    reader = await opened(stored, made)
    found = []
    with pytest.raises(IntegrityError, match="MD5"):
        async for piece in reader.read():
            found.append(piece)
    assert b"".join(found) == body[: len(b"".join(found))] != body
    with pytest.raises(IntegrityError, match="MD5"):
        making.decrypted(stored)
    assert await read(reader, 1) == body[1:]
    assert b"".join([piece async for piece in reader.read(digest=False)]) == body


@kinds
def test_a_table_that_no_object_can_have_is_not_written(kind: str) -> None:
    made = shape(kind)
    _, row = segment(made, b"x" * 100)
    table = making.table([row])
    long = struct.pack(">I4s", PACKED_MAX_BYTES + 1, bytes(4))
    rows = [
        *((), (row, row), (replace(row, part_number=0),), (replace(row, part_number=10_001),)),
        *((replace(row, stored_bytes=1),), (replace(row, md5=b""),), (replace(row, salt=b""),)),
        *((replace(row, packed=bytes(16)),), (replace(row, packed=long),)),
        (row, replace(row, part_number=2)),
    ]
    tables = [replace(table, segments=each) for each in rows]
    tables += [replace(table, etag="é"), replace(table, size_bytes=99)]
    tables += [replace(table, checksums={str(n): "" for n in range(256)})]
    tables += [replace(table, checksums={"sha256": "x" * 2000})]
    for each in tables:
        with pytest.raises(InvalidInput):
            footer(made, each)
    assert footer(made, table)


def test_a_footer_that_no_reader_would_take_is_not_written() -> None:
    made = shape("compressed")
    blocks = 1_000_000
    packed = struct.pack(">I4s", 9, bytes(4)) * blocks
    rows = [
        Segment(
            part, blocks * BLOCK_BYTES, header_size(made) + 9 * blocks, bytes(16), bytes(16), packed
        )
        for part in range(1, 10)
    ]
    with pytest.raises(LimitExceeded):
        footer(made, making.table(rows))


async def test_a_store_that_gives_other_bytes_than_asked_for() -> None:
    made = shape("encrypted")
    body = noise(3 * FRAME_BYTES)
    stored = making.stored_object(made, body)
    reader = await opened(stored, made)

    class Other(Held):
        def __init__(self, by: int) -> None:
            super().__init__(stored)
            self.by = by

        def fetch(self, start: int, stop: int):  # type: ignore[no-untyped-def]
            return super().fetch(start, stop + self.by)

    for by in (-1, 1, -STORED_BYTES, FRAME_BYTES):
        with pytest.raises(IntegrityError):
            await read(Reader.of(Other(by).fetch, reader.table, shape=made), 0, 2 * FRAME_BYTES)
        with pytest.raises(IntegrityError):
            await opened(stored[: 2**17], made, fetch=Other(by).fetch)
