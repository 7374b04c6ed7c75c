"""Buckets, multipart uploads and tags over S3: the ``BucketStore`` verbs.

The XML that we send is small and built here; the XML that we read is bounded by ``http`` and
parsed by ElementTree, whose expat refuses entity bombs.
"""

from collections.abc import Mapping
from datetime import datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from entrepot.errors import IntegrityError, InvalidInput
from entrepot.store.protocol import (
    Attributes,
    BucketInfo,
    Origin,
    Part,
    Source,
    Version,
    body_size,
)
from entrepot.store.s3.headers import attributes_to_headers, origin_to_headers
from entrepot.store.s3.http import Endpoint, error_for

_PARTS_MAX = 10_000


class S3Buckets:
    """The second protocol; ``S3Store`` adds the first."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def create(self, bucket: str, *, versioned: bool = True) -> None:
        """See ``BucketStore.create``."""
        await self._endpoint.text("PUT", bucket)
        if versioned:
            body = (
                b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                b"<Status>Enabled</Status></VersioningConfiguration>"
            )
            await self._endpoint.text("PUT", bucket, query={"versioning": ""}, body=body)

    async def drop(self, bucket: str) -> None:
        """See ``BucketStore.drop``."""
        await self._endpoint.text("DELETE", bucket)

    async def buckets(self) -> tuple[BucketInfo, ...]:
        """See ``BucketStore.buckets``."""
        root = _parse(await self._endpoint.text("GET", ""))
        found = (
            BucketInfo(
                name=_text(entry, "Name"),
                created=datetime.fromisoformat(_text(entry, "CreationDate")),
            )
            for entry in root.iterfind("{*}Buckets/{*}Bucket")
        )
        return tuple(sorted(found, key=lambda info: info.name))

    async def versioned(self, bucket: str) -> bool:
        """See ``BucketStore.versioned``."""
        root = _parse(await self._endpoint.text("GET", bucket, query={"versioning": ""}))
        return _text(root, "Status") == "Enabled"

    async def start(
        self,
        bucket: str,
        key: str,
        *,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> str:
        """See ``BucketStore.start``."""
        query = {"uploads": ""} | ({"versionId": origin.version_id} if origin else {})
        headers = attributes_to_headers(attributes) | origin_to_headers(origin)
        reply = await self._endpoint.text("POST", bucket, key, query=query, headers=headers)
        return _text(_parse(reply), "UploadId")

    async def part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        source: Source,
        *,
        size_bytes: int | None = None,
    ) -> Part:
        """See ``BucketStore.part``."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {"content-length": str(body_size(source, size_bytes))}
        async with self._endpoint.request(
            "PUT", bucket, key, query=query, headers=headers, body=source
        ) as reply:
            return Part(number=number, etag=reply.headers.get("ETag", "").strip('"'))

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
        if not 1 <= len(parts) <= _PARTS_MAX:
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
            headers=origin_to_headers(origin),
            body=body,
        ) as reply:
            root = _parse(await reply.read())
            if root.tag.rpartition("}")[2] == "Error":
                # S3 may answer 200 and only then find out that it cannot.
                where = {"endpoint": self._endpoint.url, "bucket": bucket, "key": key}
                raise error_for(500, _text(root, "Code"), _text(root, "Message"), where)
            return Version(
                key=key,
                version_id=reply.headers.get("x-amz-version-id", "null"),
                mtime_ms=origin.mtime_ms if origin else 0,
                etag=_text(root, "ETag").strip('"'),
            )

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """See ``BucketStore.abort``."""
        await self._endpoint.text("DELETE", bucket, key, query={"uploadId": upload_id})

    async def tags(
        self, bucket: str, key: str, *, version_id: str | None = None
    ) -> Mapping[str, str]:
        """See ``BucketStore.tags``."""
        query = {"tagging": ""} | ({"versionId": version_id} if version_id else {})
        root = _parse(await self._endpoint.text("GET", bucket, key, query=query))
        return {_text(tag, "Key"): _text(tag, "Value") for tag in root.iterfind(".//{*}Tag")}


def _parse(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)  # noqa: S314 - bounded, and expat refuses bombs
    except ElementTree.ParseError as error:
        raise IntegrityError("the endpoint's XML is cut or malformed") from error


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
