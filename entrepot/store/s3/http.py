"""One endpoint over HTTP: a bounded pool, one signed request, every failure as our own error.

Nothing here retries. Silence has a limit in both directions: aiohttp's while an answer is awaited,
the kernel's while a body is sent, where aiohttp has none. The pool holds at most
``max_connections`` sockets; a reply that is an error is read up to 64 KiB, a reply that is XML up
to 16 MiB (a page of 1,000 versions with the longest keys needs about 4).
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from html import unescape
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotFound,
    DeleteMarker,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermanentError,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unsupported,
)
from entrepot.store import check
from entrepot.store.check import measured
from entrepot.store.locks import LOCKED, UNLOCKED
from entrepot.store.protocol import Source
from entrepot.store.s3.sign import UNSIGNED, Credentials, encode_path, encode_query, sign
from entrepot.store.s3.trailer import CONTENT, framed, trailing

ERROR_MAX_BYTES = 64 * 1024
XML_MAX_BYTES = 16 * 1024 * 1024
AT_ONCE_BYTES = 1024 * 1024
PIECE_BYTES = 256 * 1024
READ_BUFFER_BYTES = 512 * 1024  # 256 KiB is what one socket read brings; two of them

_BY_CODE: Mapping[str, type[EntrepotError]] = {
    "AccessDenied": AccessDenied,
    "BadDigest": IntegrityError,
    "BucketAlreadyExists": AlreadyExists,
    "BucketAlreadyOwnedByYou": AlreadyExists,
    "BucketNotEmpty": PreconditionFailed,
    "EntityTooLarge": LimitExceeded,
    "EntityTooSmall": InvalidInput,
    # A gateway over files: where one lies no folder can be, and the reverse. It says 409.
    "ExistingObjectIsDirectory": InvalidInput,
    "InvalidAccessKeyId": AccessDenied,
    "InvalidDigest": IntegrityError,  # Garage's word for BadDigest; S3's for one that is none
    "MethodNotAllowed": NotFound,  # GET or HEAD of a delete marker by its version id
    "NoSuchBucket": BucketNotFound,
    "NoSuchKey": NotFound,
    "NoSuchLifecycleConfiguration": Unsupported,
    "NoSuchObjectLockConfiguration": NotFound,  # MinIO says 400
    "NoSuchUpload": NotFound,
    "NoSuchVersion": NotFound,
    "NotImplemented": Unsupported,
    "ObjectLockConfigurationNotFoundError": Unsupported,
    "ObjectParentIsFile": InvalidInput,
    "PreconditionFailed": PreconditionFailed,
    "RequestTimeTooSkewed": AccessDenied,
    "RequestTimeout": Unavailable,  # the body came too slowly; AWS says 400
    "SignatureDoesNotMatch": AccessDenied,
    "SlowDown": Throttled,
    "SlowDownRead": Throttled,
    "SlowDownWrite": Throttled,
    "XAmzContentChecksumMismatch": IntegrityError,
    "XMinioStorageFull": Unavailable,
}
_BY_STATUS: Mapping[int, type[EntrepotError]] = {
    400: InvalidInput,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    405: NotFound,
    408: Unavailable,
    409: PreconditionFailed,
    412: PreconditionFailed,
    416: InvalidInput,
    429: Throttled,
    501: Unsupported,
}
_ABOUT_LOCKS = (
    # S3 and MinIO say so in the text of a code that means many things, such as InvalidRequest.
    (re.compile("missing object ?lock ?configuration", re.I), Unsupported, UNLOCKED),
    (re.compile("WORM protected|protected by object lock", re.I), AccessDenied, LOCKED),
)
_CODE = re.compile(rb"<Code>([^<]{1,200})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,2000})</Message>")


class Endpoint:
    """A pool of connections to one S3 endpoint, path style."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        max_connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise InvalidInput(
                "an endpoint is http://host:port or https://host:port without a path",
                hint="correct the endpoint of this site in config.yaml",
                endpoint=url,
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.netloc
        self._credentials = credentials
        self.clock = clock
        self._limit = max_connections
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._silence_ms = round(1000 * read_timeout_s)
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        # Made on first use: a session belongs to the running loop.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._limit, ttl_dns_cache=30, socket_factory=self._socket
                ),
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER_BYTES,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
            # aiohttp would send a request again by itself when its connection is reset, also a
            # conditional PUT whose answer was lost, or a stream that is half consumed.
            self._session._retry_connection = False
        return self._session

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._silence_ms)
        return made

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def request(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Source | None = None,
        crc32c: Callable[[], int] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one signed request; the reply is open while in the block and is a success.

        ``headers`` give the length of ``body``; ``crc32c`` is sent after it.
        """
        path, text = encode_path(bucket, key), encode_query(query or {})
        headers = dict(headers or {})
        if crc32c is None or body is None:
            content, payload = UNSIGNED, _payload(body, headers)
        else:
            size = int(headers["content-length"])
            headers, content = trailing(headers, size), CONTENT
            payload = framed(measured(body, size), size, crc32c)
        signed = sign(
            self._credentials,
            method,
            host=self._host,
            path=path,
            query=text,
            headers=headers,
            now=self.clock.now(),
            content=content,
        )
        url = URL(f"{self.url}{path}{'?' + text if text else ''}", encoded=True)
        async with AsyncExitStack() as stack:
            with self.failures(bucket, key):
                asked = self._open().request(
                    method, url, headers=signed, data=payload, allow_redirects=False
                )
                reply = await stack.enter_async_context(asked)
                if reply.status >= 300:
                    where = {"endpoint": self.url, "bucket": bucket, "key": key}
                    raise await _error_of(reply, where)
            yield reply  # what the caller's own block raises passes as it is

    @contextmanager
    def failures(self, bucket: str, key: str = "") -> Iterator[None]:
        """Name what the connection does wrong in the block: ``Unavailable``.

        What the body that is sent raised itself (a damaged source, a wrong length) comes out as it
        is; aiohttp would have it that the connection failed.
        """
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            if isinstance(error.__cause__, EntrepotError):
                raise error.__cause__ from None
            raise Unavailable(
                f"the endpoint did not answer in full: {type(error).__name__} {error}".rstrip(),
                hint=f"is the server at {self.url} up and reachable?",
                endpoint=self.url,
                bucket=bucket,
                key=key,
            ) from error

    async def text(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Source | None = None,
    ) -> bytes:
        """Send one request and read its (small) reply whole."""
        async with self.request(
            method, bucket, key, query=query, headers=headers, body=body
        ) as reply:
            with self.failures(bucket, key):
                return await _read_bounded(reply, XML_MAX_BYTES)


def check_key(key: str) -> None:
    """Refuse a key that is none, or that the endpoint would keep as another one."""
    check.check_key(key)
    if key.startswith("/"):
        raise InvalidInput("endpoints drop the slash that a key starts with", key=key)


def _payload(
    body: Source | None, headers: Mapping[str, str]
) -> bytes | aiohttp.Payload | AsyncIterator[bytes | memoryview] | None:
    if isinstance(body, bytes):
        # Written at once, which aiohttp warns of above 1 MiB; larger ones go piece by piece.
        return body if len(body) <= AT_ONCE_BYTES else _Pieces(body)
    return body and measured(body, int(headers["content-length"]))


class _Pieces(aiohttp.Payload):
    """Bytes in memory, written piece by piece. aiohttp's own way, ``BytesIO``, copies them all."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        view = memoryview(self._value)
        for at in range(0, len(view), PIECE_BYTES):
            await writer.write(view[at : at + PIECE_BYTES])


async def _read_bounded(reply: aiohttp.ClientResponse, limit: int) -> bytes:
    if (reply.content_length or 0) <= limit and reply.content_length is not None:
        return await reply.read()
    pieces, size = [], 0
    async for piece in reply.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise LimitExceeded("the endpoint's reply is too long", limit_bytes=limit)
    return b"".join(pieces)


async def _error_of(reply: aiohttp.ClientResponse, where: Mapping[str, str]) -> EntrepotError:
    body = await reply.content.read(ERROR_MAX_BYTES)
    code = _first(_CODE, body) or reply.headers.get("x-minio-error-code", "")
    error = error_for(reply.status, code, _first(_MESSAGE, body), where)
    if type(error) is NotFound and reply.headers.get("x-amz-delete-marker") == "true":
        version = reply.headers.get("x-amz-version-id", "")
        return DeleteMarker(error.message, hint=error.hint, **error.fields, version=version)
    return error


def _first(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    return unescape(found[1].decode("utf-8", "replace")) if found else ""


def error_for(status: int, code: str, message: str, where: Mapping[str, str]) -> EntrepotError:
    """The one table from what an endpoint answers to our own errors.

    An unknown code falls back to its status; an unknown status below 500 is permanent, from 500
    on it is worth another try.
    """
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = Unavailable if status >= 500 else PermanentError
    if kind is NotFound and not where.get("key"):
        kind = BucketNotFound
    hint = _hint(kind)
    for pattern, other, advice in _ABOUT_LOCKS:
        if pattern.search(message):
            kind, hint = other, advice
    text = (message or f"HTTP {status}").rstrip(".")
    shown = {name: value for name, value in where.items() if value}
    return kind(f"{code or 'error'}: {text}", hint=hint, status=status, **shown)


def _hint(kind: type[EntrepotError]) -> str:
    if kind is AccessDenied:
        return "check the site's access and secret key, and this machine's clock"
    if kind is BucketNotFound:
        return "create the bucket, or correct its name in the rule"
    return ""
