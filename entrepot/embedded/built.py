"""Programs that are built once, into the cache.

Invariant: a program in the cache is whole (built under another name, synced, renamed) and equals
the checksum recorded beside it, which every use checks. Two builders wait for each other.
"""

import fcntl
import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from entrepot.embedded.paths import cache_dir, make_dir, replacing, write_text
from entrepot.errors import IntegrityError

Progress = Callable[[str], None]
SAID_EVERY: Final = 100
"""Lines of a builder between two of progress; MinIO has about 1,400 modules and packages."""


def built(program: str, version: str, make: Callable[[Path], Path], *, progress: Progress) -> Path:
    """The path of ``program`` in the cache; ``make`` builds it in a directory where it lacks.

    Raises ``IntegrityError`` where the cached program is not what was built.
    """
    target = make_dir(cache_dir() / "bin") / f"{program}-{version}"
    with _locked(target.with_name(target.name + ".lock"), progress):
        if not target.exists():
            with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch:
                made = make(Path(scratch))
                with replacing(target, mode=0o755) as temporary:
                    # The checksum first: a program without one is never in place.
                    write_text(_checksum_file(target), _sha256(made))
                    made.replace(temporary)
            progress(f"built {target}")
    _check(target)
    return target


def output_of(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    progress: Callable[[int], None],
) -> tuple[str, bool]:
    """Run a builder; its last lines, and whether it worked. ``progress`` is told their number."""
    output: list[str] = []
    count = 0
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=cwd,
    ) as process:
        for line in process.stderr or ():
            output = [*output[-19:], line.rstrip()]
            count += 1
            if count % SAID_EVERY == 0:
                progress(count)
    return "\n".join(output), process.returncode == 0


def _checksum_file(program: Path) -> Path:
    return program.with_name(program.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(program: Path) -> None:
    record = _checksum_file(program)
    if not record.exists() or record.read_text() != _sha256(program):
        raise IntegrityError(
            "the cached program is not the one that was built",
            hint=f"remove it, and it is built again: rm {program}",
            path=str(program),
        )


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build of the same program")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
