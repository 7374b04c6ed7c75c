"""The demo's input: real files of every size, chosen the same way every time.

By default those of the Python that runs the demo: its standard library, and its installed
packages. At most ``FILES_MAX`` of each and ``BYTES_MAX`` in all, so that a laptop takes seconds.
"""

import hashlib
import mimetypes
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from entrepot.errors import InvalidInput

FILES_MAX = 1_500
BYTES_MAX = 192 * 1024 * 1024
FILE_MAX_BYTES = 64 * 1024 * 1024
KEY_MAX_BYTES = 900  # S3 allows 1,024; the demo adds prefixes
_SKIPPED = {"__pycache__", ".git", "node_modules"}


@dataclass(frozen=True, slots=True)
class Item:
    """One object to be: its bytes' file, its key, its type."""

    path: Path
    key: str
    size_bytes: int
    content_type: str

    def read(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Shelf:
    """What one tenant puts into one bucket."""

    tenant: str
    bucket: str
    items: tuple[Item, ...]


def shelves(data_from: Path | None) -> tuple[Shelf, Shelf]:
    """Two tenants' files: of ``data_from`` split in halves, or of this Python.

    Raises:
        InvalidInput: a folder without files.
    """
    if data_from is None:
        paths = sysconfig.get_paths()
        library, packages = Path(paths["stdlib"]), Path(paths["purelib"])
        found = [
            [*_choose(_walk(library, without=packages))],
            [*_choose(_walk(packages, without=None))],
        ]
    else:
        everything = _choose(_walk(data_from, without=None), most=2 * FILES_MAX)
        found = [everything[0::2], everything[1::2]]
    if not all(found):
        raise InvalidInput(
            "there are too few files to show anything",
            hint="entrepot demo --data-from DIR, with at least two files in it",
            path=str(data_from or sysconfig.get_paths()["stdlib"]),
        )
    return (
        Shelf(tenant="library", bucket="python-library", items=tuple(found[0])),
        Shelf(tenant="packages", bucket="python-packages", items=tuple(found[1])),
    )


def _walk(root: Path, *, without: Path | None) -> Iterator[Item]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name for name in names if name not in _SKIPPED and Path(folder, name) != without
        )
        for name in sorted(files):
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            if path.is_symlink() or not path.is_file() or not _fits(key):
                continue
            size = path.stat().st_size
            if size <= FILE_MAX_BYTES and os.access(path, os.R_OK):
                kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
                yield Item(path=path, key=key, size_bytes=size, content_type=kind)


def _fits(key: str) -> bool:
    # Names that are no UTF-8 and segments that S3 servers on file systems refuse stay out.
    return key.isprintable() and len(key.encode()) <= KEY_MAX_BYTES and "//" not in key


def _choose(found: Iterator[Item], *, most: int = FILES_MAX) -> list[Item]:
    """Evenly from all, within the limits of count and bytes, the largest among them."""
    everything = list(found)
    step = max(1, -(-len(everything) // most))
    chosen = everything[::step]
    largest = max(everything, key=lambda item: item.size_bytes, default=None)
    if largest is not None and largest not in chosen:
        chosen.append(largest)
    total, kept = 0, []
    for item in sorted(chosen, key=lambda item: item.size_bytes):
        total += item.size_bytes
        if total <= BYTES_MAX or item is largest:
            kept.append(item)
    return sorted(kept, key=lambda item: item.key)


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()
