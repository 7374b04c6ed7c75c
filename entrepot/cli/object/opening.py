"""What the commands of objects share: a site's objects, hints, versions as people read them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entrepot.cli.sites import first

if TYPE_CHECKING:
    from entrepot.catalog.objects.facts import ObjectRow
    from entrepot.objects.service import Objects


@asynccontextmanager
async def opened(
    config_path: Path | None, site_name: str | None, bucket: str, *, key: str = ""
) -> "AsyncGenerator[Objects, None]":
    """The objects of a site; errors about ``bucket`` and ``key`` leave it with what to type."""
    from entrepot.config import load
    from entrepot.objects.open import open_objects

    config = load(config_path)
    with _hints(bucket, key):
        async with open_objects(config, first(config, site_name)) as objects:
            yield objects


@contextmanager
def _hints(bucket: str, key: str) -> Iterator[None]:
    from shlex import quote

    from entrepot.errors import BucketNotFound, DeleteMarker, NotFound, PreconditionFailed

    try:
        yield
    except BucketNotFound as error:
        made = f"entrepot bucket create {bucket} --tenant ID"
        error.hint = f"entrepot bucket list, for other sites too; a new one: {made}"
        raise
    except DeleteMarker as error:
        error.hint = f"entrepot object versions {bucket} {quote(key)}; get one by --version-id"
        raise
    except NotFound as error:
        error.hint = error.hint or f"entrepot object list {bucket}"
        raise
    except PreconditionFailed as error:
        error.hint = error.hint or f"entrepot object explain {bucket} {quote(key)}"
        raise


def actor() -> str:
    """Who asks, for the audit trail: the user of this process."""
    import os
    import pwd

    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container may run as a number without a name
        return f"cli:{os.getuid()}"


async def key_versions(
    objects: "Objects", bucket: str, key: str, *, most: int
) -> "list[ObjectRow]":
    """The versions of one key, newest first, at most ``most``."""
    rows: list[ObjectRow] = []
    async for row in walk_versions(objects, bucket, prefix=key):
        if row.key != key or len(rows) == most:
            break
        rows.append(row)
    return rows


async def walk_versions(
    objects: "Objects", bucket: str, *, prefix: str
) -> "AsyncGenerator[ObjectRow, None]":
    """Every version of the keys that start with ``prefix``, page by page."""
    after = after_version = ""
    while rows := await objects.versions(
        bucket, prefix=prefix, after=after, after_version=after_version
    ):
        for row in rows:
            yield row
        after, after_version = rows[-1].key, rows[-1].version_id


def facts(row: "ObjectRow") -> dict[str, Any]:
    """What a version is, by name. ``key_number`` is of the tenant key, None where not encrypted."""
    from entrepot.codec.seal import Seal

    seal = Seal.parse(row.seal) if row.seal else None
    return {
        "key": row.key,
        "version": row.version_id,
        "what": "delete marker" if row.is_delete_marker else "object",
        "written": iso(row.stamp.time_ms),
        "site": row.stamp.site,
        "writer": row.stamp.writer,
        "stamp": str(row.stamp),
        "parent": str(row.parent) if row.parent else None,
        "quarantined": row.is_quarantined,
        "encrypted": bool(seal and seal.encrypted),
        "compressed": bool(seal and seal.compressed),
        "key_number": seal.key_number if seal and seal.encrypted else None,
        "size_bytes": row.size_bytes,
        "stored_bytes": row.stored_bytes,
        "etag": row.etag,
    }


def iso(time_ms: int) -> str:
    """Unix milliseconds as ISO 8601 in UTC; a quarantined time may be past what that can say."""
    from datetime import UTC, datetime, timedelta

    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    except OverflowError:
        return f"{time_ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(key: str) -> str:
    """A key on one line of a terminal: quoted where it holds what could steer one."""
    import json

    return key if key.isprintable() else json.dumps(key)
