"""Names, order and attributes of what the memory and local stores hold, in one SQLite database.

Each public method is one transaction: what it writes is there whole or not at all, and what is
*current* is settled in it, so conditions hold under concurrency, between processes as well.
Memory does not grow with the number of objects: listings read one page by its key.

Words: *extent* a stored piece of a body (a whole object, or one part of a multipart upload);
*arrival* the order of commits, which settles equal times: the newest arrival is current.
"""

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from entrepot.errors import (
    AlreadyExists,
    BucketNotFound,
    ConfigError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from entrepot.store.protocol import NULL_VERSION, Attributes, Part, Version
from entrepot.store.records import ANY, Change, Condition, Extent, Stored, dump, load, stored_row

PART_MIN_BYTES = 5 * 1024 * 1024
"""Smallest part, except the last, as S3 has it."""

_FORMAT = 1
_SCHEMA = """
CREATE TABLE buckets (name TEXT PRIMARY KEY, versioned INT NOT NULL, created_ms INT NOT NULL);
CREATE TABLE versions (
  arrival INTEGER PRIMARY KEY AUTOINCREMENT,
  bucket TEXT NOT NULL, key BLOB NOT NULL, version_id TEXT NOT NULL, mtime_ms INT NOT NULL,
  size_bytes INT NOT NULL, etag TEXT NOT NULL, is_current INT NOT NULL,
  is_delete_marker INT NOT NULL, attributes TEXT NOT NULL, extents TEXT NOT NULL,
  UNIQUE (bucket, key, version_id));
CREATE INDEX by_age ON versions (bucket, key, mtime_ms DESC, arrival DESC);
CREATE INDEX by_key ON versions (bucket, key) WHERE is_current AND NOT is_delete_marker;
CREATE TABLE uploads (
  upload_id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL,
  version_id TEXT NOT NULL, attributes TEXT NOT NULL);
CREATE TABLE parts (
  upload_id TEXT NOT NULL, number INT NOT NULL, name TEXT NOT NULL, size_bytes INT NOT NULL,
  md5 TEXT NOT NULL, PRIMARY KEY (upload_id, number));
"""
_COLUMNS = (
    "arrival, key, version_id, mtime_ms, size_bytes, etag, is_current, is_delete_marker,"
    " attributes, extents"
)
_ROW_OF_KEY = f"SELECT {_COLUMNS} FROM versions WHERE bucket = ? AND key = ?"  # noqa: S608


class Index:
    """One database; ``path`` is a file or ``":memory:"``. Safe to call from any thread."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.RLock()
        # Autocommit: transactions are opened and ended by ``_write`` alone.
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._finalizer = weakref.finalize(self, self._db.close)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # an answered write survives a power cut
        with self._write():
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise ConfigError(f"store has format {found}, this program knows {_FORMAT}")
            if not found:
                for statement in _SCHEMA.strip().removesuffix(";").split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_FORMAT}")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._finalizer()

    @contextmanager
    def _write(self) -> Iterator[None]:
        with self._lock:
            if self._db.in_transaction:  # part of a larger one
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, *values: object) -> Sequence[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # Buckets

    def create(self, bucket: str, *, versioned: bool, now_ms: int) -> None:
        """Add a bucket; ``AlreadyExists``."""
        with self._write():
            try:
                self._db.execute(
                    "INSERT INTO buckets VALUES (?, ?, ?)", (bucket, versioned, now_ms)
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists("bucket exists", bucket=bucket) from error

    def drop(self, bucket: str) -> tuple[str, ...]:
        """Remove an empty bucket and its uploads; returns the extents nobody needs now."""
        with self._write():
            self._versioned(bucket)
            row = "SELECT 1 FROM versions WHERE bucket = ? LIMIT 1"
            if self._db.execute(row, (bucket,)).fetchone():
                raise PreconditionFailed("bucket is not empty", bucket=bucket)
            uploads = self._db.execute("SELECT upload_id FROM uploads WHERE bucket = ?", (bucket,))
            unused = [name for (upload,) in uploads.fetchall() for name in self._forget(upload)]
            self._db.execute("DELETE FROM buckets WHERE name = ?", (bucket,))
            return tuple(unused)

    def buckets(self) -> Sequence[tuple[str, int]]:
        """Name and time of creation (Unix ms) of each bucket, by name."""
        return self._read("SELECT name, created_ms FROM buckets ORDER BY name")

    def versioned(self, bucket: str) -> bool:
        """Whether the bucket keeps older versions; ``BucketNotFound``."""
        with self._lock:
            return self._versioned(bucket)

    def _versioned(self, bucket: str) -> bool:
        sql = "SELECT versioned FROM buckets WHERE name = ?"
        row = self._db.execute(sql, (bucket,)).fetchone()
        if row is None:
            raise BucketNotFound("bucket is not there", bucket=bucket)
        return bool(row[0])

    # Versions

    def find(self, bucket: str, key: str, version_id: str | None) -> Stored:
        """The current version, or the one of that id; a delete marker counts as not found."""
        with self._lock:
            self._versioned(bucket)
            found = self._find(bucket, key, version_id)
        if found is None or found.version.is_delete_marker:
            raise NotFound("object is not there", bucket=bucket, key=key, version=version_id)
        return found

    def _find(self, bucket: str, key: str, version_id: str | None) -> Stored | None:
        which = "is_current" if version_id is None else "version_id = ?"
        values = (bucket, key.encode(), *(() if version_id is None else (version_id,)))
        row = self._db.execute(f"{_ROW_OF_KEY} AND {which}", values).fetchone()
        return stored_row(row) if row else None

    def add(
        self,
        bucket: str,
        draft: Stored,
        *,
        chosen: bool = False,
        condition: Condition = ANY,
        publish: Callable[[], None] = lambda: None,
    ) -> Change:
        """Commit ``draft``; ``publish`` makes its bytes final, last before the commit.

        ``chosen``: id and time are an origin's, so a version that exists already stays as it is.
        In an unversioned bucket the version takes the place of the ``null`` one.
        """
        with self._write():
            version = draft.version
            unused: tuple[str, ...] = ()
            versioned = self._versioned(bucket)
            if chosen and not versioned:
                raise InvalidInput("an origin needs a versioned bucket", bucket=bucket)
            if chosen and (there := self._find(bucket, version.key, version.version_id)):
                return Change(there.version)
            self._check(bucket, version.key, condition)
            publish()
            if not versioned:
                version = replace(version, version_id=NULL_VERSION)
                unused = self._remove(bucket, version.key, NULL_VERSION)
            self._insert(bucket, replace(draft, version=version))
            self._elect(bucket, version.key)
            added = self._find(bucket, version.key, version.version_id)
            assert added is not None
            return Change(added.version, unused)

    def _check(self, bucket: str, key: str, condition: Condition) -> None:
        if condition.if_match is None and not condition.if_none_match:
            return
        found = self._find(bucket, key, None)
        etag = found.version.etag if found and not found.version.is_delete_marker else None
        if condition.if_none_match and etag is not None:
            raise PreconditionFailed("object exists", bucket=bucket, key=key)
        if condition.if_match is not None and etag != condition.if_match:
            raise PreconditionFailed("object changed", bucket=bucket, key=key, etag=etag)

    def _insert(self, bucket: str, stored: Stored) -> None:
        version = stored.version
        self._db.execute(
            "INSERT INTO versions VALUES (NULL, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (
                bucket,
                version.key.encode(),
                version.version_id,
                version.mtime_ms,
                version.size_bytes,
                version.etag,
                version.is_delete_marker,
                dump(version.attributes or Attributes()),
                json.dumps([(part.name, part.size_bytes, part.md5) for part in stored.extents]),
            ),
        )

    def _elect(self, bucket: str, key: str) -> None:
        of_key = (bucket, key.encode())
        self._db.execute(
            "UPDATE versions SET is_current = 0 WHERE bucket = ? AND key = ? AND is_current", of_key
        )
        self._db.execute(
            "UPDATE versions SET is_current = 1 WHERE arrival = (SELECT arrival FROM versions"
            " WHERE bucket = ? AND key = ? ORDER BY mtime_ms DESC, arrival DESC LIMIT 1)",
            of_key,
        )

    def remove(self, bucket: str, key: str, version_id: str) -> tuple[str, ...]:
        """Remove one version, if it is there; returns the extents nobody needs now."""
        with self._write():
            self._versioned(bucket)
            unused = self._remove(bucket, key, version_id)
            self._elect(bucket, key)
            return unused

    def _remove(self, bucket: str, key: str, version_id: str) -> tuple[str, ...]:
        found = self._find(bucket, key, version_id)
        if found is None:
            return ()
        self._db.execute("DELETE FROM versions WHERE arrival = ?", (found.arrival,))
        return tuple(extent.name for extent in found.extents)

    # Listings

    def page(
        self, bucket: str, *, prefix: str, lower: bytes, last: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """Up to ``limit`` versions from key ``lower`` on, those after ``last`` in its own key."""
        self.versioned(bucket)
        mtime_ms, arrival = (last.version.mtime_ms, last.arrival) if last else (None, None)
        rows = self._read(
            f"SELECT {_COLUMNS} FROM versions WHERE bucket = ? AND key >= ? AND key < ?"  # noqa: S608
            " AND (? IS NULL OR key > ? OR (mtime_ms, arrival) < (?, ?))"
            " ORDER BY key, mtime_ms DESC, arrival DESC LIMIT ?",
            *(bucket, max(lower, prefix.encode()), beyond(prefix)),
            *(mtime_ms, lower, mtime_ms, arrival, limit),
        )
        return [stored_row(row) for row in rows]

    def page_current(
        self, bucket: str, *, prefix: str, after: str, delimiter: str, limit: int
    ) -> Sequence[Version]:
        """Up to ``limit`` current objects and common prefixes that sort after ``after``."""
        self.versioned(bucket)
        entries: list[Version] = []
        lower: bytes | None = max(prefix.encode(), after.encode() + b"\0" if after else b"")
        with self._lock:
            while lower is not None and len(entries) < limit:
                wanted = limit - len(entries)
                rows = self._current(bucket, prefix=prefix, lower=lower, limit=wanted)
                lower = _fold(rows, prefix, after, delimiter, entries)
        return entries

    def _current(self, bucket: str, *, prefix: str, lower: bytes, limit: int) -> Iterator[Version]:
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM versions WHERE bucket = ? AND key >= ? AND key < ?"  # noqa: S608
            " AND is_current AND NOT is_delete_marker ORDER BY key LIMIT ?",
            (bucket, lower, beyond(prefix), limit),
        )
        return (stored_row(row).version for row in rows)

    # Multipart uploads

    def start(
        self, bucket: str, key: str, upload_id: str, attributes: Attributes, version_id: str
    ) -> None:
        """Begin an upload; ``version_id`` is an origin's, or "" for one minted at the end."""
        with self._write():
            if not self._versioned(bucket) and version_id:
                raise InvalidInput("an origin needs a versioned bucket", bucket=bucket)
            self._db.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?)",
                (upload_id, bucket, key.encode(), version_id, dump(attributes)),
            )

    def upload(self, bucket: str, key: str, upload_id: str) -> tuple[str, Attributes]:
        """Version id ("" if none was chosen) and attributes of an upload; ``NotFound``."""
        self.versioned(bucket)
        rows = self._read(
            "SELECT version_id, attributes FROM uploads"
            " WHERE upload_id = ? AND bucket = ? AND key = ?",
            *(upload_id, bucket, key.encode()),
        )
        if not rows:
            raise NotFound("upload is not there", bucket=bucket, key=key, upload=upload_id)
        return rows[0][0], load(rows[0][1])

    def add_part(
        self, upload_id: str, number: int, extent: Extent, publish: Callable[[], None]
    ) -> tuple[str, ...]:
        """Commit a part, in place of one of that number; returns extents nobody needs now."""
        with self._write():
            sql = "SELECT 1 FROM uploads WHERE upload_id = ?"
            if not self._db.execute(sql, (upload_id,)).fetchone():
                raise NotFound("upload is not there", upload=upload_id)
            old = self._parts(upload_id).get(number)
            publish()
            self._db.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)",
                (upload_id, number, extent.name, extent.size_bytes, extent.md5),
            )
            return (old.name,) if old else ()

    def complete(
        self, bucket: str, upload_id: str, draft: Version, parts: Sequence[Part], *, chosen: bool
    ) -> Change:
        """Turn the named parts into a version like ``draft``; the upload ends."""
        with self._write():
            there = self._parts(upload_id)
            extents = _chosen_parts(there, parts)
            whole = hashlib.md5(usedforsecurity=False)
            for extent in extents:
                whole.update(bytes.fromhex(extent.md5))
            version = replace(
                draft,
                etag=draft.etag or f"{whole.hexdigest()}-{len(extents)}",
                size_bytes=sum(extent.size_bytes for extent in extents),
            )
            change = self.add(
                bucket,
                Stored(version, extents),
                chosen=chosen,
            )
            self._forget(upload_id)
            kept = self._find(bucket, version.key, change.version.version_id)
            names = {extent.name for extent in kept.extents} if kept else set()
            left = (extent.name for extent in there.values() if extent.name not in names)
            return replace(change, unused=(*change.unused, *left))

    def abort(self, upload_id: str) -> tuple[str, ...]:
        """End an upload, if it is there; returns the extents nobody needs now."""
        with self._write():
            return self._forget(upload_id)

    def _parts(self, upload_id: str) -> dict[int, Extent]:
        sql = "SELECT number, name, size_bytes, md5 FROM parts WHERE upload_id = ?"
        return {row[0]: Extent(*row[1:]) for row in self._db.execute(sql, (upload_id,))}

    def _forget(self, upload_id: str) -> tuple[str, ...]:
        names = tuple(extent.name for extent in self._parts(upload_id).values())
        self._db.execute("DELETE FROM parts WHERE upload_id = ?", (upload_id,))
        self._db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))
        return names

    def uses(self, name: str) -> bool:
        """Whether some version or part has an extent of that name (reads all; for clean-up)."""
        rows = self._read(
            "SELECT 1 FROM parts WHERE name = ?1"
            " UNION ALL SELECT 1 FROM versions WHERE instr(extents, ?1) LIMIT 1",
            name,
        )
        return bool(rows)


def beyond(prefix: str) -> bytes:
    """The smallest bytes above every key that starts with ``prefix``."""
    raw = prefix.encode() or b"\xfe"  # UTF-8 has no byte above 0xf4
    return raw[:-1] + bytes((raw[-1] + 1,))


def _fold(
    rows: Iterator[Version], prefix: str, after: str, delimiter: str, entries: list[Version]
) -> bytes | None:
    """Move ``rows`` to ``entries`` up to a common prefix; returns the first key beyond that."""
    for version in rows:
        head, mark, _ = version.key[len(prefix) :].partition(delimiter or "\0")
        if not (delimiter and mark):
            entries.append(replace(version, version_id=NULL_VERSION, attributes=None))
            continue
        common = prefix + head + mark
        if common.encode() > after.encode():
            entries.append(Version(key=common, version_id="", mtime_ms=0))
        return beyond(common)
    return None


def _chosen_parts(there: dict[int, Extent], parts: Sequence[Part]) -> tuple[Extent, ...]:
    numbers = [part.number for part in parts]
    if not parts or numbers != sorted(set(numbers)):
        raise InvalidInput("parts must be named once each, in order")
    for part in parts:
        if part.number not in there or there[part.number].md5 != part.etag:
            raise InvalidInput("part is not there", number=part.number, etag=part.etag)
    extents = tuple(there[number] for number in numbers)
    for part, extent in zip(parts[:-1], extents, strict=False):
        if extent.size_bytes < PART_MIN_BYTES:
            raise InvalidInput("part is smaller than 5 MiB", number=part.number)
    return extents
