"""The SQLite database of the memory and local stores: its formats, and one writer at a time.

A database is brought from any older format to the newest one when it is opened, in one
transaction; one of a newer program is left alone.
"""

import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from entrepot.errors import ConfigError

FORMATS = (
    """
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
""",
    """
ALTER TABLE buckets ADD COLUMN locked INT NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN lock TEXT NOT NULL DEFAULT '[null, null, false]';
ALTER TABLE uploads ADD COLUMN started_ms INT NOT NULL DEFAULT 0;
CREATE INDEX of_bucket ON uploads (bucket, key, started_ms);
""",
    """
CREATE TABLE settings (
  bucket TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (bucket, name));
""",
)
"""What makes each format of the one before it; the first makes an empty database format 1."""


class Database:
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
            if not 0 <= found <= len(FORMATS):
                raise ConfigError(f"store has format {found}, this program knows {len(FORMATS)}")
            for script in FORMATS[found:]:
                for statement in script.strip().removesuffix(";").split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(FORMATS)}")

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
