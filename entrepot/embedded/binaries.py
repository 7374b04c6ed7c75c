"""Where the programs come from: MinIO's server and client, and servers that are not MinIO.

Each is looked up in its environment variable, on PATH, in our cache, and built once from source
otherwise, because there is no prebuilt program to download any more. Versions are pinned.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from entrepot.embedded import golang, rust
from entrepot.errors import SetupError


@dataclass(frozen=True)
class Program:
    """A program and where it is from; ``says`` is how its answer to ``asked`` begins."""

    name: str
    module: str
    version: str
    variable: str
    says: str
    asked: str = "--version"


# The last public commit of each.
MINIO = Program(
    name="minio",
    module="github.com/minio/minio",
    version="v0.0.0-20260212201848-7aac2a2c5b7c",
    variable="ENTREPOT_MINIO",
    # Its own file name first, which has a version in our cache.
    says=r"minio\S* version ",
)
MC = Program(
    name="mc",
    module="github.com/minio/mc",
    version="v0.0.0-20250313080218-cf909e1063a9",
    variable="ENTREPOT_MC",
    says=r"mc\S* version ",  # Midnight Commander, also ``mc``, says neither
)
# A gateway over a directory, by other people: what our rules must also hold with.
VERSITYGW = Program(
    name="versitygw",
    module="github.com/versity/versitygw/cmd/versitygw",
    version="v1.8.0",
    variable="ENTREPOT_VERSITYGW",
    says=r"Version +: .*\nBuild ",
)
# A store by other people, in Rust and without versions: what our rules must refuse.
GARAGE = Program(
    name="garage",
    module="garage",
    version="2.5.0",
    variable="ENTREPOT_GARAGE",
    says=r"garage .*\[features",
)
# Another program for backups: what ours is measured against.
RESTIC = Program(
    name="restic",
    module="github.com/restic/restic/cmd/restic",
    version="v0.18.1",
    variable="ENTREPOT_RESTIC",
    says=r"restic 0\.(1[7-9]|[2-9]\d)\.",  # an older one may be on PATH
    asked="version",
)


def minio(*, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """The MinIO server program; builds it if need be (minutes). Raises ``SetupError``."""
    return _find(MINIO, progress)


def mc(*, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """The MinIO client program; builds it if need be. Raises ``SetupError``."""
    return _find(MC, progress)


def versitygw(*, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """The Versity S3 gateway; builds it if need be (a minute). Raises ``SetupError``."""
    return _find(VERSITYGW, progress)


def restic(*, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """``restic``, 0.17 or newer; builds it if need be (a minute). Raises ``SetupError``."""
    return _find(RESTIC, progress)


def garage(*, progress: Callable[[str], None] = lambda _line: None) -> Path:
    """The Garage server; builds it if need be (ten minutes and more). Raises ``SetupError``."""

    return _given(GARAGE) or rust.build(
        GARAGE.module,
        GARAGE.version,
        features=("bundled-libs", "sqlite"),
        variable=GARAGE.variable,
        progress=progress,
    )


def _find(program: Program, progress: Callable[[str], None]) -> Path:
    return _given(program) or golang.build(
        f"{program.module}@{program.version}",
        program=program.name,
        variable=program.variable,
        progress=progress,
    )


def _given(program: Program) -> Path | None:
    """The one that the environment names, or that is on PATH."""
    given = os.environ.get(program.variable)
    if given:
        if not _is(program, given):
            raise SetupError(
                f"{program.variable} does not name a working {program.name}",
                hint=f"point {program.variable} at the program, or unset it",
                path=given,
            )
        return Path(given)
    on_path = shutil.which(program.name)
    if on_path and _is(program, on_path):
        return Path(on_path)
    return None


def _is(program: Program, path: str) -> bool:
    try:
        told = subprocess.run(
            [path, program.asked], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return re.match(program.says, told.stdout) is not None
