"""An S3 server whose listings are made up as they are asked for: a million keys, no disk.

    python -m bench.generated --keys 1000000 [--missing-every 1000]

It speaks what a sweep needs of S3, in MinIO's form: listings of keys and of versions (1,000 a
page, prefix, delimiter, markers), versioning, HEAD bucket, and GET, HEAD, PUT of objects of zero
bytes. Version ids and times follow from the key's number, so that two servers are in step.
``--missing-every N`` leaves every Nth key out until somebody puts it. It checks no signature and
remembers only what was put; never let it listen beyond loopback.

Words: *number* of a key, from 0; keys sort by their numbers.
"""

import asyncio
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from itertools import islice
from urllib.parse import quote

import click
from aiohttp import web

from bench.data import BASE_MTIME_S

BUCKET = "generated"
PAGE_MAX = 1000
PREFIX_KEYS = 10_000
"""Keys under one prefix: a hundred prefixes at a million keys, so that a sweep can cut shards."""

EMPTY_MD5 = hashlib.md5(b"").hexdigest()
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
LAST = "\U0010ffff"
"""Sorts after every character that a key has here."""

ENTRY = (
    f"<ETag>&#34;{EMPTY_MD5}&#34;</ETag><Size>0</Size>"
    "<Owner><ID>02d6176db174dc93cb1b899f7c6078f08654445fe8cf1b6ce98d8855f66bdbf4</ID>"
    "<DisplayName>minio</DisplayName></Owner><StorageClass>STANDARD</StorageClass>"
)
METADATA = (
    "<UserMetadata><content-type>application/octet-stream</content-type></UserMetadata>"
    "<Internal><K>1</K><M>0</M></Internal>"
)


@dataclass(slots=True)
class Keys:
    """A sorted sequence of ``count`` keys that exists nowhere; without those ``missing``."""

    count: int
    missing_every: int = 0
    put: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> str:
        return f"d{number // PREFIX_KEYS:05d}/{number:09d}.bin"

    def present(self, number: int) -> bool:
        return not self.missing_every or number % self.missing_every != 0 or number in self.put

    def held(self) -> int:
        """How many keys are present."""
        every = self.missing_every
        return self.count - (-(-self.count // every) - len(self.put) if every else 0)

    def number(self, key: str) -> int | None:
        """The number of a key that belongs here, present or not."""
        at = bisect_left(self, key)
        return at if at < self.count and self[at] == key else None

    def entries(self, *, prefix: str, after: str, delimiter: str) -> Iterator[int | str]:
        """Numbers of keys and common prefixes, in key order, those after ``after``."""
        at = max(bisect_left(self, prefix), bisect_left(self, after + "\0") if after else 0)
        stop = bisect_left(self, prefix + LAST)
        while at < stop:
            if not self.present(at):
                at += 1
                continue
            cut = self[at].find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                yield at
                at += 1
                continue
            common = self[at][: cut + len(delimiter)]
            at = bisect_left(self, common + LAST)
            if common != after:
                yield common


def version_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def mtime(number: int) -> datetime:
    return datetime.fromtimestamp(BASE_MTIME_S, UTC) + timedelta(milliseconds=number)


def page(keys: Keys, ask: Mapping[str, str]) -> str:
    """One page of ListObjectsV2 or ListObjectVersions, as the query ``ask`` wants it."""
    versions = "versions" in ask
    token = ask.get("continuation-token", "")
    after = urlsafe_b64decode(token).decode() if token else ask.get("start-after", "")
    after = ask.get("key-marker", "") if versions else after
    # A marker as MinIO writes it carries a note in brackets.
    after, prefix = after.partition("[")[0], ask.get("prefix", "")
    limit = min(int(ask.get("max-keys", PAGE_MAX)), PAGE_MAX)
    entries = keys.entries(prefix=prefix, after=after, delimiter=ask.get("delimiter", ""))
    found = list(islice(entries, limit + 1))
    truncated = len(found) > limit
    metadata = METADATA if ask.get("metadata") == "true" else ""
    body = "".join(
        _entry(keys, entry, versions=versions, metadata=metadata) for entry in found[:limit]
    )
    tag = "ListVersionsResult" if versions else "ListBucketResult"
    more = _more(keys, found[limit - 1], versions=versions) if truncated else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{tag} xmlns="{NAMESPACE}">'
        f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix>{more}"
        f"<KeyCount>{min(len(found), limit)}</KeyCount><MaxKeys>{limit}</MaxKeys>"
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{body}</{tag}>"
    )


def _entry(keys: Keys, entry: int | str, *, versions: bool, metadata: str) -> str:
    if isinstance(entry, str):
        return f"<CommonPrefixes><Prefix>{entry}</Prefix></CommonPrefixes>"
    tag = "Version" if versions else "Contents"
    version = f"<IsLatest>true</IsLatest><VersionId>{version_id(entry)}</VersionId>"
    return (
        f"<{tag}><Key>{keys[entry]}</Key><LastModified>{_iso(entry)}</LastModified>"
        f"{ENTRY}{metadata}{version if versions else ''}</{tag}>"
    )


def _iso(number: int) -> str:
    return f"{_iso_second(number // 1000)}.{number % 1000:03d}Z"


@lru_cache(maxsize=8)
def _iso_second(second: int) -> str:
    return mtime(second * 1000).strftime("%Y-%m-%dT%H:%M:%S")


def _more(keys: Keys, last: int | str, *, versions: bool) -> str:
    marker = last if isinstance(last, str) else keys[last]
    if not versions:
        token = urlsafe_b64encode(marker.encode()).decode()
        return f"<NextContinuationToken>{token}</NextContinuationToken>"
    version = "" if isinstance(last, str) else version_id(last)
    return (
        f"<NextKeyMarker>{quote(marker)}</NextKeyMarker>"
        f"<NextVersionIdMarker>{version}</NextVersionIdMarker>"
    )


def application(keys: Keys) -> web.Application:
    """The server, over one bucket of that name."""

    async def buckets(_request: web.Request) -> web.Response:
        return _xml(
            f'<ListAllMyBucketsResult xmlns="{NAMESPACE}"><Buckets><Bucket><Name>{BUCKET}</Name>'
            f"<CreationDate>{_iso(0)}</CreationDate></Bucket></Buckets>"
            "</ListAllMyBucketsResult>"
        )

    async def bucket(request: web.Request) -> web.Response:
        if request.match_info["bucket"] != BUCKET:
            return _error(404, "NoSuchBucket")
        if "versioning" in request.query:
            return _xml(
                f'<VersioningConfiguration xmlns="{NAMESPACE}"><Status>Enabled</Status>'
                "</VersioningConfiguration>"
            )
        if "location" in request.query:
            return _xml(f'<LocationConstraint xmlns="{NAMESPACE}"></LocationConstraint>')
        if "count" in request.query:  # ours, for the check afterwards; no part of S3
            return web.json_response({"keys": keys.held()})
        return _xml(page(keys, request.query))

    async def read(request: web.Request) -> web.Response:
        number = keys.number(request.match_info["key"])
        if number is None or not keys.present(number):
            return _error(404, "NoSuchKey")
        return web.Response(headers=_headers(number))

    async def write(request: web.Request) -> web.Response:
        number = keys.number(request.match_info["key"])
        if number is None or await request.read():
            return _error(400, "InvalidArgument")
        if not keys.present(number):
            keys.put.add(number)
        return web.Response(headers=_headers(number))

    app = web.Application()
    app.router.add_get("/", buckets)
    app.router.add_get("/{bucket}", bucket)
    app.router.add_get("/{bucket}/", bucket)
    app.router.add_get("/{bucket}/{key:.+}", read)
    app.router.add_put("/{bucket}/{key:.+}", write)
    return app


def _headers(number: int) -> dict[str, str]:
    return {
        "ETag": f'"{EMPTY_MD5}"',
        "x-amz-version-id": version_id(number),
        "Last-Modified": format_datetime(mtime(number), usegmt=True),
        "Content-Type": "application/octet-stream",
    }


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/xml")


def _error(status: int, code: str) -> web.Response:
    return web.Response(
        status=status,
        text=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>",
        content_type="application/xml",
    )


async def serve(keys: Keys, *, port: int) -> None:
    """Listen on loopback until cancelled; prints the URL as a line of JSON when ready."""
    runner = web.AppRunner(application(keys), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


@click.command()
@click.option("--keys", type=click.IntRange(1, 100_000_000), required=True)
@click.option("--missing-every", type=click.IntRange(0), default=0)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free one.")
def main(*, keys: int, missing_every: int, port: int) -> None:
    """Serve a generated listing on loopback."""
    asyncio.run(serve(Keys(keys, missing_every), port=port))


if __name__ == "__main__":
    main()
