"""What an endpoint can do, found out by doing it in scratch buckets that are removed again.

Invariant: a capability is granted only for an effect that was seen, never for a request that was
merely not refused; and an endpoint that is busy or gone has answered nothing, so that raises.
Each finding says what was seen, which is what a person needs who is told "cannot".
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from entrepot.clock import new_id
from entrepot.crc import crc32c
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    NotFound,
    PermanentError,
    PreconditionFailed,
    Unsupported,
)
from entrepot.store.protocol import Attributes, Capability, Item, Origin, Store, Version

PROBE_TIME_MS: Final = 1_000_000_000_000
"""September 2001: no endpoint would choose it by itself."""
SAW_MAX_CHARS: Final = 300
_PROVED: Final = b"probe " * 200_000
"""More than one frame."""
WRITE, LIST, REMOVE = "write", "list", "remove"
"""What is looked at besides capabilities: without them nothing can be kept."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether an endpoint can do a thing, and what was seen."""

    can: bool
    saw: str


@dataclass(frozen=True, slots=True)
class Probed:
    """All findings of one probe, by what was looked at."""

    findings: Mapping[str, Finding]

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the endpoint can do, as sites carry it."""
        return frozenset(each for each in Capability if self.findings[each].can)

    def as_json(self) -> dict[str, Any]:
        """The table as the catalog keeps it."""
        return {
            name: {"can": found.can, "saw": found.saw[:SAW_MAX_CHARS]}
            for name, found in self.findings.items()
        }


async def probe(store: Store) -> Probed:
    """Try everything. Raises where no scratch bucket can be made, or the endpoint is busy."""
    bucket = f"entrepot-probe-{new_id().hex[:16]}"
    await _create(store, bucket)
    findings: dict[str, Finding] = {}
    try:
        findings[WRITE] = await _look(_writes, store, bucket)
        for name, look in _LOOKS.items():
            if not findings[WRITE].can:
                findings[name] = Finding(False, "not tried: what was written did not come back")
            elif name == Capability.BATCH and not findings[Capability.ORIGIN].can:
                findings[name] = Finding(False, "not tried: needs ids and times of ours")
            else:
                findings[name] = await _look(look, store, bucket)
    finally:
        removed = await _refusal(_remove(store, bucket))
    findings[Capability.LOCK] = await _locks(store)
    findings[REMOVE] = Finding(
        removed is None, _words(removed) if removed else "the scratch bucket is gone"
    )
    return Probed(findings)


async def _create(store: Store, bucket: str) -> None:
    if await _refusal(store.create(bucket, versioned=True)) is None:
        return
    try:  # it may be there, and only its versioning was refused
        await store.create(bucket, versioned=False)
    except AlreadyExists:
        return


async def _look(
    look: Callable[[Store, str], Awaitable[Finding]], store: Store, bucket: str
) -> Finding:
    try:
        return await look(store, bucket)
    except PermanentError as error:
        return Finding(False, _words(error))


async def _writes(store: Store, bucket: str) -> Finding:
    attributes = Attributes(content_type="text/plain", metadata={"probe": "write"})
    await store.put(bucket, "write", b"probe", attributes=attributes)
    async with store.get(bucket, "write") as body:
        read, kept = await body.read(), body.version.attributes
    if read != b"probe" or kept is None or kept.metadata != attributes.metadata:
        return Finding(False, "other bytes or metadata came back than were written")
    return Finding(True, "bytes and metadata came back")


async def _lists(store: Store, bucket: str) -> Finding:
    await store.put(bucket, "list/a-b", b"1")
    await store.put(bucket, "list/a/b", b"1")
    keys = [each.key async for page in store.list(bucket, prefix="list/") for each in page.versions]
    versions = [each.key for each in await _versions(store, bucket, "list/")]
    if keys != ["list/a-b", "list/a/b"] or versions != keys:
        return Finding(False, f"two keys were listed as {keys} and {versions}")
    return Finding(True, "objects and versions, in key order")


async def _keeps_versions(store: Store, bucket: str) -> Finding:
    if not await store.versioned(bucket):
        return Finding(False, "versioning cannot be switched on")
    for body in (b"1", b"2"):
        await store.put(bucket, "versions", body)
    await store.delete(bucket, "versions")
    found = await _versions(store, bucket, "versions")
    markers = [each.is_delete_marker for each in found]
    if markers != [True, False, False] or len({each.version_id for each in found}) != 3:
        return Finding(False, f"two writes and a delete left {len(found)} versions")
    return Finding(True, "two writes and a delete left three versions")


async def _writes_conditionally(store: Store, bucket: str) -> Finding:
    await store.put(bucket, "conditional", b"1")
    refusals = [
        await _refusal(store.put(bucket, "conditional", b"2", if_none_match=True)),
        await _refusal(store.put(bucket, "conditional", b"2", if_match="0" * 32)),
    ]
    for header, refusal in zip(("If-None-Match", "If-Match"), refusals, strict=True):
        if not isinstance(refusal, PreconditionFailed):
            words = _words(refusal) if refusal else "took it"
            return Finding(False, f"a write whose {header} does not hold: {words}")
    return Finding(True, "writes whose If-Match or If-None-Match does not hold are refused")


async def _keeps_origins(store: Store, bucket: str) -> Finding:
    """Objects, multipart objects and markers keep id and time; an older one stays behind."""
    newer = Origin(str(new_id()), PROBE_TIME_MS)
    older = Origin(str(new_id()), PROBE_TIME_MS - 1000)
    for origin in (newer, older):
        await store.put(bucket, "origin", b"1", origin=origin)
    if not (found := await _kept(store, bucket, "origin", newer)):
        return Finding(False, "a write keeps neither the id nor the time that it was given")
    if not found.is_current:
        return Finding(False, "an older version that came later was taken for the current one")
    marker = Origin(str(new_id()), PROBE_TIME_MS + 1000)
    await store.delete(bucket, "origin", origin=marker)
    if not await _kept(store, bucket, "origin", marker):
        return Finding(False, "a delete marker keeps neither the id nor the time")
    parts = Origin(str(new_id()), PROBE_TIME_MS)
    upload = await store.start(bucket, "origin-parts", origin=parts)
    part = await store.part(bucket, "origin-parts", upload, 1, b"1")
    await store.complete(bucket, "origin-parts", upload, (part,), origin=parts)
    if not await _kept(store, bucket, "origin-parts", parts):
        return Finding(False, "a multipart object keeps neither the id nor the time")
    return Finding(True, "objects, multipart objects and delete markers keep id and time")


async def _kept(store: Store, bucket: str, key: str, origin: Origin) -> Version | None:
    wanted = (key, origin.version_id, origin.mtime_ms)
    for each in await _versions(store, bucket, key):
        if (each.key, each.version_id, each.mtime_ms) == wanted:
            return each
    return None


async def _proves(store: Store, bucket: str) -> Finding:
    """Whether a body is held against the CRC-32C that comes after it, and kept without it."""
    right = crc32c(_PROVED)

    def put(crc: int) -> Awaitable[Version]:
        size = len(_PROVED)
        return store.put(bucket, "trailer", _once(_PROVED), size_bytes=size, crc32c=lambda: crc)

    version = await put(right)
    async with store.get(bucket, "trailer") as body:
        read, kept = await body.read(), body.version.attributes
    if read != _PROVED:
        return Finding(False, "a body came back with its frames")
    if kept and kept.headers:
        return Finding(False, f"a header of the framing was kept: {dict(kept.headers)}")
    if version.etag != hashlib.md5(_PROVED, usedforsecurity=False).hexdigest():
        return Finding(False, "the ETag is not the MD5 of the body")
    if not isinstance(await _refusal(put(right ^ 1)), IntegrityError):
        return Finding(False, "a body was taken that its CRC did not fit")
    return Finding(True, "a body that its CRC-32C does not fit is refused")


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _keeps_tags(store: Store, bucket: str) -> Finding:
    version_id = (await store.put(bucket, "tags", b"1")).version_id
    await store.tag(bucket, "tags", {"probe": "1"}, version_id=version_id)
    found = await store.tags(bucket, "tags", version_id=version_id)
    if found != {"probe": "1"}:
        return Finding(False, "other tags came back than were set")
    return Finding(True, "a version's tags came back")


async def _unpacks(store: Store, bucket: str) -> Finding:
    """Whether a batch arrives with ids, times and attributes; elsewhere it is one odd object."""
    attributes = Attributes(content_type="text/plain", metadata={"probe": "batch"})
    items = [
        Item(f"batch/{n}", b"1", attributes, Origin(str(new_id()), PROBE_TIME_MS + n))
        for n in range(2)
    ]
    await store.batch(bucket, items)
    for item in items:
        try:
            found = await store.head(bucket, item.key, version_id=item.origin.version_id)
        except NotFound:
            return Finding(False, "a tar of objects is not unpacked")
        if found.attributes != attributes:
            return Finding(False, "a tar of objects is unpacked without its attributes")
    times = [each.mtime_ms for each in await _versions(store, bucket, "batch/")]
    if times != [item.origin.mtime_ms for item in items]:
        return Finding(False, "a tar of objects is unpacked without its times")
    return Finding(True, "a tar of objects is unpacked with ids, times and attributes")


async def _locks(store: Store) -> Finding:
    """Whether a version that is held stays.

    No retention is tried: it would outlast a probe whose user may not bypass it.
    """
    bucket = f"entrepot-probe-{new_id().hex[:16]}"
    refusal = await _refusal(store.create(bucket, locked=True))
    if refusal:
        return Finding(False, f"no bucket with object lock: {_words(refusal)}")
    try:
        version_id = (await store.put(bucket, "lock", b"1")).version_id
        refusal = await _refusal(store.hold(bucket, "lock", True, version_id=version_id))
        if refusal:
            return Finding(False, f"no legal hold: {_words(refusal)}")
        refusal = await _refusal(store.delete(bucket, "lock", version_id=version_id))
        if not isinstance(refusal, AccessDenied):
            return Finding(False, "a version under legal hold was removed")
        return Finding(True, "a version under legal hold stayed")
    finally:
        await _refusal(store.hold(bucket, "lock", False))
        await _refusal(_remove(store, bucket))


_LOOKS: Final[Mapping[str, Callable[[Store, str], Awaitable[Finding]]]] = {
    LIST: _lists,
    Capability.VERSIONING: _keeps_versions,
    Capability.CONDITIONAL_WRITE: _writes_conditionally,
    Capability.ORIGIN: _keeps_origins,
    Capability.TAGS: _keeps_tags,
    Capability.TRAILER: _proves,
    Capability.BATCH: _unpacks,
}


async def _versions(store: Store, bucket: str, prefix: str) -> list[Version]:
    return [each async for page in store.versions(bucket, prefix=prefix) for each in page.versions]


def _words(error: PermanentError) -> str:
    return f"{type(error).__name__}: {error.message}"


async def _refusal(request: Awaitable[object]) -> PermanentError | None:
    """How the endpoint refuses; one that is busy or gone has answered nothing and raises."""
    try:
        await request
    except PermanentError as error:
        return error
    return None


async def _remove(store: Store, bucket: str) -> None:
    try:
        versions = await _versions(store, bucket, "")
    except Unsupported:  # an endpoint that lists no versions has none
        keys = [each.key async for page in store.list(bucket) for each in page.versions]
        for key in keys:
            await store.delete(bucket, key)
    else:
        for version in versions:
            await store.delete(bucket, version.key, version_id=version.version_id)
    await store.drop(bucket)
