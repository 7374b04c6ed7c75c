"""Multipart uploads of managed buckets.

Each of the client's parts is a part of an upload of the backend; where the bucket is encrypted it
is one segment of the codec, under the upload's data key and a salt of its own for each attempt.
The codec's footer comes last. It is a part of its own, behind the client's last one, unless that
one is smaller than S3 lets a part be that is not the last, or has the last number there is: such a
part waits in a spool and goes up at the end, with the footer behind it.

Parts are never compressed: they would end below S3's 5 MiB. The upload's id is the write's id and
the version's, so completing twice gives the same version.

Words: *spool* a place in the site's internal bucket, for parts that must wait.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from entrepot.catalog.buckets import Bucket
from entrepot.catalog.objects.facts import ObjectRow, WriteKind
from entrepot.catalog.objects.intents import drop
from entrepot.catalog.objects.read import get_version
from entrepot.catalog.objects.uploads import (
    Upload,
    UploadPart,
    end_upload,
    get_upload,
    list_parts,
    save_part,
    start_upload,
)
from entrepot.clock import new_id
from entrepot.codec.encode import Segment, Shape, Table, encoded, footer, stored_size
from entrepot.codec.seal import Seal
from entrepot.errors import InvalidInput, LimitExceeded, NotFound, PartTooSmall, WrongPart
from entrepot.objects.bodies import Digest, Summed, checked, data_key_of, new_shape
from entrepot.objects.conditions import Condition
from entrepot.objects.ground import Ground
from entrepot.objects.internal import has_internal
from entrepot.objects.leftovers import expected_upload
from entrepot.objects.marks import from_json, marked, to_json
from entrepot.objects.names import stored_key
from entrepot.objects.settle import Outcome
from entrepot.objects.writes import Wish, end, give_up, intend
from entrepot.stamp import Stamp
from entrepot.store.internal import internal_bucket
from entrepot.store.protocol import Capability, Origin, Part, Source

PART_MIN_BYTES = 5 << 20
"""S3's least size of a part that is not the last."""
PART_MAX_BYTES = 5 << 30
NUMBER_MAX = 10_000


async def start(ground: Ground, bucket: Bucket, key: str, *, wish: Wish) -> UUID:
    """Begin an upload; its id."""
    upload_id = new_id()
    details: dict[str, Any] = {"kept": to_json(wish.attributes), "actor": wish.actor}
    seal = ""
    if bucket.encrypted:
        shape, seal = await new_shape(
            ground.ring, tenant=bucket.tenant_id, place=(bucket.name, key), compressed=False
        )
        details |= {"seal": seal, "sealed": b64encode(shape.sealed).decode()}
    stamp = Stamp(0, ground.site, ground.writer)  # its time is known at the end
    attributes = marked(wish.attributes, stamp, upload_id, parent=None, seal=seal)
    async with expected_upload(ground, bucket, key, str(upload_id)):
        begun = await ground.store.start(
            bucket.name,
            stored_key(key),
            attributes=attributes,
            origin=Origin(str(upload_id), ground.hybrid.wall_ms()),
        )
        await start_upload(
            ground.catalog,
            upload_id=upload_id,
            bucket_id=bucket.id,
            key=key,
            store_upload_id=begun,
            details=details,
        )
    return upload_id


async def put_part(
    ground: Ground,
    bucket: Bucket,
    key: str,
    upload_id: UUID,
    *,
    number: int,
    source: Source,
    size_bytes: int | None = None,
    checksums: Mapping[str, str] | None = None,
) -> UploadPart:
    """Store a part; again with the same number replaces it. A stream needs its size."""
    size = len(source) if isinstance(source, bytes) else size_bytes
    if size is None:
        raise InvalidInput("a streamed part needs its size")
    if not 1 <= number <= NUMBER_MAX or size > PART_MAX_BYTES:
        raise InvalidInput("parts are numbered 1 to 10,000 and have at most 5 GiB", number=number)
    upload = await get_upload(ground.catalog, upload_id=upload_id, bucket_id=bucket.id, key=key)
    shape = await _shape(ground, bucket, upload)
    digest = Digest(checksums or {}, size_bytes=size, md5=shape is None)
    if shape is None:
        part = await _send(
            ground, bucket, upload, number, pieces=checked(source, digest), size=size
        )
        details: dict[str, Any] = {"part": part.etag, "stored": size}
    else:
        body = encoded(checked(source, digest), shape, part_number=number)
        length = stored_size(shape, size_bytes=size)
        assert length is not None  # parts are not compressed
        waits = size < PART_MIN_BYTES or number == NUMBER_MAX
        try:
            if waits:
                await _spool(ground, upload, number, aiter(body), length)
                part = Part(number, "")
            else:
                part = await _send(ground, bucket, upload, number, pieces=aiter(body), size=length)
        finally:
            await body.aclose()
        digest.take(body.segment.md5)
        details = {"part": part.etag, "waits": waits, **_segment_json(body.segment)}
    return await save_part(
        ground.catalog,
        upload_id,
        number=number,
        size_bytes=size,
        etag=digest.etag,
        details=details,
    )


async def _send(
    ground: Ground,
    bucket: Bucket,
    upload: Upload,
    number: int,
    *,
    pieces: AsyncIterator[bytes],
    size: int,
) -> Part:
    summed = Summed(pieces)
    return await ground.store.part(
        bucket.name,
        stored_key(upload.key),
        upload.store_upload_id,
        number,
        aiter(summed),
        size_bytes=size,
        crc32c=(lambda: summed.crc32c) if Capability.TRAILER in ground.capabilities else None,
    )


async def _spool(
    ground: Ground, upload: Upload, number: int, pieces: AsyncIterator[bytes], size: int
) -> None:
    await ground.store.put(
        await has_internal(ground), _waiting(upload.upload_id, number), pieces, size_bytes=size
    )


def _waiting(upload_id: UUID, number: int) -> str:
    return f"spool/{upload_id}/{number}"


async def parts(
    ground: Ground, bucket: Bucket, key: str, upload_id: UUID, *, after: int = 0, most: int = 1000
) -> Sequence[UploadPart]:
    """A page of parts, by number."""
    await get_upload(ground.catalog, upload_id=upload_id, bucket_id=bucket.id, key=key)
    return await list_parts(ground.catalog, upload_id, after=after, most=most)


async def complete(
    ground: Ground,
    bucket: Bucket,
    key: str,
    upload_id: UUID,
    named: Sequence[tuple[int, str]],
    *,
    condition: Condition | None = None,
    actor: str = "",
) -> ObjectRow:
    """Make an object of the parts (number, ETag); again gives the same version."""
    try:
        upload = await get_upload(ground.catalog, upload_id=upload_id, bucket_id=bucket.id, key=key)
    except NotFound:
        done = await get_version(
            ground.catalog, bucket_id=bucket.id, key=key, version_id=str(upload_id)
        )
        if done is None:
            raise
        return done
    if done := await _completed(ground, bucket, upload):
        return done
    found = {part.number: part for part in await list_parts(ground.catalog, upload_id)}
    chosen = _chosen(found, named)
    whole = _Whole.of(chosen)
    kept = {**upload.details["kept"], "parts": whole.layout}
    wish = Wish(from_json(kept), condition or Condition(), actor=actor or upload.details["actor"])
    details = {"kept": kept, "etag": whole.etag}
    intent = await intend(
        ground, bucket, key, WriteKind.COMPLETE, wish=wish, details=details, write_id=upload_id
    )
    try:
        backend, stored_bytes = await _backend_parts(ground, bucket, upload, chosen, whole)
        await ground.store.complete(
            bucket.name,
            stored_key(key),
            upload.store_upload_id,
            backend,
            origin=Origin(intent.version_id, intent.stamp.time_ms),
        )
    except BaseException as error:
        if isinstance(error, NotFound) and (done := await _completed(ground, bucket, upload)):
            ground.under_way.discard(intent.write_id)
            await drop(ground.catalog, [intent.write_id])
            return done
        await give_up(ground, bucket, intent, error)
        raise
    outcome = Outcome(
        whole.size_bytes, stored_bytes, whole.etag, upload.details.get("seal", ""), kept
    )
    row = await end(ground, bucket, intent, outcome)
    await clean(ground, upload_id)
    return row


async def _completed(ground: Ground, bucket: Bucket, upload: Upload) -> ObjectRow | None:
    """The version that the upload became, where somebody was quicker or died before he cleaned."""
    done = await get_version(
        ground.catalog, bucket_id=bucket.id, key=upload.key, version_id=str(upload.upload_id)
    )
    if done:
        await clean(ground, upload.upload_id)
    return done


async def abort(ground: Ground, bucket: Bucket, key: str, upload_id: UUID) -> None:
    """Drop an upload and its parts; ``NotFound`` where there is none."""
    upload = await get_upload(ground.catalog, upload_id=upload_id, bucket_id=bucket.id, key=key)
    await ground.store.abort(bucket.name, stored_key(key), upload.store_upload_id)
    await clean(ground, upload_id)


async def clean(ground: Ground, upload_id: UUID) -> None:
    """Forget an upload that is over, and its parts that waited."""
    for part in await list_parts(ground.catalog, upload_id):
        if part.details.get("waits"):
            waiting = _waiting(upload_id, part.number)
            await ground.store.delete(internal_bucket(ground.site), waiting)
    await end_upload(ground.catalog, upload_id)


@dataclass(frozen=True, slots=True)
class _Whole:
    """What the chosen parts come to. ``layout`` is (size, how many in a row), for reads by part."""

    size_bytes: int
    etag: str
    layout: list[list[int]]

    @classmethod
    def of(cls, chosen: Sequence[UploadPart]) -> "_Whole":
        digests = b"".join(bytes.fromhex(part.etag) for part in chosen)
        md5 = hashlib.md5(digests, usedforsecurity=False).hexdigest()
        runs = groupby(part.size_bytes for part in chosen)
        layout = [[size, len(list(run))] for size, run in runs]
        return cls(sum(part.size_bytes for part in chosen), f"{md5}-{len(chosen)}", layout)


def _chosen(found: Mapping[int, UploadPart], named: Sequence[tuple[int, str]]) -> list[UploadPart]:
    """The parts that were named, as S3 checks them."""
    if not named:
        raise InvalidInput("an upload is completed with one part at least")
    if len(named) > NUMBER_MAX:
        raise LimitExceeded("an upload has at most 10,000 parts", count=len(named))
    numbers = [number for number, _ in named]
    if numbers != sorted(set(numbers)):
        raise WrongPart("parts are named in ascending order, each once")
    chosen = []
    for number, etag in named:
        part = found.get(number)
        if part is None or part.etag != etag.strip('"'):
            raise WrongPart("there is no such part", number=number, etag=etag)
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size_bytes < PART_MIN_BYTES:
            raise PartTooSmall(
                "a part that is not the last has less than 5 MiB", number=part.number
            )
    return chosen


async def _backend_parts(
    ground: Ground,
    bucket: Bucket,
    upload: Upload,
    chosen: Sequence[UploadPart],
    whole: _Whole,
) -> tuple[tuple[Part, ...], int]:
    """The backend's parts, the footer's too, and their length."""
    stored = sum(part.details["stored"] for part in chosen)
    sent = [Part(part.number, part.details["part"]) for part in chosen]
    shape = await _shape(ground, bucket, upload)
    if shape is None:
        return tuple(sent), stored
    segments = tuple(_segment_of(part) for part in chosen)
    end_bytes = footer(shape, Table(whole.size_bytes, whole.etag, {}, segments))
    last = chosen[-1]
    if last.details["waits"]:
        size = last.details["stored"] + len(end_bytes)
        pieces = _spooled(ground, upload, last.number, end_bytes)
        sent[-1] = await _send(ground, bucket, upload, last.number, pieces=pieces, size=size)
    else:
        number = last.number + 1
        sent.append(
            await _send(ground, bucket, upload, number, pieces=_one(end_bytes), size=len(end_bytes))
        )
    return tuple(sent), stored + len(end_bytes)


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


async def _spooled(
    ground: Ground, upload: Upload, number: int, behind: bytes
) -> AsyncIterator[bytes]:
    async with ground.store.get(
        internal_bucket(ground.site), _waiting(upload.upload_id, number)
    ) as body:
        async for piece in body:
            yield piece
    yield behind


async def _shape(ground: Ground, bucket: Bucket, upload: Upload) -> Shape | None:
    if "seal" not in upload.details:
        return None
    seal = Seal.parse(upload.details["seal"])
    data_key = await data_key_of(
        ground.ring, seal, tenant=bucket.tenant_id, bucket=bucket.name, key=upload.key
    )
    return Shape(seal.data_id, False, data_key, b64decode(upload.details["sealed"]))


def _segment_json(segment: Segment) -> dict[str, Any]:
    return {
        "stored": segment.stored_bytes,
        "md5": segment.md5.hex(),
        "salt": segment.salt.hex(),
    }


def _segment_of(part: UploadPart) -> Segment:
    return Segment(
        part.number,
        part.size_bytes,
        part.details["stored"],
        bytes.fromhex(part.details["md5"]),
        bytes.fromhex(part.details["salt"]),
    )
