"""Where bytes live: one protocol for objects and versions, a second for buckets and parts.

These docstrings are the specification; ``entrepot.testing.store_contract`` checks every backend
against them. Retry, limits and faults are wrappers with the same protocol; a backend itself does
neither retry nor sleep.

Words: *version* one state of a key, an object or a delete marker; *current* the version that a
read without a version id sees; *noncurrent* any other; *locked* a version that cannot be removed,
since it is *retained* until a time or *held* without one. A key is 1 to 1,024 bytes of UTF-8.
Keys sort by the bytes of their UTF-8 form, as S3 says.

Errors: ``NotFound``, ``BucketNotFound``, ``AlreadyExists``, ``PreconditionFailed``,
``AccessDenied``, ``IntegrityError``, ``Unsupported`` and ``InvalidInput`` are permanent;
``Unavailable`` and ``Throttled`` are worth another try.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from entrepot.store.lifecycle import Expiry
from entrepot.store.settings import Setting

NULL_VERSION = "null"
"""Version id of what was written while versioning was off (S3's own word)."""

KEY_MAX_BYTES = 1024
PAGE_MAX = 1000
"""Most entries in one page of a listing, as S3 has it."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version as a listing, a HEAD or a write reports it.

    ``etag`` has no quotes and is "" for a delete marker. ``mtime_ms`` is Unix time in
    milliseconds; a HEAD knows whole seconds only. ``attributes`` and ``lock`` are ``None`` where
    the call does not report them (listings of most endpoints).
    """

    key: str
    version_id: str
    mtime_ms: int
    size_bytes: int = 0
    etag: str = ""
    is_current: bool = True
    is_delete_marker: bool = False
    attributes: "Attributes | None" = None
    lock: "Lock | None" = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """What travels with the bytes of a version.

    ``metadata`` holds the user's pairs, names in lower case without ``x-amz-meta-``.
    ``headers`` holds the standard ones that S3 stores, names in lower case: ``cache-control``,
    ``content-disposition``, ``content-encoding``, ``content-language``, ``expires``.
    A GET or HEAD fills ``tag_count`` only; ``BucketStore.tags`` reads the tags themselves.
    """

    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    tag_count: int = 0


class LockMode(StrEnum):
    """Who may end a retention early: in governance mode who asks to bypass it, else nobody."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class Lock:
    """What keeps a version from being removed; ``until`` is UTC and has whole seconds.

    ``mode`` and ``until`` are given together, and stay when their time has passed.
    """

    mode: LockMode | None = None
    until: datetime | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Version id and time chosen by the writer; needs ``Capability.ORIGIN``.

    The write becomes current only if its time is the newest of its key. ``etag`` overrides the
    computed one where the endpoint allows it ("" leaves it alone). ``lock`` is that of the version
    from its first moment on, for objects only; it needs a bucket with object lock, or the write is
    ``Unsupported``. In such a bucket a version that is there already may not be written again.
    """

    version_id: str
    mtime_ms: int
    etag: str = ""
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One small object of a ``batch``."""

    key: str
    body: bytes
    attributes: Attributes
    origin: Origin


class Capability(StrEnum):
    """What an endpoint can do; probed and stored, never inferred from its brand."""

    VERSIONING = "versioning"
    CONDITIONAL_WRITE = "conditional-write"
    ORIGIN = "origin"  # keeps a version id and a time chosen by the writer
    TAGS = "tags"
    BATCH = "batch"  # unpacks a tar of objects, each with its origin and attributes
    LOCK = "lock"  # keeps versions that are retained or held from being removed
    TRAILER = "trailer"  # proves a body by the CRC that comes after it; its ETag is the MD5


class Body(Protocol):
    """The bytes of one version, or of a range or part of it, readable once.

    ``version.size_bytes`` is the size of the whole version, ``length`` that of this read.
    """

    version: Version
    length: int

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces in order; raises ``Unavailable`` or ``IntegrityError`` when cut short."""
        ...

    async def read(self) -> bytes:
        """All of it; for objects known to be small."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in key order, decoded only where somebody looks.

    ``tokens`` holds one opaque piece of bytes an entry: equal tokens (from endpoints of one kind)
    mean equal key, time, size and ETag, so that two sites in step are compared without decoding.
    ``decode`` turns a token into its ``Version``; ``usual``, where it is known, tells the same of
    most tokens in half the time, and nothing of the others.
    """

    tokens: Sequence[bytes]
    decode: Callable[[bytes], Version]
    usual: "Callable[[bytes], Usual | None] | None" = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def versions(self) -> list[Version]:
        """Every entry, decoded."""
        return [self.decode(token) for token in self.tokens]


Usual = tuple[bytes, str, int, int, str, bool]
"""Key (UTF-8), version id (a UUID), time, size, ETag and whether it is current, of an object."""

Source = bytes | AsyncIterator[bytes]
"""The bytes of a write: in memory, or pieces in order."""


@runtime_checkable
class ObjectStore(Protocol):
    """Objects and versions of one endpoint."""

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
        """Store ``source`` as a new version; it is visible whole or not at all.

        ``size_bytes`` is required for an iterator. ``md5`` (16 raw bytes) makes the endpoint
        refuse other bytes with ``IntegrityError``; so does ``crc32c``, which is asked once the last
        byte was given, and needs ``Capability.TRAILER``. ``if_match`` (an ETag of the current
        version) and ``if_none_match`` (no current version) raise ``PreconditionFailed``; a delete
        marker is no current version for either. Putting an ``origin`` whose version exists already
        changes nothing, or is ``AccessDenied`` where that version is locked. Metadata comes back
        equal or is refused with ``InvalidInput``; values with control characters or blanks around
        them always are.
        """
        ...

    async def batch(self, bucket: str, items: Sequence[Item]) -> Sequence[Item]:
        """Store small objects in as few requests as the endpoint can; needs ``Capability.BATCH``.

        Returns those that it cannot store this way, untouched. The others are on their way: each
        is whole or absent afterwards, and which are there is known by looking, also where this
        raises. Storing an item again changes nothing.
        """
        ...

    def get(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        stop: int | None = None,
        part: int | None = None,
    ) -> AbstractAsyncContextManager[Body]:
        """Open a version for reading; ``NotFound`` where the current one is a delete marker.

        ``start`` (inclusive) and ``stop`` (exclusive) are byte offsets; ``stop`` past the end is
        the end, and a range that holds no byte is ``InvalidInput``. ``part`` (from 1) reads one
        part of a multipart object instead. ``Body.version`` has the size of the whole object.
        A delete marker is ``NotFound`` by its own id as well, with the field ``status`` 405.
        """
        ...

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> Version:
        """The version without its bytes, attributes included (tags excepted)."""
        ...

    async def delete(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        origin: Origin | None = None,
        bypass: bool = False,
    ) -> Version | None:
        """Without ``version_id``: add a delete marker (returned); with it: remove that version.

        Deleting what is not there is no error; an endpoint may then add no marker and return
        ``None``, unless ``origin`` is given. In an unversioned bucket the object goes and
        ``None`` is returned. ``origin`` gives the marker's version id and time. A locked version
        is not removed: ``AccessDenied``. ``bypass`` removes one that is retained in governance
        mode and not held; give it for buckets with object lock only.
        """
        ...

    async def copy(
        self,
        bucket: str,
        key: str,
        *,
        source: tuple[str, str, str | None],
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> Version:
        """Copy (bucket, key, version id) within the endpoint, without its lock.

        ``attributes`` take the place of the source's, tags included. A copy is one part, so the
        ETag of a multipart object changes. A key is copied onto itself only with a version id or
        ``attributes``.
        """
        ...

    def list(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        delimiter: str = "",
        page_size: int = PAGE_MAX,
    ) -> AsyncIterator[Page]:
        """Current objects whose key starts with ``prefix`` and sorts after ``after``.

        With ``delimiter``, keys that share the part up to it are one entry: a ``Version`` whose
        key ends with the delimiter and whose ``version_id`` is "" (a common prefix). Objects
        have ``NULL_VERSION`` there, since this listing does not name versions. A common prefix
        may be listed though all its keys are deleted.
        """
        ...

    def versions(
        self,
        bucket: str,
        *,
        prefix: str = "",
        after: str = "",
        page_size: int = PAGE_MAX,
        details: bool = False,
    ) -> AsyncIterator[Page]:
        """All versions and delete markers, by key, newest first within a key.

        ``after`` skips every version of that key and of smaller ones. With ``details``, objects
        come with their attributes, tags included, and their lock, where the endpoint has a
        listing that tells (else both stay ``None``). Who may not read tags sees none there, and
        no error; and tokens of equal versions may differ.
        """
        ...

    async def close(self) -> None:
        """Give back connections and files; the store cannot be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """A bucket as its endpoint lists it."""

    name: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """One stored part of a multipart upload; ``number`` is 1 to 10,000."""

    number: int
    etag: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was started, and neither completed nor dropped.

    ``started`` of one with an origin may be the origin's time.
    """

    key: str
    upload_id: str
    started: datetime


@runtime_checkable
class BucketStore(Protocol):
    """Buckets, multipart uploads, tags and locks of one endpoint."""

    async def create(self, bucket: str, *, versioned: bool = True, locked: bool = False) -> None:
        """Make a bucket; ``AlreadyExists`` where there is one.

        ``locked``: with object lock, for ever, and versioned. It needs ``Capability.LOCK`` and
        locks no version by itself.
        """
        ...

    async def drop(self, bucket: str) -> None:
        """Remove an empty bucket; ``PreconditionFailed`` where versions remain."""
        ...

    async def buckets(self) -> tuple[BucketInfo, ...]:
        """All buckets, by name."""
        ...

    async def versioned(self, bucket: str) -> bool:
        """Whether new writes keep older versions."""
        ...

    async def setting(self, bucket: str, name: Setting) -> str:
        """A setting's document in its canonical form (``entrepot.store.settings``); "" for none.

        ``Unsupported`` where the endpoint has no such setting, and for ``Setting.LOCK`` of a
        bucket without object lock.
        """
        ...

    async def configure(self, bucket: str, name: Setting, document: str) -> None:
        """Replace a setting; "" removes it, but for versioning and lock.

        What the endpoint has no such setting for is ``Unsupported``, what it does not understand
        ``InvalidInput``.
        """
        ...

    async def start(
        self,
        bucket: str,
        key: str,
        *,
        attributes: Attributes | None = None,
        origin: Origin | None = None,
    ) -> str:
        """Begin a multipart upload; returns its id."""
        ...

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
        """Store part ``number``; 5 MiB at least, except the last. ``crc32c`` as in ``put``."""
        ...

    async def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: tuple[Part, ...],
        *,
        origin: Origin | None = None,
    ) -> Version:
        """Make the object visible; its ETag is the MD5 of the parts' MD5s, "-" and their count.

        Size and time of the answer are 0 where the endpoint does not report them. ``origin`` is
        the one that the upload was started with.
        """
        ...

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; no error where it is gone."""
        ...

    async def tags(
        self, bucket: str, key: str, *, version_id: str | None = None
    ) -> Mapping[str, str]:
        """The tags of a version."""
        ...

    async def tag(
        self, bucket: str, key: str, tags: Mapping[str, str], *, version_id: str | None = None
    ) -> None:
        """Replace the tags of a version: up to 10; none removes them.

        A name has 1 to 128 characters and a value up to 256. An endpoint keeps ASCII letters,
        digits, blanks and ``+-=._:/@``; it may refuse other signs with ``InvalidInput``.
        """
        ...

    async def lifecycle(self, bucket: str) -> tuple[Expiry, ...]:
        """What the bucket's own lifecycle removes: its enabled rules, but those on tags."""
        ...

    async def parts(self, bucket: str, key: str, upload_id: str) -> tuple[Part, ...]:
        """The parts stored so far, by number; ``NotFound`` where the upload is gone."""
        ...

    async def uploads(self, bucket: str, *, prefix: str = "") -> tuple[Upload, ...]:
        """Uploads whose key starts with ``prefix``, by key and time.

        An endpoint may forget them at a restart, but for those whose whole key is ``prefix``
        (MinIO does): who must find every upload keeps a list.
        """
        ...

    async def lock(self, bucket: str, key: str, *, version_id: str | None = None) -> Lock:
        """The lock of a version; ``Lock()`` where nothing was ever set.

        Here and in ``retain`` and ``hold``: a delete marker is ``NotFound``, and a bucket without
        object lock ``Unsupported``.
        """
        ...

    async def retain(
        self,
        bucket: str,
        key: str,
        *,
        mode: LockMode | None,
        until: datetime | None,
        version_id: str | None = None,
        bypass: bool = False,
    ) -> None:
        """Keep a version from being removed until a time to come; both ``None`` ends that.

        A retention that has not passed may only get longer, in its mode, or is ``AccessDenied``;
        ``bypass`` allows any change to one in governance mode. Setting it again changes nothing.
        """
        ...

    async def hold(self, bucket: str, key: str, on: bool, *, version_id: str | None = None) -> None:
        """Keep a version from being removed until this is called with ``False``.

        No ``bypass`` helps against a hold.
        """
        ...


class Store(ObjectStore, BucketStore, Protocol):
    """Both protocols: what a backend is and a wrapper wraps."""
