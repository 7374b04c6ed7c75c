"""Objects and versions over S3: the ``ObjectStore`` verbs."""

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote

import aiohttp
from pydantic import SecretStr

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import (
    BucketNotFound,
    IntegrityError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from entrepot.store.check import body_size
from entrepot.store.protocol import (
    NULL_VERSION,
    PAGE_MAX,
    Attributes,
    Body,
    Item,
    Origin,
    Page,
    Source,
    Version,
)
from entrepot.store.s3 import trailer
from entrepot.store.s3.buckets import S3Buckets
from entrepot.store.s3.details import detailed_page
from entrepot.store.s3.documents import result
from entrepot.store.s3.headers import (
    BYPASS,
    attributes_to_headers,
    copy_origin_to_headers,
    origin_to_headers,
    version_from_headers,
    version_query,
)
from entrepot.store.s3.http import Endpoint, check_key
from entrepot.store.s3.listing import (
    current_page,
    is_truncated,
    next_current,
    next_kept_versions,
    next_versions,
    to_the_end,
    versions_page,
)
from entrepot.store.s3.locks import S3Locks
from entrepot.store.s3.settings import S3Settings
from entrepot.store.s3.sign import Credentials
from entrepot.store.s3.tar import fits, tar
from entrepot.store.s3.uploads import S3Uploads

MD5_MAX_BYTES: Final = 1024 * 1024
"""Bodies in memory up to this size are sent with their MD5: 2 ms at most on one core."""


REPLACE: Final = {"x-amz-metadata-directive": "REPLACE", "x-amz-tagging-directive": "REPLACE"}

_Following = Callable[[bytes, Page], Mapping[str, str]]


class S3Store(S3Buckets, S3Uploads, S3Locks, S3Settings):
    """One S3 endpoint, path style.

    Memory: ``max_connections`` times twice the read buffer of 512 KiB, at most.

    Args:
        endpoint: ``http://host:port`` or ``https://host:port``.
        region: the region that signatures name.
        max_connections: sockets at most; further requests wait.
        connect_timeout_s, read_timeout_s: silence that counts as a failure.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        access_key: str,
        secret_key: SecretStr,
        region: str = "us-east-1",
        max_connections: int = 32,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._endpoint = Endpoint(
            endpoint,
            Credentials(access_key=access_key, secret_key=secret_key, region=region),
            max_connections=max_connections,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            clock=clock,
        )

    async def close(self) -> None:
        """See ``ObjectStore.close``."""
        await self._endpoint.close()

    async def put(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        size_bytes: int | None = None,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
        md5: bytes | None = None,
        crc32c: Callable[[], int] | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """See ``ObjectStore.put``."""
        check_key(key)
        size = body_size(source, size_bytes)
        headers = attributes_to_headers(attributes) | origin_to_headers(origin)
        headers["content-length"] = str(size)
        if crc32c is None and md5 is None and isinstance(source, bytes) and size <= MD5_MAX_BYTES:
            md5 = hashlib.md5(source, usedforsecurity=False).digest()
        if md5 is not None:
            headers["content-md5"] = b64encode(md5).decode()
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        if if_none_match:
            headers["if-none-match"] = "*"
        if crc32c is not None and isinstance(source, bytes):
            headers[trailer.NAME], crc32c = trailer.checksum(crc32c()), None
        query = {"versionId": origin.version_id} if origin else {}
        try:
            async with self._endpoint.request(
                "PUT", bucket, key, query=query, headers=headers, body=source, crc32c=crc32c
            ) as reply:
                return Version(
                    key=key,
                    version_id=reply.headers.get("x-amz-version-id", NULL_VERSION),
                    mtime_ms=origin.mtime_ms if origin else round(self._now_s() * 1000),
                    size_bytes=size,
                    etag=reply.headers.get("ETag", "").strip('"'),
                    attributes=attributes,
                )
        except BucketNotFound:
            raise
        except NotFound as error:  # if-match found nothing to match
            raise PreconditionFailed(error.message, bucket=bucket, key=key) from error

    async def batch(self, bucket: str, items: Sequence[Item]) -> Sequence[Item]:
        """See ``ObjectStore.batch``; one tar, so as large as the items together.

        MinIO unpacks over a version that is there already, and its lock is gone then (tried). So
        a bucket with object lock takes no batches.
        """
        if await self._has_locks(bucket):
            return items
        fitting = [item for item in items if fits(item)]
        if fitting:
            body = tar(fitting)
            headers = {
                "content-length": str(len(body)),
                "content-md5": b64encode(
                    hashlib.md5(body, usedforsecurity=False).digest()
                ).decode(),
                "x-amz-meta-snowball-auto-extract": "true",
            }
            # The tar's own key is never written.
            await self._endpoint.text("PUT", bucket, "batch.tar", headers=headers, body=body)
        return [item for item in items if not fits(item)]

    def _now_s(self) -> float:
        return self._endpoint.clock.now().timestamp()

    @asynccontextmanager
    async def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        stop: int | None = None,
        part: int | None = None,
    ) -> AsyncIterator[Body]:
        """See ``ObjectStore.get``."""
        check_key(key)
        query = version_query(version_id) | ({"partNumber": str(part)} if part else {})
        headers = {}
        if start or stop is not None:
            if start < 0 or (stop is not None and stop <= start):
                raise InvalidInput("a range ends after it starts", start=start, stop=stop)
            headers["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        async with self._endpoint.request(
            "GET", bucket, key, query=query, headers=headers
        ) as reply:
            yield _HttpBody(key, reply)

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> Version:
        """See ``ObjectStore.head``."""
        check_key(key)
        async with self._endpoint.request(
            "HEAD", bucket, key, query=version_query(version_id)
        ) as reply:
            size = int(reply.headers.get("Content-Length", "0"))
            return version_from_headers(key, reply.headers, size_bytes=size)

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        origin: Origin | None = None,
        bypass: bool = False,
    ) -> Version | None:
        """See ``ObjectStore.delete``."""
        check_key(key)
        if origin:
            return await self._mark(bucket, key, origin)
        async with self._endpoint.request(
            "DELETE",
            bucket,
            key,
            query=version_query(version_id),
            headers=BYPASS if bypass else {},
        ) as reply:
            if version_id or reply.headers.get("x-amz-delete-marker") != "true":
                return None
            return Version(
                key=key,
                version_id=reply.headers.get("x-amz-version-id", NULL_VERSION),
                mtime_ms=round(self._now_s() * 1000),
                is_delete_marker=True,
            )

    async def _mark(self, bucket: str, key: str, origin: Origin) -> Version:
        """Add a delete marker of that id and time.

        The endpoint toggles: the same request again removes the marker (tried), and no header
        prevents that (read in its source). So we look first; two writers that both looked before
        either had written are found by a look afterwards, and try again.
        """
        marker = Version(key, origin.version_id, origin.mtime_ms, is_delete_marker=True)
        if await self._exists(bucket, key, origin.version_id):
            return marker
        headers = origin_to_headers(origin) | {
            "x-minio-source-deletemarker": "true",
            "x-amz-replication-status": "REPLICA",
        }
        query = version_query(origin.version_id)
        await self._endpoint.text("DELETE", bucket, key, query=query, headers=headers)
        # What ends in a slash has no versions there, so no marker either.
        if not key.endswith("/") and not await self._exists(bucket, key, origin.version_id):
            raise Unavailable(
                "another writer of the same delete marker undid it", bucket=bucket, key=key
            )
        return marker

    async def _exists(self, bucket: str, key: str, version_id: str) -> bool:
        """Whether a version is there, delete markers included (a HEAD of one answers 405)."""
        try:
            await self.head(bucket, key, version_id=version_id)
        except NotFound as error:
            return error.fields.get("status") == 405
        return True

    async def copy(
        self,
        bucket: str,
        key: str,
        *,
        source: tuple[str, str, str | None],
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> Version:
        """See ``ObjectStore.copy``."""
        check_key(key)
        from_bucket, from_key, version_id = source
        name = quote(f"/{from_bucket}/{from_key}", safe="/~-_.")
        name += f"?versionId={quote(version_id, safe='')}" if version_id else ""
        headers = {"x-amz-copy-source": name} | copy_origin_to_headers(origin)
        if attributes is not None:
            headers |= attributes_to_headers(attributes) | REPLACE
        query = version_query(origin.version_id if origin else None)
        async with self._endpoint.request(
            "PUT", bucket, key, query=query, headers=headers
        ) as reply:
            with self._endpoint.failures(bucket, key):
                result(self._endpoint, await reply.read(), bucket, key)
            new_id = reply.headers.get("x-amz-version-id")
        copied = await self.head(bucket, key, version_id=new_id)
        return replace(copied, mtime_ms=origin.mtime_ms) if origin else copied

    def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncIterator[Page]:
        """See ``ObjectStore.list``."""
        first = {"list-type": "2", "encoding-type": "url", "max-keys": str(page_size)}
        first |= {"prefix": prefix} if prefix else {}
        first |= {"start-after": after} if after else {}
        first |= {"delimiter": delimiter} if delimiter else {}

        return self._pages(bucket, first, current_page, next_current, next_current)

    def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncIterator[Page]:
        """See ``ObjectStore.versions``; ``metadata=true`` is MinIO's, others pass over it."""
        first = {"versions": "", "encoding-type": "url", "max-keys": str(page_size)}
        first |= {"metadata": "true"} if details else {}
        first |= {"prefix": prefix} if prefix else {}
        first |= {"key-marker": after} if after else {}

        following = next_versions, next_kept_versions
        page = detailed_page if details else versions_page
        return self._pages(bucket, first, page, *following)

    async def _pages(
        self,
        bucket: str,
        first: Mapping[str, str],
        page: Callable[[bytes], Page],
        following: _Following,
        following_kept: _Following,
    ) -> AsyncIterator[Page]:
        query, kept = first, False
        while True:
            body = await self._endpoint.text("GET", bucket, query=query)
            found = page(body)
            more: Mapping[str, str] | None = None
            if is_truncated(body):
                more = (following_kept if kept else following)(body, found)
            elif not kept and (more := to_the_end(query, found)):
                kept = True
            yield found
            if more is None:
                return
            before, query = query, {**first, **more}
            if query == before:
                raise IntegrityError("the endpoint's listing does not move on", bucket=bucket)


class _HttpBody:
    """An open reply; aiohttp raises where it is shorter than it said."""

    def __init__(self, key: str, reply: aiohttp.ClientResponse) -> None:
        self.version = version_from_headers(
            key, reply.headers, size_bytes=_whole_size(reply.headers)
        )
        self.length = int(reply.headers.get("Content-Length", "0"))
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._reply.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable("the object was cut short", key=self.version.key) from error

    async def read(self) -> bytes:
        """See ``Body.read``."""
        return b"".join([piece async for piece in self])


def _whole_size(headers: Mapping[str, str]) -> int:
    # "bytes 0-9/1234" gives the size of the whole object, Content-Length that of the range.
    total = headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else int(headers.get("Content-Length", "0"))
