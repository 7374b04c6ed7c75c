"""Between what a client sends and what lies in the bucket, for one version at a time.

Invariant: the last bytes of a body go to the store only after length and checksums were found to
be what was promised, so a damaged body never becomes a version. Memory does not grow with the
object: below 24 MiB a write whose stored length is not known beforehand, else below 8 MiB.

An encoded length that is not known is spooled while it is small, and a multipart upload of the
backend when it is large.
"""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.clock import new_bytes
from entrepot.codec.decode import Fetch, Reader
from entrepot.codec.encode import (
    Encoded,
    Shape,
    Table,
    encoded,
    footer,
    footer_size,
    pays,
    stored_size,
)
from entrepot.codec.keys.ring import KeyRing
from entrepot.codec.pump import INLINE_BYTES
from entrepot.codec.seal import (
    DataKey,
    Flags,
    Seal,
    new_data_id,
    new_data_key,
    open_for_place,
    seal_for_object,
    seal_for_place,
)
from entrepot.crc import crc32c
from entrepot.errors import IntegrityError, InvalidInput, Unsupported
from entrepot.store.protocol import Attributes, Origin, Part, Source, Store, Version

SAMPLE_BYTES = 1 << 20
PART_BYTES = 8 << 20
"""Of a backend upload of unknown length, up to 64 GB; the last 2,000 parts grow past any limit."""
_STEADY_PARTS = 8_000

PUT_MAX_BYTES = 5 << 30
"""What S3 takes in one request."""

_DIGESTS = ("sha256", "sha1")


class Digest:
    """Length, MD5 and the checksums that were promised, of a body as it passes by.

    ``md5`` False: none is taken unless one was promised. Then the encoder's is (``take``), or the
    store's, which it proves by ``crc32c``.
    """

    def __init__(
        self, expected: Mapping[str, str], *, size_bytes: int | None, md5: bool = True
    ) -> None:
        for name in expected:
            if name not in (*_DIGESTS, "crc32", "md5"):
                raise Unsupported("this checksum is not known here", name=name)
        self._expected = expected
        self._promised = size_bytes
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.has_md5 = md5 or "md5" in expected
        self._taken = b""
        self._hashes = {n: hashlib.new(n, usedforsecurity=False) for n in expected if n in _DIGESTS}
        self._crc = 0
        self.size_bytes = 0

    def update(self, piece: bytes) -> None:
        """Take in the next bytes; ``InvalidInput`` where there are more than promised."""
        self.size_bytes += len(piece)
        if self._promised is not None and self.size_bytes > self._promised:
            raise InvalidInput("the body is longer than promised", said=self._promised)
        if self.has_md5:
            self._md5.update(piece)
        for each in self._hashes.values():
            each.update(piece)
        if "crc32" in self._expected:
            self._crc = zlib.crc32(piece, self._crc)

    def take(self, md5: bytes) -> None:
        """The MD5 of all of it, as the encoder found it."""
        self._taken = md5

    def check(self) -> None:
        """``InvalidInput`` for a short body, ``IntegrityError`` for one of other bytes."""
        if self._promised is not None and self.size_bytes != self._promised:
            raise InvalidInput(
                "the body is shorter than promised", said=self._promised, came=self.size_bytes
            )
        for name, value in self.values.items():
            if value != self._expected[name].lower():
                raise IntegrityError("the body has another checksum", name=name, came=value)

    @property
    def md5(self) -> bytes:
        return self._taken or self._md5.digest()

    @property
    def etag(self) -> str:
        return self.md5.hex()

    @property
    def values(self) -> dict[str, str]:
        """The checksums by name, in hexadecimal."""
        found = {name: each.hexdigest() for name, each in self._hashes.items()}
        found |= {"crc32": f"{self._crc:08x}"} if "crc32" in self._expected else {}
        return found | ({"md5": self.etag} if "md5" in self._expected else {})


class Summed:
    """Pieces on their way, and the CRC-32C of those that have passed."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.crc32c = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self.crc32c = crc32c(piece, self.crc32c)
            yield piece


@dataclass(frozen=True, slots=True)
class How:
    """What a bucket wants done to new objects. ``min_size`` is that of compression."""

    tenant: str = ""
    encrypt: bool = False
    compress: bool = False
    min_size: int = 1_000_000


@dataclass(slots=True)
class Incoming:
    """A body on its way in: its digest, and how it will be encoded (``shape`` None: not at all)."""

    source: Source
    size_bytes: int | None
    digest: Digest
    shape: Shape | None = None
    seal: str = ""
    proves: bool = False
    """Whether the store is told the CRC of a stream of known length, and refuses other bytes."""
    crc32c: int = 0
    """Of the stored bytes that were given out."""

    async def stored(self) -> AsyncIterator[bytes]:
        """The bytes that go to the store."""
        async with aclosing(self._stored()) as pieces:
            async for piece in pieces:
                self.crc32c = crc32c(piece, self.crc32c)
                yield piece

    async def _stored(self) -> AsyncGenerator[bytes, None]:
        if self.shape is None:
            async for piece in checked(self.source, self.digest):
                yield piece
            return
        body = encoded(checked(self.source, self.digest), self.shape)
        try:
            async for piece in body:
                yield piece
        finally:
            await body.aclose()
        yield self._footer(self.shape, body)

    def _footer(self, shape: Shape, body: Encoded) -> bytes:
        self.digest.take(body.segment.md5)
        segments = (body.segment,)
        digest = self.digest
        return footer(shape, Table(digest.size_bytes, digest.etag, digest.values, segments))

    @property
    def stored_bytes(self) -> int | None:
        """Their number, where it is known beforehand."""
        if self.shape is None or self.size_bytes is None:
            return self.size_bytes
        if (segment := stored_size(self.shape, size_bytes=self.size_bytes)) is None:
            return None
        lengths = {name: len(value) for name, value in self.digest.values.items()}
        return segment + footer_size(self.shape, size_bytes=self.size_bytes, checksums=lengths)


async def incoming(
    source: Source,
    *,
    size_bytes: int | None,
    expected: Mapping[str, str],
    how: How,
    ring: KeyRing,
    place: tuple[str, str],
    proves: bool = False,
) -> Incoming:
    """Decide how a body is encoded, from the bucket's wish and a sample of it.

    ``proves``: the store does, by a CRC (``Capability.TRAILER``), and its ETag is the MD5.
    """
    if isinstance(source, bytes):
        if size_bytes not in (None, len(source)):
            raise InvalidInput("the body has another size", said=size_bytes, has=len(source))
        size_bytes = len(source)
    compressed = False
    if how.compress and (size_bytes is None or size_bytes >= how.min_size):
        sample, source = await _sampled(source, max(SAMPLE_BYTES, how.min_size))
        compressed = len(sample) >= how.min_size and pays(sample[:SAMPLE_BYTES])
    known = proves and size_bytes is not None and INLINE_BYTES < size_bytes <= PUT_MAX_BYTES
    md5 = not (how.encrypt or compressed or known)
    digest = Digest(expected, size_bytes=size_bytes, md5=md5)
    body = Incoming(source, size_bytes, digest, proves=proves)
    if how.encrypt:
        body.shape, body.seal = await new_shape(
            ring, tenant=how.tenant, place=place, compressed=compressed
        )
    elif compressed:
        data_id = new_data_id(new_bytes)
        body.shape = Shape(data_id, True, None, b"")
        body.seal = Seal(Flags.COMPRESSED, data_id).text()
    return body


async def new_shape(
    ring: KeyRing, *, tenant: str, place: tuple[str, str], compressed: bool
) -> tuple[Shape, str]:
    """How a new encrypted version is encoded, under a data key of its own; and its seal."""
    key = await ring.current(tenant)
    data_key = new_data_key(tenant=tenant, key_number=key.number)
    sealed = seal_for_object(data_key, tenant_key=key.secret)
    seal = seal_for_place(
        data_key, tenant_key=key.secret, bucket=place[0], key=place[1], compressed=compressed
    )
    return Shape(data_key.data_id, compressed, data_key, sealed), seal.text()


async def checked(source: Source, digest: Digest) -> AsyncIterator[bytes]:
    """The plaintext; its last piece comes when all of it was found right."""
    held = b""
    async for piece in _pieces(source):
        if held:
            yield held
        digest.update(piece)
        held = piece
    digest.check()
    if held:
        yield held


async def send(
    store: Store,
    body: Incoming,
    *,
    bucket: str,
    key: str,
    attributes: Attributes,
    origin: Origin | None,
    uploading: AbstractAsyncContextManager[Callable[[str], Awaitable[None]]],
) -> tuple[Version, int]:
    """Put a body into the store, whole or not at all; the version and its length there.

    ``uploading`` is entered around an upload of the backend, and told its id.
    """
    known = body.stored_bytes
    if isinstance(body.source, bytes) and body.shape is None and body.digest.has_md5:
        if len(body.source) > INLINE_BYTES:
            await asyncio.to_thread(body.digest.update, body.source)
        else:
            body.digest.update(body.source)
        body.digest.check()
        how = {"attributes": attributes, "origin": origin, "md5": body.digest.md5}
        return await store.put(bucket, key, body.source, **how), len(body.source)  # type: ignore[arg-type]
    pieces = body.stored()
    if known is not None and known <= PUT_MAX_BYTES:
        is_small = known <= INLINE_BYTES
        version = await store.put(
            bucket,
            key,
            b"".join([piece async for piece in pieces]) if is_small else pieces,
            size_bytes=known,
            attributes=attributes,
            origin=origin,
            crc32c=(lambda: body.crc32c) if body.proves and not is_small else None,
        )
        return version, known
    spool = bytearray()
    async for piece in pieces:
        spool += piece
        if len(spool) > PART_BYTES:
            break
    else:
        version = await store.put(bucket, key, bytes(spool), attributes=attributes, origin=origin)
        return version, len(spool)
    async with uploading as name:
        upload = await store.start(bucket, key, attributes=attributes, origin=origin)
        await name(upload)
        place = bucket, key, upload
        return await _send_parts(store, place, spool, pieces, origin, proves=body.proves)


async def _send_parts(
    store: Store,
    upload: tuple[str, str, str],
    spool: bytearray,
    pieces: AsyncIterator[bytes],
    origin: Origin | None,
    *,
    proves: bool,
) -> tuple[Version, int]:
    parts: list[Part] = []
    total = 0
    try:
        more = True
        while more or spool:
            least = PART_BYTES << max(0, (len(parts) - _STEADY_PARTS) // 200)
            more = await _fill(spool, pieces, least + 1)
            with memoryview(spool) as view:  # a slice of the spool itself would be one copy more
                part = bytes(view[: least if more else len(spool)])
            del spool[: len(part)]
            total += len(part)
            proof = partial(crc32c, part) if proves else None
            parts.append(await store.part(*upload, len(parts) + 1, part, crc32c=proof))
        return await store.complete(*upload, tuple(parts), origin=origin), total
    except BaseException:
        await store.abort(*upload)
        raise


async def _fill(spool: bytearray, pieces: AsyncIterator[bytes], least: int) -> bool:
    """Take in pieces up to ``least`` bytes; False where there are no more."""
    while len(spool) < least:
        piece = await anext(pieces, None)
        if piece is None:
            return False
        spool += piece
    return True


async def _sampled(source: Source, most: int) -> tuple[bytes, Source]:
    """The first bytes of a body, and the body as if nobody had looked."""
    if isinstance(source, bytes):
        return source[:most], source
    seen, size = [], 0
    async for piece in source:
        seen.append(piece)
        size += len(piece)
        if size >= most:
            break

    async def whole() -> AsyncIterator[bytes]:
        for piece in seen:
            yield piece
        async for piece in source:
            yield piece

    return b"".join(seen), whole()


async def _pieces(source: Source) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        if source:
            yield source
        return
    async for piece in source:
        if piece:
            yield piece


def fetch_of(store: Store, bucket: str, key: str, version_id: str | None) -> Fetch:
    """How the codec's reader asks for stored bytes of one version."""

    @asynccontextmanager
    async def fetch(start: int, stop: int) -> AsyncGenerator[AsyncIterator[bytes], None]:
        async with store.get(bucket, key, version_id=version_id, start=start, stop=stop) as body:
            yield aiter(body)

    return fetch


async def data_key_of(
    ring: KeyRing, seal: Seal, *, tenant: str, bucket: str, key: str
) -> DataKey | None:
    """The key of an encoded version; None where it is only compressed."""
    if not seal.encrypted:
        return None
    held = await ring.get(tenant, seal.key_number)
    return open_for_place(seal, tenant=tenant, tenant_key=held.secret, bucket=bucket, key=key)


async def reader_of(
    store: Store, ring: KeyRing, *, tenant: str, place: tuple[str, str], row: ObjectRow
) -> Reader:
    """A reader of an encoded version."""
    seal = Seal.parse(row.seal)
    data_key = await data_key_of(ring, seal, tenant=tenant, bucket=place[0], key=row.key)
    return await Reader.open(
        fetch_of(store, place[0], place[1], row.version_id),
        stored_bytes=row.stored_bytes,
        data_key=data_key,
        data_id=seal.data_id,
        compressed=seal.compressed,
    )
