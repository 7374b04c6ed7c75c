"""Multipart uploads over S3."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from entrepot.errors import InvalidInput
from entrepot.store.check import body_size
from entrepot.store.protocol import (
    PAGE_MAX,
    Attributes,
    Origin,
    Part,
    Source,
    Upload,
    Version,
)
from entrepot.store.s3 import trailer
from entrepot.store.s3.documents import pages, parse, result, text
from entrepot.store.s3.headers import attributes_to_headers, origin_to_headers
from entrepot.store.s3.http import Endpoint, check_key

PARTS_MAX: Final = 10_000
PAGE_SIZE = PAGE_MAX


class S3Uploads:
    """The verbs of the second protocol about multipart uploads."""

    _endpoint: Endpoint

    async def start(
        self,
        bucket: str,
        key: str,
        *,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> str:
        """See ``BucketStore.start``."""
        check_key(key)
        query = {"uploads": ""} | ({"versionId": origin.version_id} if origin else {})
        headers = attributes_to_headers(attributes) | origin_to_headers(origin)
        reply = await self._endpoint.text("POST", bucket, key, query=query, headers=headers)
        return text(parse(reply), "UploadId")

    async def part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source: Source,
        *,
        size_bytes: int | None = None,
        crc32c: Callable[[], int] | None = None,
    ) -> Part:
        """See ``BucketStore.part``."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        size = body_size(source, size_bytes)
        headers = {"content-length": str(size)}
        if crc32c is not None and isinstance(source, bytes):
            headers[trailer.NAME], crc32c = trailer.checksum(crc32c()), None
        async with self._endpoint.request(
            "PUT", bucket, key, query=query, headers=headers, body=source, crc32c=crc32c
        ) as reply:
            return Part(number, reply.headers.get("ETag", "").strip('"'), size)

    async def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: tuple[Part, ...],
        *,
        origin: Origin | None = None,
    ) -> Version:
        """See ``BucketStore.complete``."""
        if not 1 <= len(parts) <= PARTS_MAX:
            raise InvalidInput("a multipart object has 1 to 10,000 parts", parts=len(parts))
        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
            for part in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        async with self._endpoint.request(
            "POST",
            bucket,
            key,
            query={"uploadId": upload_id},
            # The lock was given at the start; MinIO refuses it here (tried).
            headers=origin_to_headers(replace(origin, lock=None) if origin else None),
            body=body,
        ) as reply:
            root = result(self._endpoint, await reply.read(), bucket, key)
            return Version(
                key=key,
                version_id=reply.headers.get("x-amz-version-id", "null"),
                mtime_ms=origin.mtime_ms if origin else 0,
                etag=text(root, "ETag").strip('"'),
            )

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """See ``BucketStore.abort``."""
        await self._endpoint.text("DELETE", bucket, key, query={"uploadId": upload_id})

    async def parts(self, bucket: str, key: str, upload_id: str) -> tuple[Part, ...]:
        """See ``BucketStore.parts``."""
        check_key(key)
        first = {"uploadId": upload_id, "max-parts": str(PAGE_SIZE)}
        found = [
            Part(int(text(part, "PartNumber")), text(part, "ETag").strip('"'), _size(part))
            async for page in pages(
                self._endpoint,
                bucket,
                key,
                first,
                lambda page: {"part-number-marker": text(page, "NextPartNumberMarker")},
            )
            for part in page.iterfind("{*}Part")
        ]
        return tuple(sorted(found, key=lambda part: part.number))

    async def uploads(self, bucket: str, *, prefix: str = "") -> tuple[Upload, ...]:
        """See ``BucketStore.uploads``.

        MinIO takes a prefix for a whole key, and looks on its disks; asked for none, it lists
        those that it has in memory (tried, and read in its source). So both are asked for, and
        memory last: on disk an upload with an origin has the origin's time.
        """
        found = {}
        for asked in dict.fromkeys((prefix, "")):
            for upload in await self._uploads(bucket, asked):
                found[upload.key, upload.upload_id] = upload
        mine = (upload for upload in found.values() if upload.key.startswith(prefix))
        return tuple(sorted(mine, key=lambda each: (each.key.encode(), each.started)))

    async def _uploads(self, bucket: str, prefix: str) -> list[Upload]:
        first = {"uploads": "", "encoding-type": "url", "max-uploads": str(PAGE_SIZE)}
        first |= {"prefix": prefix} if prefix else {}

        def following(page: ElementTree.Element) -> dict[str, str]:
            return {
                # MinIO names none: its page holds one key.
                "key-marker": unquote_plus(text(page, "NextKeyMarker")) or prefix,
                "upload-id-marker": text(page, "NextUploadIdMarker"),
            }

        return [
            Upload(
                key=unquote_plus(text(upload, "Key")),
                upload_id=text(upload, "UploadId"),
                started=datetime.fromisoformat(text(upload, "Initiated")),
            )
            async for page in pages(self._endpoint, bucket, "", first, following)
            for upload in page.iterfind("{*}Upload")
        ]


def _size(part: ElementTree.Element) -> int:
    return int(text(part, "Size") or "0")
