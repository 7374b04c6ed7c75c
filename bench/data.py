"""The data that every tool gets: made from its name alone, put there fast, checked afterwards.

Contents are SHAKE-256 of the key and a salt, so the same command makes the same bytes anywhere.
Small objects arrive as tar batches that the server unpacks, with version id and time chosen here:
two sites seeded with one batch are in step in every respect. The check lists both sites with
another client than ours and compares keys, sizes and ETags, so that a tool which did nothing
cannot win.

Words: *dataset* a number of objects of one size; *site* a server with its clients.
"""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from obstore.store import S3Store
from urllib3 import PoolManager

from bench.measure import MIB, Endpoint
from entrepot.errors import IntegrityError

BASE_MTIME_S = 1_750_000_000
"""June 2025: in the past everywhere, so that no server treats a seeded version as from the
future."""

BATCH = 5_000
"""Entries a tar: 20 MB for the smallest objects, 50 MB for those of 8 KiB."""

TAR_MAX_BYTES = 64 * 1024
"""Larger objects are put one by one; the server would unpack them one after the other."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """``count`` objects of ``size_bytes`` each."""

    count: int
    size_bytes: int

    def key(self, index: int) -> str:
        """A path of one to three levels, as applications write them."""
        digest = hashlib.shake_128(f"key {index}".encode()).hexdigest(6)
        match index % 3:
            case 0:
                return f"images/{digest[:2]}/{digest}-{index:06d}.jpg"
            case 1:
                return f"logs/2025/{index % 12 + 1:02d}/{digest}-{index:06d}.json"
            case _:
                return f"d{index % 64:02d}/{digest}-{index:06d}"

    def body(self, index: int, *, salt: str = "") -> bytes:
        """The bytes of object ``index``; ``salt`` makes another version of them."""
        head = f"{salt} {index} ".encode()
        if self.size_bytes <= TAR_MAX_BYTES:
            return hashlib.shake_256(head).digest(self.size_bytes)
        return (head + _block(self.size_bytes))[: self.size_bytes]

    def version_id(self, index: int) -> str:
        digest = hashlib.shake_128(f"version {index}".encode()).digest(16)
        return str(UUID(bytes=digest, version=4))


class Entry(NamedTuple):
    """One object as the independent client lists it."""

    key: str
    size_bytes: int
    etag: str
    mtime: datetime


Held = tuple[list[Entry], list[Entry]]
"""What the source and what the target hold; equal before and after where nothing was written."""


@lru_cache(maxsize=1)
def _block(size_bytes: int) -> bytes:
    return hashlib.shake_256(b"block").digest(size_bytes)


def client(endpoint: Endpoint, *, http_client: PoolManager | None = None) -> Minio:
    """A client for buckets and tar batches; by default with ten connections."""
    return Minio(
        endpoint.url.removeprefix("http://"),
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        region=endpoint.region,
        secure=False,
        http_client=http_client,
    )


def store(endpoint: Endpoint, bucket: str) -> S3Store:
    """The independent client: listing, and objects too large for a tar."""
    return S3Store(
        bucket,
        endpoint=endpoint.url,
        access_key_id=endpoint.access_key,
        secret_access_key=endpoint.secret_key,
        region=endpoint.region,
        unsigned_payload=True,
        client_options={"allow_http": True, "timeout": "300s"},
    )


def create(endpoint: Endpoint, bucket: str) -> None:
    """An empty versioned bucket."""
    minio = client(endpoint)
    minio.make_bucket(bucket)
    minio.set_bucket_versioning(bucket, VersioningConfig(ENABLED))


def seed(dataset: Dataset, endpoints: Sequence[Endpoint], buckets: Sequence[str]) -> None:
    """Put the whole dataset into each bucket on each endpoint."""
    places = [(endpoint, bucket) for endpoint in endpoints for bucket in buckets]
    if dataset.size_bytes > TAR_MAX_BYTES:
        for endpoint, bucket in places:
            put(dataset, endpoint, bucket, range(dataset.count))
        return
    for start in range(0, dataset.count, BATCH):
        batch = _tar(dataset, range(start, min(start + BATCH, dataset.count)))
        for endpoint, bucket in places:
            client(endpoint).put_object(
                bucket,
                f"batch-{start}.tar",
                io.BytesIO(batch),
                len(batch),
                part_size=max(5 * MIB, len(batch)),
                metadata={"X-Amz-Meta-Snowball-Auto-Extract": "true"},
            )


def put(
    dataset: Dataset, endpoint: Endpoint, bucket: str, indexes: Sequence[int], *, salt: str = ""
) -> None:
    """Put single objects with an ordinary PUT each: the server mints ids and times."""
    target = store(endpoint, bucket)

    def one(index: int) -> None:
        target.put(dataset.key(index), dataset.body(index, salt=salt), use_multipart=False)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(one, indexes))


def _tar(dataset: Dataset, indexes: range) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index in indexes:
            body = dataset.body(index)
            entry = tarfile.TarInfo(dataset.key(index))
            entry.size = len(body)
            entry.mtime = BASE_MTIME_S + index
            entry.pax_headers = {
                "minio.versionId": dataset.version_id(index),
                "minio.metadata.Content-Type": "application/octet-stream",
            }
            tar.addfile(entry, io.BytesIO(body))
    return out.getvalue()


def listing(endpoint: Endpoint, bucket: str) -> list[Entry]:
    """Every current object, by key."""
    pages = store(endpoint, bucket).list(chunk_size=1000)
    return sorted(
        Entry(e["path"], e["size"], (e["e_tag"] or "").strip('"'), e["last_modified"])
        for page in pages
        for e in page
    )


def check(dataset: Dataset, source: Endpoint, target: Endpoint, bucket: str) -> Held:
    """What both sites hold; ``IntegrityError`` unless it is the dataset, bytes equal.

    ETags of multipart uploads are no digest of the bytes; where a tool made one, both objects
    are read.
    """
    here, there = listing(source, bucket), listing(target, bucket)
    if len(here) != dataset.count or len(there) != dataset.count:
        raise IntegrityError(
            "not every object is there", bucket=bucket, source=len(here), target=len(there)
        )
    for entry, other in zip(here, there, strict=True):
        if entry[:2] != other[:2]:
            raise IntegrityError("keys or sizes differ", bucket=bucket, key=entry.key)
        if entry.etag != other.etag and not (
            "-" in entry.etag + other.etag
            and _bytes(source, bucket, entry.key) == _bytes(target, bucket, entry.key)
        ):
            raise IntegrityError("bytes differ", bucket=bucket, key=entry.key)
    return here, there


def _bytes(endpoint: Endpoint, bucket: str, key: str) -> bytes:
    return bytes(store(endpoint, bucket).get(key).bytes())
