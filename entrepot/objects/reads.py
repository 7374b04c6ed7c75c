"""One read: by exact version id where the catalog is there, by the store's word where it is not.

With the catalog out of reach a key's current version is the store's, which has our times and so in
nearly every case the same answer; the caller is told that it is not certain.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import ObjectRow
from entrepot.catalog.objects.read import get_version
from entrepot.catalog.states import BucketMode
from entrepot.clock import derived_id
from entrepot.codec.seal import METADATA_NAME as SEAL
from entrepot.errors import DeleteMarker, IntegrityError, InvalidInput, NotFound
from entrepot.objects.bodies import reader_of
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import Ground
from entrepot.objects.marks import to_json, unmarked
from entrepot.objects.names import shown_key, stored_key
from entrepot.stamp import Stamp
from entrepot.store.marks import mark_of
from entrepot.store.protocol import Version


@dataclass(frozen=True, slots=True)
class Opened:
    """An object open for reading: plaintext ``start`` to before ``stop``, to be iterated once.

    ``is_certain`` is False where the catalog could not be asked.
    """

    row: ObjectRow
    start: int
    stop: int
    pieces: AsyncIterator[bytes]
    is_certain: bool = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.pieces

    async def read(self) -> bytes:
        """All of it; for objects known to be small."""
        return b"".join([piece async for piece in self.pieces])


async def find(ground: Ground, bucket: Bucket, key: str, version_id: str | None) -> ObjectRow:
    """The row of a version, of the newest by default; ``NotFound``, ``DeleteMarker``."""
    where = {"bucket": bucket.name, "key": key}
    if version_id is None:
        row = await ground.lookups.submit((bucket.id, key))
    else:
        row = await get_version(ground.catalog, bucket_id=bucket.id, key=key, version_id=version_id)
    if row is None:
        raise NotFound("no such object" if version_id is None else "no such version", **where)
    if row.is_delete_marker:
        raise DeleteMarker("the object was deleted", version=row.version_id, **where)
    return row


@asynccontextmanager
async def opened(
    ground: Ground,
    bucket: Bucket,
    row: ObjectRow,
    *,
    start: int = 0,
    stop: int | None = None,
    condition: Condition | None = None,
    is_certain: bool = True,
) -> AsyncGenerator[Opened, None]:
    """Open a version; ``stop`` past the end is the end, a range without a byte ``InvalidInput``."""
    if condition:
        condition.check_read(row)
    end = row.size_bytes if stop is None else min(stop, row.size_bytes)
    if (start or stop is not None) and not 0 <= start < end:
        raise InvalidInput("a range has no byte", start=start, size_bytes=row.size_bytes)
    place = bucket.name, stored_key(row.key)
    async with AsyncExitStack() as stack:
        if row.seal:
            reader = await reader_of(
                ground.store, ground.ring, tenant=bucket.tenant_id, place=place, row=row
            )
            # Frames vouch for themselves and for their place: an MD5 would find no more, and costs
            # more than decompressing.
            pieces = reader.read(start, end, digest=False)
            stack.push_async_callback(pieces.aclose)
            yield Opened(row, start, end, pieces, is_certain)
            return
        if row.size_bytes == 0:
            yield Opened(row, 0, 0, _nothing(), is_certain)
            return
        until = None if start == 0 and end == row.size_bytes else end
        body = await stack.enter_async_context(
            ground.store.get(*place, version_id=row.version_id, start=start, stop=until)
        )
        pieces = _whole(aiter(body), end - start, key=row.key)
        yield Opened(row, start, end, pieces, is_certain)


async def _whole(
    pieces: AsyncIterator[bytes], size_bytes: int, *, key: str
) -> AsyncGenerator[bytes, None]:
    """The pieces; an error where the store says that it gave all and it is another length."""
    came = 0
    async for piece in pieces:
        came += len(piece)
        yield piece
    if came != size_bytes:
        raise IntegrityError("the object has another length", key=key, said=size_bytes, came=came)


async def _nothing() -> AsyncGenerator[bytes, None]:
    for _ in ():
        yield b""


async def find_in_store(
    ground: Ground,
    bucket: Bucket,
    key: str,
    version_id: str | None,
    *,
    mtime_ms: int | None = None,
) -> ObjectRow:
    """The row as the store alone knows it: for adopted buckets, and without the catalog.

    ``mtime_ms`` is the version's time from a listing; a look at it knows whole seconds only.
    """
    version = await ground.store.head(bucket.name, stored_key(key), version_id=version_id)
    if mtime_ms is not None:
        version = replace(version, mtime_ms=mtime_ms)
    return await read_in_store(ground, bucket, version)


async def read_in_store(ground: Ground, bucket: Bucket, version: Version) -> ObjectRow:
    """The same of a version whose attributes are known."""
    row = row_of(ground.site, bucket, version)
    if not row.seal:
        return row
    reader = await reader_of(
        ground.store,
        ground.ring,
        tenant=bucket.tenant_id,
        place=(bucket.name, version.key),
        row=row,
    )
    table = reader.table
    sums = {"checksums": dict(table.checksums)} if table.checksums else {}
    return replace(
        row,
        size_bytes=table.size_bytes,
        etag=table.etag,
        attributes={**row.attributes, **sums},
    )


def row_of(site: str, bucket: Bucket, version: Version) -> ObjectRow:
    """A stored version as a row: with its mark's stamp, else one derived from its time.

    A derived stamp has a writer ``store-…``. That and its write id follow from the version, so they
    are the same whoever looks, and two versions of one millisecond differ. Size and ETag are those
    of the stored bytes. In a managed bucket a seal counts on a copy too: who copied it by another
    tool copied encoded bytes, which must not pass for plaintext.
    """
    mark = mark_of(version)
    attributes = unmarked(version.attributes)
    sealed = (version.attributes.metadata if version.attributes else {}).get(SEAL, "")
    write_id = derived_id(bucket.name, version.key, version.version_id)
    return ObjectRow(
        bucket_id=bucket.id,
        key=shown_key(version.key),
        version_id=version.version_id,
        stamp=mark.stamp if mark else Stamp(version.mtime_ms, site, f"store-{write_id.hex[:8]}"),
        write_id=mark.write_id if mark else write_id,
        parent=mark.parent if mark else None,
        is_delete_marker=version.is_delete_marker,
        size_bytes=version.size_bytes,
        stored_bytes=version.size_bytes,
        etag=version.etag,
        seal=sealed if mark or bucket.mode is BucketMode.MANAGED else "",
        attributes=to_json(attributes),
    )
