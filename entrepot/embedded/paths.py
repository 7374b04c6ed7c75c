"""Where the local stack keeps things: one data directory a stack, one cache for built servers.

Invariant: everything that must survive lies below the data directory, everything below the cache
can be had again. The file ``entrepot.json`` marks a data directory as ours.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from entrepot.errors import SetupError

# Below this Postgres and MinIO are about to fail in ways that are harder to read than a refusal.
MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class DataDir:
    """The files of one stack, by name."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "entrepot.json"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        return self.root / "stack.lock"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.env"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def root_key(self) -> Path:
        return self.root / "root.key"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    def site(self, name: str) -> Path:
        """Where a site's MinIO keeps its objects."""
        return self.root / "sites" / name


def default_data_dir() -> Path:
    """``$ENTREPOT_DATA``, else the usual place of the user."""
    return _place("ENTREPOT_DATA", root="/var/lib/entrepot", user=".local/share/entrepot")


def cache_dir() -> Path:
    """``$ENTREPOT_CACHE``, else the usual place of the user."""
    return _place("ENTREPOT_CACHE", root="/var/cache/entrepot", user=".cache/entrepot")


def _place(variable: str, *, root: str, user: str) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given).expanduser().absolute()
    return Path(root) if os.geteuid() == 0 else Path.home() / user


def make_dir(path: Path, *, mode: int = 0o755) -> Path:
    """Create ``path`` and its parents; a ``SetupError`` says what is in the way."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot create the directory: {error.strerror}",
            hint="choose another with --data DIR, or ENTREPOT_DATA / ENTREPOT_CACHE",
            path=str(path),
        ) from error
    return path


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path``, whole and synced, or vanishes."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace ``path`` atomically."""
    with replacing(path, mode=mode) as temporary:
        temporary.write_text(text)


def check_free_space(path: Path, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Refuse to start on a disk that is about to be full."""
    free = shutil.disk_usage(path).free
    if free < min_free_bytes:
        raise SetupError(
            f"only {free >> 20} MiB free on the disk, the stack wants {min_free_bytes >> 20} MiB",
            hint="free some space, or choose another disk with --data DIR",
            path=str(path),
        )
