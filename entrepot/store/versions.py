"""Buckets and versions of what the memory and local stores hold: names, order and attributes.

Each public method is one transaction: what it writes is there whole or not at all, and what is
*current* is settled in it, so conditions hold under concurrency, between processes as well.
Memory does not grow with the number of objects: listings read one page by its key.

Words: *extent* a stored piece of a body (a whole object, or one part of a multipart upload);
*arrival* the order of commits, which settles equal times: the newest arrival is current.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from entrepot.errors import (
    AlreadyExists,
    BucketNotFound,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from entrepot.store.database import Database
from entrepot.store.locks import UNLOCKED, check_change, check_removal
from entrepot.store.protocol import NULL_VERSION, Attributes, Lock, LockMode, Version
from entrepot.store.records import (
    ANY,
    Change,
    Condition,
    Stored,
    dump,
    dump_lock,
    stored_row,
)
from entrepot.store.settings import Setting

VERSIONED = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
_COLUMNS = (
    "arrival, key, version_id, mtime_ms, size_bytes, etag, is_current, is_delete_marker,"
    " attributes, extents, lock"
)
_ROW_OF_KEY = f"SELECT {_COLUMNS} FROM versions WHERE bucket = ? AND key = ?"  # noqa: S608


class VersionIndex(Database):
    """Buckets and versions; ``Index`` adds multipart uploads."""

    # Buckets

    def create(self, bucket: str, *, versioned: bool, locked: bool, now_ms: int) -> None:
        """Add a bucket; ``AlreadyExists``."""
        with self._write():
            try:
                self._db.execute(
                    "INSERT INTO buckets VALUES (?, ?, ?, ?)",
                    (bucket, versioned or locked, now_ms, locked),
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists("bucket exists", bucket=bucket) from error

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

    def setting(self, bucket: str, name: Setting) -> str:
        """A setting's document, "" for none."""
        if name is Setting.VERSIONING:
            return VERSIONED if self.versioned(bucket) else ""
        sql = "SELECT document FROM settings WHERE bucket = ? AND name = ?"
        return "".join(document for (document,) in self._read(sql, bucket, name))

    def configure(self, bucket: str, name: Setting, document: str) -> None:
        """Replace a setting, or remove it; versioning can be switched on only."""
        with self._write():
            self._versioned(bucket)
            if name is Setting.VERSIONING:
                if document != VERSIONED:
                    raise InvalidInput("versioning stays on", bucket=bucket)
                self._db.execute("UPDATE buckets SET versioned = 1 WHERE name = ?", (bucket,))
                return
            of = (bucket, str(name))
            self._db.execute("DELETE FROM settings WHERE bucket = ? AND name = ?", of)
            if document:
                self._db.execute("INSERT INTO settings VALUES (?, ?, ?)", (*of, document))

    # Versions

    def find(self, bucket: str, key: str, version_id: str | None) -> Stored:
        """The current version, or the one of that id; a delete marker counts as not found."""
        with self._lock:
            self._versioned(bucket)
            found = self._find(bucket, key, version_id)
        if found is None or (version_id is None and found.version.is_delete_marker):
            raise NotFound("object is not there", bucket=bucket, key=key, version=version_id)
        if found.version.is_delete_marker:  # said as HTTP does
            why = "version is a delete marker"
            raise NotFound(why, bucket=bucket, key=key, version=version_id, status=405)
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
            if draft.lock != Lock():
                self._check_lockable(bucket)
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
            "INSERT INTO versions VALUES (NULL, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)",
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
                dump_lock(stored.lock),
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

    def remove(
        self, bucket: str, key: str, version_id: str, *, now: datetime, bypass: bool
    ) -> tuple[str, ...]:
        """Remove one version, if it is there; returns the extents nobody needs now."""
        with self._write():
            self._versioned(bucket)
            if found := self._find(bucket, key, version_id):
                check_removal(found.lock, now, bypass=bypass)
            unused = self._remove(bucket, key, version_id)
            self._elect(bucket, key)
            return unused

    def _remove(self, bucket: str, key: str, version_id: str) -> tuple[str, ...]:
        found = self._find(bucket, key, version_id)
        if found is None:
            return ()
        self._db.execute("DELETE FROM versions WHERE arrival = ?", (found.arrival,))
        return tuple(extent.name for extent in found.extents)

    # What changes on a version that stays

    def tag(self, bucket: str, key: str, version_id: str | None, tags: Mapping[str, str]) -> None:
        """Replace the tags of a version; ``NotFound``."""
        with self._write():
            found = self.find(bucket, key, version_id)
            attributes = replace(found.version.attributes or Attributes(), tags=tags)
            self._set("attributes", dump(attributes), found)

    def lockable(self, bucket: str, key: str, version_id: str | None) -> Stored:
        """A version that can be locked; ``Unsupported`` in a bucket without object lock."""
        with self._lock:
            self._check_lockable(bucket)
            return self.find(bucket, key, version_id)

    def _check_lockable(self, bucket: str) -> None:
        self._versioned(bucket)
        (locked,) = self._db.execute(
            "SELECT locked FROM buckets WHERE name = ?", (bucket,)
        ).fetchone()
        if not locked:
            raise Unsupported("bucket has no object lock", hint=UNLOCKED, bucket=bucket)

    def retain(
        self,
        bucket: str,
        key: str,
        version_id: str | None,
        *,
        mode: LockMode | None,
        until: datetime | None,
        now: datetime,
        bypass: bool,
    ) -> None:
        """Set or end the retention of a version; ``AccessDenied`` where that would weaken it."""
        with self._write():
            found = self.lockable(bucket, key, version_id)
            check_change(found.lock, mode, until, now, bypass=bypass)
            self._set("lock", dump_lock(replace(found.lock, mode=mode, until=until)), found)

    def hold(self, bucket: str, key: str, version_id: str | None, on: bool) -> None:
        """Hold a version, or let it go."""
        with self._write():
            found = self.lockable(bucket, key, version_id)
            self._set("lock", dump_lock(replace(found.lock, hold=on)), found)

    def _set(self, column: str, value: str, stored: Stored) -> None:
        sql = f"UPDATE versions SET {column} = ? WHERE arrival = ?"  # noqa: S608 - our own words
        self._db.execute(sql, (value, stored.arrival))

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
