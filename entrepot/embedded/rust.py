"""Builds a Rust program once, from a pinned version of its crate, into the cache."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from entrepot.embedded.built import Progress, built, output_of
from entrepot.errors import SetupError

# Not optimized: a third of the time, and what is built here serves tests only.
_QUICK = {"CARGO_PROFILE_RELEASE_OPT_LEVEL": "0", "CARGO_PROFILE_RELEASE_DEBUG": "0"}


def build(
    crate: str,
    version: str,
    *,
    features: Sequence[str],
    variable: str,
    progress: Progress = lambda _line: None,
) -> Path:
    """The path of the program of a crate, as built by ``cargo install``; ten minutes and more.

    Raises ``SetupError`` where there is no cargo or the build fails; ``variable`` is the
    environment variable that the hint names as the way around.
    """

    def make(scratch: Path) -> Path:
        around = f"or set {variable} to a program you have"
        cargo = shutil.which("cargo")
        if cargo is None:
            raise SetupError("no cargo on PATH", hint=f"install Rust (https://rustup.rs), {around}")
        progress(f"building {crate} {version} (once; takes ten minutes and more)")
        output, ok = output_of(
            [
                *(cargo, "install", crate, "--version", version, "--locked"),
                *("--root", str(scratch)),
                *("--no-default-features", "--features", ",".join(features)),
            ],
            env={**os.environ, **_QUICK, "CARGO_TARGET_DIR": str(scratch / "target")},
            cwd=scratch,
            progress=lambda count: progress(f"  {count} crates fetched or compiled"),
        )
        if not ok:
            raise SetupError(
                f"building {crate} failed:\n{output}", hint=f"read the lines above, {around}"
            )
        return scratch / "bin" / crate

    return built(crate, version, make, progress=progress)
