"""Files that hold keys: read only if nobody else can, written whole or not at all, destroyed.

Invariants: a file appears under its name complete and synced, or not (temporary name, fsync, then
link or rename, fsync of the directory); a file that its group or others may read is refused
rather than repaired, because what was open has to count as read. Nothing here follows a link in
the last step of a path.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from entrepot.clock import new_bytes
from entrepot.errors import AccessDenied, IntegrityError, SetupError, Unavailable

FILE_MAX_BYTES: Final = 64 * 1024
"""A wrapped key of any root has under 2 KiB."""

_GROUP_AND_OTHERS: Final = 0o077


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in our own errors what the disk says about ``path``; a missing file passes through."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except PermissionError as error:
        raise AccessDenied(
            "file of keys cannot be used by this user",
            hint=f"chown -R {os.geteuid()} {path}",
            path=str(path),
        ) from error
    except OSError as error:
        raise Unavailable(
            f"disk refuses: {error.strerror}",
            hint="free space, or check the disk and how it is mounted",
            path=str(path),
        ) from error


def check_directory(path: Path) -> None:
    """``AccessDenied`` unless ``path`` is a directory of ours that nobody else may enter."""
    with disk_errors(path):
        _check_owner(path, path.stat(), mode="700", foreign_bits=_GROUP_AND_OTHERS)


def make_directory(path: Path) -> None:
    """Make ``path`` with mode 0700, its parents as usual; checks it where it is there already."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)
    check_directory(path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, *, foreign_bits: int = _GROUP_AND_OTHERS, root_may_own: bool = False) -> bytes:
    """The bytes of ``path``; ``FileNotFoundError`` where it is missing.

    ``foreign_bits`` are the permission bits that refuse the file. Checked on the open file, so it
    cannot be exchanged in between.
    """
    with disk_errors(path):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise IntegrityError("not a regular file", path=str(path))
            _check_owner(
                path, facts, mode="600", foreign_bits=foreign_bits, root_may_own=root_may_own
            )
            data = os.read(handle, FILE_MAX_BYTES + 1)
        finally:
            os.close(handle)
    if len(data) > FILE_MAX_BYTES:
        raise IntegrityError(f"file of keys is above {FILE_MAX_BYTES} bytes", path=str(path))
    return data


def publish(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Make ``data`` the file ``path`` with mode 0600.

    ``FileExistsError`` where it is there, unless it is to be ``replace``d. ``FileNotFoundError``
    where somebody swept the temporary file away, which a shred does.
    """
    temporary = path.with_name(f".{path.name}.{new_bytes(8).hex()}")
    with disk_errors(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            _write(os.open(temporary, flags, 0o600), data)
            if replace:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, never over another's file
        finally:
            temporary.unlink(missing_ok=True)
            # Also where another was first: its name must be safe before its key is used.
            sync_directory(path.parent)


def temporaries(directory: Path, name: str = "*") -> list[Path]:
    """Temporary files of the file ``name`` (a pattern): killed writers', or being written now."""
    return [path for path in directory.glob(f".{name}.*") if path.is_file()]


def destroy(path: Path) -> bool:
    """Overwrite ``path`` and remove it; whether it was there.

    Overwriting reaches this file's own blocks where the file system writes in place. It does not
    reach copies that snapshots, journals, or the spare blocks of a flash disk keep.
    """
    try:
        with disk_errors(path):
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            _write(handle, new_bytes(os.fstat(handle).st_size))
            path.unlink()
            sync_directory(path.parent)
    except FileNotFoundError:
        return False
    return True


def _write(handle: int, data: bytes) -> None:
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_owner(
    path: Path, facts: os.stat_result, *, mode: str, foreign_bits: int, root_may_own: bool = False
) -> None:
    us = os.geteuid()
    if facts.st_uid != us and not (root_may_own and facts.st_uid == 0):
        raise AccessDenied("keys belong to another user", hint=f"chown {us} {path}", path=str(path))
    if facts.st_mode & foreign_bits:
        raise AccessDenied(
            f"keys are open to others, mode {stat.S_IMODE(facts.st_mode):04o}",
            hint=f"chmod {mode} {path}, and think of the keys as seen",
            path=str(path),
        )


def load_secret(
    path: Path, *, foreign_bits: int = _GROUP_AND_OTHERS, root_may_own: bool = False
) -> bytes:
    """The bytes of a secret that has to be there; ``SetupError`` where it is missing."""
    try:
        return read(path, foreign_bits=foreign_bits, root_may_own=root_may_own)
    except FileNotFoundError as error:
        raise SetupError(
            "no such secret",
            hint="put it back, check the path in the settings, or: entrepot keys init",
            path=str(path),
        ) from error
