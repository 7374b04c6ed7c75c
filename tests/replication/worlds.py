"""A few sites and one bucket, written and looked at through boto3 only.

Invariant: what a test compares never comes through our own stores, so that a mistake in them cannot
hide itself. Only the sweep under test uses them.

Words: *view* what a reader gets, key by key; *history* every version and delete marker.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.minio import MinioServer
from entrepot.replication.sites import Site, Took
from entrepot.replication.sweep import Ledger, Options, Range, sweep
from entrepot.replication.totals import Findings, Totals
from entrepot.store.protocol import Capability, Origin, Store
from entrepot.store.s3 import S3Store

ALL = frozenset(Capability)
MINTS = ALL - {Capability.ORIGIN}
"""An endpoint that chooses version ids and times itself, as most do."""

STANDARD = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "Expires")
Wrap = Callable[[Store], Store]


@dataclass(frozen=True, order=True)
class Entry:
    """One version or delete marker."""

    key: str
    mtime_ms: int
    version_id: str
    is_current: bool
    is_marker: bool
    size_bytes: int
    etag: str


def now_ms() -> int:
    return round(SYSTEM_CLOCK.now().timestamp() * 1000)


def client(server: MinioServer) -> Any:
    """A boto3 client."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key.get_secret_value(),
        region_name="us-east-1",
        config=Config(
            max_pool_connections=20,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class World:
    """Sites by rank, with one bucket. ``wraps`` breaks the store of a site by its number."""

    def __init__(
        self,
        servers: Sequence[MinioServer],
        *,
        capabilities: Mapping[int, frozenset[Capability]] | None = None,
        wraps: Mapping[int, Wrap] | None = None,
        endpoints: Mapping[int, str] | None = None,
        versioned: bool = True,
        locked: bool = False,
        took: Mapping[int, Took] | None = None,
    ) -> None:
        self.bucket = f"world-{new_id().hex[:20]}"
        self.s3 = [client(server) for server in servers]
        self.stores = [
            S3Store(
                endpoint=(endpoints or {}).get(number, server.endpoint),
                access_key=server.access_key,
                secret_key=server.secret_key,
                read_timeout_s=20,
            )
            for number, server in enumerate(servers)
        ]
        self.sites = [
            Site(
                name=f"site-{number}",
                rank=number,
                store=(wraps or {}).get(number, lambda whole: whole)(store),
                capabilities=(capabilities or {}).get(number, ALL),
                took=(took or {}).get(number),
            )
            for number, store in enumerate(self.stores)
        ]
        for s3 in self.s3:
            s3.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=locked)
        if versioned:
            self.enable_versioning()

    def enable_versioning(self) -> None:
        for site in range(len(self.s3)):
            self.enable_versioning_at(site)

    def enable_versioning_at(self, site: int) -> None:
        self.s3[site].put_bucket_versioning(
            Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"}
        )

    async def close(self) -> None:
        for store in self.stores:
            await store.close()
        for s3 in self.s3:
            s3.close()

    # Writes

    def put(self, site: int, key: str, body: bytes = b"x", **more: Any) -> None:
        self.s3[site].put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def delete(self, site: int, key: str) -> None:
        self.s3[site].delete_object(Bucket=self.bucket, Key=key)

    def put_parts(self, site: int, key: str, *parts: bytes, first: int = 1, step: int = 1) -> str:
        """A multipart object whose parts have the numbers ``first``, ``first + step``, ...; its
        ETag.
        """
        s3, where = self.s3[site], {"Bucket": self.bucket, "Key": key}
        upload = s3.create_multipart_upload(**where, Metadata={"kind": "parts"})["UploadId"]
        sent = []
        for index, part in enumerate(parts):
            number = first + step * index
            answer = s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=part)
            sent.append({"PartNumber": number, "ETag": answer["ETag"]})
        done = s3.complete_multipart_upload(
            **where, UploadId=upload, MultipartUpload={"Parts": sent}
        )
        return str(done["ETag"])

    async def put_at(self, site: int, key: str, body: bytes, *, mtime_ms: int) -> str:
        """Write with a chosen time; the version id."""
        origin = Origin(version_id=str(new_id()), mtime_ms=mtime_ms)
        await self.stores[site].put(self.bucket, key, body, origin=origin)
        return origin.version_id

    async def delete_at(self, site: int, key: str, *, mtime_ms: int) -> None:
        origin = Origin(version_id=str(new_id()), mtime_ms=mtime_ms)
        await self.stores[site].delete(self.bucket, key, origin=origin)

    # The sweep under test

    async def sweep(self, **more: Any) -> Totals:
        return (await self.sweep_with_findings(**more))[0]

    async def sweep_with_findings(
        self, *, keys: Range | None = None, ledger: Ledger | None = None, **options: Any
    ) -> tuple[Totals, Findings]:
        async def checkpoint(_last: str, _totals: Totals) -> None:
            return

        usual: dict[str, Any] = {
            "batch_size": 1000,
            "workers": 8,
            "horizon_ms": lambda: now_ms() + 60_000,
        }
        return await sweep(
            self.sites,
            self.bucket,
            keys=keys or Range(),
            options=Options(**(usual | options)),
            guard=lambda: None,
            checkpoint=checkpoint,
            ledger=ledger,
        )

    # What is there

    def history(self, site: int, prefix: str = "") -> list[Entry]:
        found = []
        pages = self.s3[site].get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
            for kind in ("Versions", "DeleteMarkers"):
                found += [
                    Entry(
                        key=each["Key"],
                        mtime_ms=round(each["LastModified"].timestamp() * 1000),
                        version_id=each["VersionId"],
                        is_current=each["IsLatest"],
                        is_marker=kind == "DeleteMarkers",
                        size_bytes=each.get("Size", 0),
                        etag=each.get("ETag", ""),
                    )
                    for each in page.get(kind, ())
                ]
        return sorted(found)

    def histories(self) -> list[list[Entry]]:
        return [self.history(site) for site in range(len(self.s3))]

    def currents(self, site: int) -> dict[str, Entry]:
        """The current version or marker of each key."""
        return {entry.key: entry for entry in self.history(site) if entry.is_current}

    def view(self, site: int) -> dict[str, dict[str, Any]]:
        """Listing entry, bytes, headers, metadata and tags of each current object."""
        s3, found = self.s3[site], {}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for each in page.get("Contents", ()):
                key = each["Key"]
                got = s3.get_object(Bucket=self.bucket, Key=key)
                tags = s3.get_object_tagging(Bucket=self.bucket, Key=key)["TagSet"]
                found[key] = {
                    "mtime": each["LastModified"],
                    "etag": each["ETag"],
                    "size": each["Size"],
                    "sha256": hashlib.sha256(got["Body"].read()).hexdigest(),
                    "type": got["ContentType"],
                    "metadata": got["Metadata"],
                    "headers": {name: got[name] for name in STANDARD if name in got},
                    "tags": sorted((tag["Key"], tag["Value"]) for tag in tags),
                }
        return found

    def views(self) -> list[dict[str, dict[str, Any]]]:
        return [self.view(site) for site in range(len(self.s3))]

    def body(self, site: int, key: str) -> bytes:
        found: bytes = self.s3[site].get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return found

    def uploads(self, site: int) -> list[Any]:
        """Multipart uploads that nobody completed or aborted."""
        found: list[Any] = []
        for key in {entry.key for entry in self.history(0)} | {"big"}:
            answer = self.s3[site].list_multipart_uploads(Bucket=self.bucket, Prefix=key)
            found += answer.get("Uploads", [])
        return found


def same(parts: Sequence[Any]) -> bool:
    return all(part == parts[0] for part in parts)
