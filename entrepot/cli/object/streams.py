"""Bodies between files or standard streams and the library, a piece at a time.

Invariant: a file that is written appears under its name whole and synced, or not at all.
"""

import io
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from entrepot.clock import new_token
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    EntrepotError,
    InvalidInput,
    NotFound,
    Unavailable,
)

PIECE_BYTES: Final = 1 << 20
_STEERS: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""What text has no use for, and what steers a terminal."""


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Say in our own errors what the disk says about ``path``."""
    try:
        yield
    except (BrokenPipeError, TimeoutError):  # of a reader that has gone; of a connection
        raise
    except OSError as error:
        raise _told(error, path) from error


def _told(error: OSError, path: Path) -> EntrepotError:
    where = {"path": str(path)}
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return NotFound("no such file or directory", hint=f"ls {path.parent}", **where)
        case PermissionError():
            return AccessDenied("the file cannot be used by this user", **where)
        case IsADirectoryError():
            return InvalidInput("this is a directory", hint="name a file", **where)
    return Unavailable(f"the disk refuses: {error.strerror}", **where)


@contextmanager
def reading(name: str) -> Iterator[tuple[AsyncIterator[bytes], int | None]]:
    """The pieces of a file, or of standard input for ``-``, and their size where it is known."""
    import os
    import stat

    if name == "-" and sys.stdin.isatty():
        raise InvalidInput("standard input is a terminal", hint="name a FILE, or pipe it in")
    path = Path("/dev/stdin" if name == "-" else name)
    with file_errors(path), sys.stdin.buffer if name == "-" else path.open("rb") as file:
        state = os.fstat(file.fileno())
        if stat.S_ISDIR(state.st_mode):
            raise InvalidInput("this is a directory", hint="name a file", path=str(path))
        is_known = stat.S_ISREG(state.st_mode)
        yield _pieces(file), state.st_size - file.tell() if is_known else None


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    import asyncio

    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


@contextmanager
def writing(name: str, *, replace: bool) -> Iterator[BinaryIO]:
    """Where bytes go: a file that appears at the end, or standard output for ``-``."""
    if name == "-":
        yield _Terminal() if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    with file_errors(path):
        if path.exists() and not path.is_file():
            raise InvalidInput("not a regular file", hint="give - and redirect it", path=name)
        if path.exists() and not replace:
            raise AlreadyExists("the file exists", hint="--force replaces it", path=name)
        with _appearing(path) as file:
            yield file


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    import os

    temporary = path.with_name(f".{path.name}.{new_token(6)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Terminal(io.BufferedIOBase, BinaryIO):
    """Standard output that is a terminal: text passes, anything else is refused."""

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        assert isinstance(data, bytes | bytearray | memoryview)
        if _STEERS.search(data):
            raise InvalidInput(
                "this is no text, and standard output is a terminal",
                hint="name a FILE, or redirect it",
            )
        return sys.stdout.buffer.write(data)
