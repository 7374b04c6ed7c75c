"""The store in a directory against the contract, a dict, crashes and bad disks."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrepot.errors import ConfigError, IntegrityError, NotFound, Unavailable, Unsupported
from entrepot.store.database import FORMATS
from entrepot.store.local import LocalStore
from entrepot.store.protocol import Lock, Upload
from entrepot.testing.contract_tools import current, history, read
from entrepot.testing.object_contract import SEGMENT_KEYS
from entrepot.testing.store_contract import StoreContract
from tests.store.machine import BRIEF, SteppingClock, StoreMachine

MIB = 1024 * 1024


class TestLocalStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[LocalStore]:
        store = LocalStore(tmp_path / "root")
        yield store
        await store.close()


class _Machine(StoreMachine):
    def make(self, clock: SteppingClock) -> LocalStore:
        self.directory = tempfile.TemporaryDirectory()
        return LocalStore(self.directory.name, clock=clock)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


TestLocalAgainstADict = _Machine.TestCase
TestLocalAgainstADict.settings = BRIEF


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """A store with one object ``kept`` in ``bucket``."""
    store = LocalStore(tmp_path / "root")
    await store.create("bucket")
    await store.put("bucket", "kept", b"kept")
    yield store
    await store.close()


def _files(root: Path) -> list[Path]:
    return [*root.glob("extents/*/*"), *root.glob("incoming/*")]


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_everything_is_there_after_opening_again(store: LocalStore, tmp_path: Path) -> None:
    before = await history(store, "bucket")
    await store.close()
    again = LocalStore(tmp_path / "root")
    assert await history(again, "bucket") == before
    assert await read(again, "bucket", "kept") == b"kept"
    await again.close()


async def test_two_stores_share_a_directory(store: LocalStore, tmp_path: Path) -> None:
    other = LocalStore(tmp_path / "root")
    await asyncio.gather(
        *(one.put("bucket", "new", b"x") for one in (store, other) for _ in range(10))
    )
    assert len(await history(store, "bucket", prefix="new")) == 20
    assert await history(store, "bucket") == await history(other, "bucket")
    await other.close()


async def test_no_key_leaves_the_directory(store: LocalStore, tmp_path: Path) -> None:
    for key in (*SEGMENT_KEYS, "../../../etc/x", str(tmp_path / "outside"), "nul\0"):
        await store.put("bucket", key, b"x")
        assert await read(store, "bucket", key) == b"x"
    assert _names(tmp_path) == ["root"]
    assert all(path.name.isalnum() for path in _files(tmp_path / "root"))


_DIES = """
import asyncio, os, signal, sys
from entrepot.store import local
from entrepot.store.local import LocalStore

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def body():
    for _ in range(4):
        yield b"x" * 1_000_000
    if sys.argv[2] == "body":
        die()

if sys.argv[2] == "fsync":
    local._sync = die

async def main():
    store = LocalStore(sys.argv[1])
    if sys.argv[2] == "rename":
        local._sync_directory = die  # the extent has its final name, the index is not committed
    await store.put("bucket", "kept", body(), size_bytes=4_000_000)
asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["body", "fsync", "rename"])
async def test_killed_in_a_write_leaves_nothing_visible(
    store: LocalStore, tmp_path: Path, moment: str
) -> None:
    before = await history(store, "bucket")
    root = tmp_path / "root"
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _DIES, str(root), moment], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    again = LocalStore(root)
    assert await history(again, "bucket") == before
    assert await read(again, "bucket", "kept") == b"kept"
    assert len(_files(root)) == 2
    assert await again.sweep() == 0  # it may belong to a writer that lives
    for path in _files(root):
        os.utime(path, (0, 0))
    assert await again.sweep() == 1
    assert await read(again, "bucket", "kept") == b"kept"
    assert len(_files(root)) == 1
    await again.close()


async def test_a_write_that_is_given_up_leaves_no_file(store: LocalStore, tmp_path: Path) -> None:
    written = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 2 * MIB
        written.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put("bucket", "k", endless(), size_bytes=4 * MIB))
    await written.wait()
    assert len(_files(tmp_path / "root")) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(_files(tmp_path / "root")) == 1
    assert [entry.key for entry in await current(store, "bucket")] == ["kept"]


async def test_damaged_bytes_are_noticed(store: LocalStore, tmp_path: Path) -> None:
    (path,) = _files(tmp_path / "root")
    path.write_bytes(b"kEpt")
    with pytest.raises(IntegrityError):
        await read(store, "bucket", "kept")
    path.write_bytes(b"ke")
    for how in ({}, {"start": 1}):
        with pytest.raises(IntegrityError):
            await read(store, "bucket", "kept", **how)


async def test_a_version_removed_while_it_is_read(store: LocalStore) -> None:
    version = await store.head("bucket", "kept")
    async with store.get("bucket", "kept") as body:
        await store.delete("bucket", "kept", version_id=version.version_id)
        with pytest.raises(Unavailable):
            await body.read()
    with pytest.raises(NotFound):
        await read(store, "bucket", "kept")


async def test_memory_does_not_grow_with_the_body(store: LocalStore) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64 * 16):
            yield bytes(MIB // 16)

    tracemalloc.start()
    try:
        await store.put("bucket", "k", pieces(), size_bytes=64 * MIB)
        size_bytes = 0
        async with store.get("bucket", "k") as body:
            async for piece in body:
                size_bytes += len(piece)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size_bytes == 64 * MIB
    assert peak_bytes < 8 * MIB


async def test_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "extents" / "00").mkdir(parents=True)
    (root / "extents" / "00" / "00ff").write_bytes(b"old")
    database = sqlite3.connect(root / "index.sqlite3")
    database.executescript(FORMATS[0])
    database.executescript(
        """
        INSERT INTO buckets VALUES ('bucket', 1, 1000);
        INSERT INTO versions VALUES (1, 'bucket', CAST('k' AS BLOB), 'v1', 5, 3, 'e', 1, 0,
          '{"tags": {"a": "b"}}', '[["00ff", 3, "149603e6c03516362a8da23f624db945"]]');
        INSERT INTO uploads VALUES ('u1', 'bucket', CAST('up' AS BLOB), '', '{}');
        PRAGMA user_version = 1;
        """
    )
    database.close()
    for _ in range(2):  # brought up to date once, then opened as it is
        store = LocalStore(root)
        assert await read(store, "bucket", "k", version_id="v1") == b"old"
        assert await store.tags("bucket", "k") == {"a": "b"}
        assert await store.uploads("bucket") == (
            Upload("up", "u1", datetime.fromtimestamp(0, UTC)),
        )
        with pytest.raises(Unsupported):
            await store.hold("bucket", "k", True)
        await store.put("bucket", "new", b"new")
        await store.close()


async def test_locks_and_uploads_survive_a_restart(store: LocalStore, tmp_path: Path) -> None:
    await store.create("locked", locked=True)
    await store.put("locked", "k", b"x")
    await store.hold("locked", "k", True)
    upload_id = await store.start("locked", "up")
    part = await store.part("locked", "up", upload_id, 1, b"x")
    before = await store.uploads("locked")
    await store.close()
    again = LocalStore(tmp_path / "root")
    assert await again.lock("locked", "k") == Lock(hold=True)
    assert await again.uploads("locked") == before
    assert await again.parts("locked", "up", upload_id) == (part,)
    await again.close()


async def test_a_newer_format_is_left_alone(store: LocalStore, tmp_path: Path) -> None:
    await store.close()
    database = sqlite3.connect(tmp_path / "root" / "index.sqlite3")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError):
        LocalStore(tmp_path / "root")


async def test_a_bad_disk_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        LocalStore(tmp_path / "file")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "index.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError):
        LocalStore(tmp_path / "root")
