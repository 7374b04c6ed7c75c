"""Files of a directory as a tree of a snapshot, and back (``docs/format.md``, Trees of files).

Invariant: what ``write_files`` leaves has the lengths and bytes that were stored, and nothing is
written outside of its directory, whatever a snapshot says.

Memory: the entries of one tree (some 300 bytes a file and 40 a chunk), and what the vault needs.
"""

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from entrepot.backup.parents import entries_of
from entrepot.errors import IntegrityError
from entrepot.vault.chunks import Chunk
from entrepot.vault.index import Index
from entrepot.vault.intake import Intake
from entrepot.vault.keys import OWN
from entrepot.vault.reader import read_chunks
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Tree, dump_page, pages
from entrepot.vault.writer import Writer

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
OPEN_FILES: Final = 64
INLINE_BYTES: Final = 64 * 1024
"""Up to here, a write to the page cache takes about as long as the hop to a thread."""


async def store_file(
    vault: Vault, writer: Writer, source: AsyncIterable[bytes], entry: Entry
) -> Entry:
    """Store a file's bytes; its entry with length, chunks and digest."""
    intake = Intake(writer, await vault.keys_of(OWN))
    digest, size_bytes = blake3(), 0
    async for piece in source:
        size_bytes += len(piece)
        digest.update(piece)
        await intake.feed(piece)
    ids = await intake.finish() if size_bytes else ()
    whole = digest.digest() if len(ids) > 1 else b""
    return replace(entry, size_bytes=size_bytes, chunks=ids, digest=whole)


async def store_tree(vault: Vault, writer: Writer, tree: Tree, entries: Iterable[Entry]) -> Tree:
    """Store the pages of entries, in any order; the tree with them."""
    keys = await vault.keys_of(OWN)
    ordered = sorted(entries, key=lambda entry: entry.key.encode())
    most = writer.cutting.max_bytes
    ids: list[bytes] = []
    async for page in pages(_each(ordered)):
        data = dump_page(page)
        cut = (data[at : at + most] for at in range(0, len(data), most))
        ids += await writer.store([Chunk(keys.chunk_id(each), each) for each in cut], keys)
    size_bytes = sum(entry.size_bytes for entry in ordered)
    return replace(tree, entries=len(ordered), size_bytes=size_bytes, pages=tuple(ids))


async def _each(entries: Sequence[Entry]) -> AsyncIterator[Entry]:
    for entry in entries:
        yield entry


async def read_entries(vault: Vault, index: Index, tree: Tree) -> list[Entry]:
    """The entries of a tree; ``IntegrityError`` where they are not all there."""
    found = [entry async for entry in entries_of(vault, index, tree)]
    if len(found) != tree.entries:
        raise IntegrityError("a tree of the snapshot lacks entries", tree=tree.name)
    return found


async def write_files(
    vault: Vault,
    index: Index,
    entries: Iterable[Entry],
    target: Path,
    *,
    owner: tuple[int, int] | None = None,
) -> int:
    """Write a tree to the empty directory ``target``, of that owner (uid, gid); its bytes."""
    ordered = sorted(entries, key=lambda entry: entry.key.encode())
    for entry in ordered:
        path = _inside(target, entry.key)
        if entry.key.endswith("/"):
            path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            _own(path, _mode(entry, DIRECTORY_MODE), owner)
    alike = _alike(index, (entry for entry in ordered if not entry.key.endswith("/")))
    stream = read_chunks(vault, index, (chunk for files in alike for chunk in files[0].chunks))
    done_bytes = 0
    try:
        for files in alike:
            with ExitStack() as stack:
                outs = [stack.enter_context(_new(target, file)) for file in files]
                await _fill(outs, files[0], stream)
            for file in files:
                _own(_inside(target, file.key), _mode(file, FILE_MODE), owner)
            done_bytes += len(files) * files[0].size_bytes
    finally:
        await stream.aclose()
    return done_bytes


def _alike(index: Index, files: Iterable[Entry]) -> list[list[Entry]]:
    """Files of the same bytes together, and those in the order in which the vault has them.

    So that many small files are one request, and the three databases that a new cluster has are
    read once. At most ``OPEN_FILES`` together.
    """
    by_bytes: dict[tuple[bytes, ...], list[Entry]] = {}
    for file in files:
        by_bytes.setdefault(file.chunks, []).append(file)
    groups = [
        same[at : at + OPEN_FILES]
        for same in by_bytes.values()
        for at in range(0, len(same), OPEN_FILES)
    ]
    return sorted(groups, key=lambda group: _place(index, group[0]))


def _place(index: Index, file: Entry) -> tuple[bytes, int]:
    found = index.find(file.chunks[0]) if file.chunks else None
    return (found.pack.id, found.number) if found else (b"", 0)


def _new(target: Path, file: Entry) -> BinaryIO:
    path = _inside(target, file.key)
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    return path.open("xb")


async def _fill(outs: Sequence[BinaryIO], file: Entry, stream: AsyncIterator[bytes]) -> None:
    digest, size_bytes = blake3(), 0
    for _ in file.chunks:
        chunk = await anext(stream)
        for out in outs:
            await _write(out, chunk)
        digest.update(chunk)
        size_bytes += len(chunk)
    if size_bytes != file.size_bytes or (file.digest and file.digest != digest.digest()):
        raise IntegrityError("a file of the snapshot is not what was stored", path=file.key)


async def _write(out: BinaryIO, chunk: bytes) -> None:
    if len(chunk) <= INLINE_BYTES:
        out.write(chunk)
    else:
        await asyncio.to_thread(out.write, chunk)


def _mode(entry: Entry, default: int) -> int:
    """Permissions alone: no set-user-id comes out of a backup."""
    return int(entry.extra.get("mode", default)) & 0o777


def _own(path: Path, mode: int, owner: tuple[int, int] | None) -> None:
    path.chmod(mode)
    if owner:
        os.chown(path, *owner)


def _inside(target: Path, key: str) -> Path:
    parts = key.removesuffix("/").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise IntegrityError("a path of the snapshot leads out of its directory", path=key)
    return target.joinpath(*parts)
