"""Objects for the tests: made in memory by the encoder, read through a store that is a string."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import md5, shake_256
from io import BytesIO
from itertools import pairwise
from random import Random

from entrepot.clock import new_bytes
from entrepot.codec.decode import Fetch, Reader
from entrepot.codec.encode import SegmentEncoder, Shape, footer
from entrepot.codec.footer import Segment, Table
from entrepot.codec.offline import decrypt_file
from entrepot.codec.primitives import Random as Source
from entrepot.codec.seal import new_data_id, new_data_key, seal_for_object
from entrepot.errors import NotFound

TENANT, KEY_NUMBER, TENANT_KEY = "acme", 3, bytes(range(32))
KINDS = {"compressed": (True, False), "encrypted": (False, True), "both": (True, True)}
"""Compressed, encrypted. The fourth combination is stored as it came: no shape can say it."""


def shape(kind: str, *, random: Source = new_bytes) -> Shape:
    compressed, encrypted = KINDS[kind]
    if not encrypted:
        return Shape(new_data_id(random), compressed, None, b"")
    key = new_data_key(tenant=TENANT, key_number=KEY_NUMBER, random=random)
    sealed = seal_for_object(key, tenant_key=TENANT_KEY, random=random)
    return Shape(key.data_id, compressed, key, sealed)


def segment(
    made: Shape,
    plaintext: bytes,
    *,
    part: int = 1,
    cuts: Sequence[int] = (),
    random: Source = new_bytes,
) -> tuple[bytes, Segment]:
    """Stored bytes and row of one segment, its plaintext handed over in pieces."""
    encoder = SegmentEncoder(made, part_number=part, random=random)
    bounds = [0, *sorted(cuts), len(plaintext)]
    pieces = (plaintext[start:stop] for start, stop in pairwise(bounds))
    stored = b"".join([*map(encoder.update, pieces), encoder.finish()])
    return stored, encoder.segment


def table(rows: Sequence[Segment]) -> Table:
    digests = b"".join(row.md5 for row in rows)
    etag = f"{md5(digests).hexdigest()}-{len(rows)}"
    return Table(sum(row.size_bytes for row in rows), etag, {"crc32c": "yZRlqg=="}, tuple(rows))


def stored_object(made: Shape, *parts: bytes, random: Source = new_bytes) -> bytes:
    """The whole object, one segment a part."""
    made_of = [
        segment(made, plaintext, part=part, random=random)
        for part, plaintext in enumerate(parts, start=1)
    ]
    rows = table([row for _, row in made_of])
    return b"".join([stored for stored, _ in made_of]) + footer(made, rows, random=random)


class Held:
    """A store of one object that notes what is asked of it; pieces have at most ``piece`` bytes."""

    def __init__(self, stored: bytes, *, piece: int = 100_000) -> None:
        self.stored = stored
        self.piece = piece
        self.asked: list[tuple[int, int]] = []
        self.closed = 0

    @asynccontextmanager
    async def fetch(self, start: int, stop: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        self.asked.append((start, stop))

        async def body() -> AsyncGenerator[bytes, None]:
            for at in range(start, min(stop, len(self.stored)), self.piece):
                yield self.stored[at : min(at + self.piece, stop)]

        try:
            yield body()
        finally:
            self.closed += 1


async def opened(stored: bytes, made: Shape, *, fetch: Fetch | None = None) -> Reader:
    return await Reader.open(
        fetch or Held(stored).fetch,
        stored_bytes=len(stored),
        data_key=made.data_key,
        data_id=made.data_id,
        compressed=made.compressed,
    )


async def read(reader: Reader, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([piece async for piece in reader.read(start, stop, digest=False)])


def tenant_key(tenant: str, number: int) -> bytes:
    if (tenant, number) != (TENANT, KEY_NUMBER):
        raise NotFound("no such key", tenant=tenant, key_number=number)
    return TENANT_KEY


def decrypted(stored: bytes) -> bytes:
    """What ``decrypt_file`` makes of it."""
    target = BytesIO()
    decrypt_file(BytesIO(stored), target, tenant_key=tenant_key)
    return target.getvalue()


def noise(size: int, *, seed: object = 0) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return Random(repr(seed)).randbytes(size)


def text(size: int, *, seed: object = 0) -> bytes:
    """Bytes that compress, but not to nothing."""
    word = noise(251, seed=seed)
    return (word * (size // 251 + 1))[:size]


def counting(name: str) -> Source:
    """Bytes that follow from ``name`` and how often they were asked for."""
    count = 0

    def random(size: int) -> bytes:
        nonlocal count
        count += 1
        return shake_256(f"{name} {count}".encode()).digest(size)

    return random
