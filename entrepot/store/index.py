"""Multipart uploads of what the memory and local stores hold, beside their buckets and versions.

Words: *extent* a stored piece of a body; here, one part.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from entrepot.errors import InvalidInput, NotFound, PreconditionFailed
from entrepot.store.protocol import Attributes, Part, Upload
from entrepot.store.records import Change, Extent, Stored, dump, load, moment
from entrepot.store.versions import VersionIndex, beyond

PART_MIN_BYTES = 5 * 1024 * 1024
"""Smallest part, except the last, as S3 has it."""


class Index(VersionIndex):
    """All that a store keeps of its objects but their bytes."""

    def drop(self, bucket: str) -> tuple[str, ...]:
        """Remove an empty bucket and its uploads; returns the extents nobody needs now."""
        with self._write():
            self._versioned(bucket)
            row = "SELECT 1 FROM versions WHERE bucket = ? LIMIT 1"
            if self._db.execute(row, (bucket,)).fetchone():
                raise PreconditionFailed("bucket is not empty", bucket=bucket)
            uploads = self._db.execute("SELECT upload_id FROM uploads WHERE bucket = ?", (bucket,))
            unused = [name for (upload,) in uploads.fetchall() for name in self._forget(upload)]
            self._db.execute("DELETE FROM settings WHERE bucket = ?", (bucket,))
            self._db.execute("DELETE FROM buckets WHERE name = ?", (bucket,))
            return tuple(unused)

    def start(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        attributes: Attributes,
        *,
        version_id: str,
        now_ms: int,
    ) -> None:
        """Begin an upload; ``version_id`` is an origin's, or "" for one minted at the end."""
        with self._write():
            if not self._versioned(bucket) and version_id:
                raise InvalidInput("an origin needs a versioned bucket", bucket=bucket)
            self._db.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?)",
                (upload_id, bucket, key.encode(), version_id, dump(attributes), now_ms),
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

    def uploads(self, bucket: str, prefix: str) -> tuple[Upload, ...]:
        """Uploads whose key starts with ``prefix``, by key and time."""
        self.versioned(bucket)
        rows = self._read(
            "SELECT key, upload_id, started_ms FROM uploads"
            " WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key, started_ms, upload_id",
            *(bucket, prefix.encode(), beyond(prefix)),
        )
        return tuple(Upload(key.decode(), upload, moment(started)) for key, upload, started in rows)

    def parts(self, bucket: str, key: str, upload_id: str) -> tuple[Part, ...]:
        """The parts of an upload so far, by number; ``NotFound``."""
        with self._lock:
            self.upload(bucket, key, upload_id)
            found = sorted(self._parts(upload_id).items())
        return tuple(Part(number, part.md5, part.size_bytes) for number, part in found)

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
        self, bucket: str, upload_id: str, draft: Stored, parts: Sequence[Part], *, chosen: bool
    ) -> Change:
        """Turn the named parts into a version like ``draft``; the upload ends."""
        with self._write():
            there = self._parts(upload_id)
            extents = _chosen_parts(there, parts)
            whole = hashlib.md5(usedforsecurity=False)
            for extent in extents:
                whole.update(bytes.fromhex(extent.md5))
            version = replace(
                draft.version,
                etag=draft.version.etag or f"{whole.hexdigest()}-{len(extents)}",
                size_bytes=sum(extent.size_bytes for extent in extents),
            )
            change = self.add(
                bucket,
                replace(draft, version=version, extents=extents),
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
