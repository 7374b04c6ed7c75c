"""``push`` and ``fetch`` by ourselves, without a helper: settings and keys are read each time."""

from pathlib import Path

from entrepot.backup.postgres.client import ABSENT, FATAL
from entrepot.cli import show
from entrepot.cli.backup.opening import open_archive
from entrepot.cli.common import run
from entrepot.config import load
from entrepot.errors import BucketNotFound, EntrepotError, NotFound


def push(path: Path, cluster: str | None, config_path: Path | None) -> None:
    """Store a file of WAL."""
    content = path.read_bytes()

    async def work() -> None:
        async with open_archive(load(config_path), cluster) as archive:
            await archive.push(path.name, content)

    run(work())


def fetch(name: str, path: Path, cluster: str | None, config_path: Path | None) -> int:
    """Write a file of WAL; the exit status that Postgres understands."""

    async def work() -> bytes:
        async with open_archive(load(config_path), cluster) as archive:
            return await archive.fetch(name)

    try:
        content = run(work())
    except BucketNotFound as error:
        show(error)
        return FATAL
    except NotFound:
        return ABSENT
    except EntrepotError as error:
        show(error)
        return FATAL
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
    return 0
