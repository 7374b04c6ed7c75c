"""A store in a directory, for a vault on a disk, a cache tier and tests.

    ROOT/index.sqlite3     names, versions, attributes, uploads (SQLite, write-ahead log)
    ROOT/incoming/NAME     bytes being received
    ROOT/extents/NN/NAME   bytes of versions and parts; NAME is random, NN its first two digits

Invariant: a version is visible exactly when its row is committed, and then its bytes are on disk
under their final name: write to ``incoming``, fsync, open the index's transaction, rename, fsync
of the directory, commit. Keys never become paths, so no key can leave ROOT and keys that a
file system would confuse (case, Unicode form, length, slashes) stay apart. A crash can leave
bytes that no row names; ``sweep`` removes them. Several processes may share ROOT on a local file
system; network file systems are not supported, because SQLite's locks are not reliable there.

A body read whole from its first byte to its last is compared with its MD5: ``IntegrityError``.
Memory: one piece (``PIECE_BYTES``, plus one piece of the source) for each body in flight.
"""

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, ParamSpec, TypeVar

from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.errors import IntegrityError, Unavailable
from entrepot.store.index import Index
from entrepot.store.indexed import IndexedStore
from entrepot.store.records import Extent

PIECE_BYTES = 1024 * 1024
"""Bytes moved by one call on a thread: long enough that the hop (50 us) does not show."""

SWEEP_AGE_S = 24 * 3600
"""Age from which bytes that no row names are taken for leftovers: no write takes a day."""

P = ParamSpec("P")
T = TypeVar("T")


class LocalStore(IndexedStore):
    """``ObjectStore`` and ``BucketStore`` in the directory ``root``, made if it is missing.

    Raises ``Unavailable`` where the disk is full, fails or is not writable, ``ConfigError`` where
    the directory holds a newer format, ``IntegrityError`` where the index is damaged.
    """

    def __init__(self, root: Path | str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        root = Path(root)
        with _disk_errors():
            self._files = _FileExtents(root)
            super().__init__(Index(root / "index.sqlite3"), self._files, clock=clock)

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _on_thread(call, *args, **kwargs)

    async def sweep(self, *, min_age_s: float = SWEEP_AGE_S) -> int:
        """Remove bytes older than ``min_age_s`` that no version or part names; how many files."""
        before = self._clock.now().timestamp() - min_age_s
        removed = 0
        for path in await _on_thread(self._files.older_than, before):
            if not await self._ask(self._index.uses, path.name):
                await _on_thread(path.unlink, missing_ok=True)
                removed += 1
        return removed


class _FileExtents:
    def __init__(self, root: Path) -> None:
        self._incoming = root / "incoming"
        self._extents = root / "extents"
        for directory in (self._incoming, self._extents):
            directory.mkdir(parents=True, exist_ok=True)
        _sync_directory(root)

    async def write(self, pieces: AsyncIterator[bytes]) -> Extent:
        name = new_id().hex
        digest = hashlib.md5(usedforsecurity=False)
        size_bytes = 0
        with _disk_errors():
            file = _open(self._incoming / name, "xb")
        try:
            async for chunk in _gathered(pieces):
                size_bytes += len(chunk)
                await _on_thread(_append, file, chunk, digest.update)
            await _on_thread(_sync, file)
        except BaseException:
            await self.discard(name)
            raise
        finally:
            file.close()
        return Extent(name, size_bytes, digest.hexdigest())

    def publish(self, name: str) -> None:
        target = self._path(name)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            _sync_directory(self._extents)
        (self._incoming / name).rename(target)
        _sync_directory(target.parent)

    async def discard(self, name: str) -> None:
        await _on_thread((self._incoming / name).unlink, missing_ok=True)

    async def remove(self, names: Iterable[str]) -> None:
        for name in names:
            await _on_thread(self._path(name).unlink, missing_ok=True)

    async def read(self, extent: Extent, *, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        whole = (start, stop) == (0, extent.size_bytes)
        digest = hashlib.md5(usedforsecurity=False)
        with _disk_errors():
            file = _open(self._path(extent.name), "rb")
        try:
            await _on_thread(file.seek, start)
            while start < stop:
                piece = await _on_thread(file.read, min(PIECE_BYTES, stop - start))
                start += len(piece)
                if whole:
                    await _on_thread(digest.update, piece)
                damaged = whole and start == stop and digest.hexdigest() != extent.md5
                if damaged or not piece:
                    raise IntegrityError("stored bytes are damaged", path=str(file.name))
                yield piece
        finally:
            file.close()

    def older_than(self, before: float) -> tuple[Path, ...]:
        """Files last written before that Unix time, received or published."""
        found = (*self._incoming.iterdir(), *self._extents.glob("*/*"))
        return tuple(path for path in found if path.stat().st_mtime < before)

    def _path(self, name: str) -> Path:
        return self._extents / name[:2] / name


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of ``PIECE_BYTES`` or more, so that threads are called rarely."""
    pending: list[bytes] = []
    held_bytes = 0
    async for piece in pieces:
        pending.append(piece)
        held_bytes += len(piece)
        if held_bytes >= PIECE_BYTES:
            yield b"".join(pending)
            pending, held_bytes = [], 0
    if held_bytes:
        yield b"".join(pending)


def _open(path: Path, mode: Literal["xb", "rb"]) -> BinaryIO:
    # Not on a thread: a file opened there would leak if the caller is cancelled meanwhile.
    return path.open(mode, buffering=0)


def _append(file: BinaryIO, chunk: bytes, digest: Callable[[bytes], None]) -> None:
    digest(chunk)
    view = memoryview(chunk)
    while view:  # an unbuffered write may take less than it is given
        view = view[file.write(view) :]


def _sync(file: BinaryIO) -> None:
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def _on_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    with _disk_errors():
        work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread cannot be stopped, and the file it uses must not be closed under it.
            await asyncio.gather(work, return_exceptions=True)
            raise


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Say what the disk or the index says in our own errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable("version was removed while it was read", path=error.filename) from error
    except OSError as error:
        hint = "free space or check the disk and its permissions"
        raise Unavailable(f"disk refuses: {error.strerror}", hint=hint) from error
    except sqlite3.OperationalError as error:
        raise Unavailable(f"index is not available: {error}") from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"index is damaged: {error}") from error
