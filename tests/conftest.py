"""Real servers for every test: one Postgres and two MinIO sites a session, on free ports."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from pydantic import SecretStr

from entrepot.cli.deploy import deploy
from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.embedded.stack import down, up
from tests.running import Running

# A failing property prints what reproduces it; a busy machine is no failure.
settings.register_profile("entrepot", print_blob=True, deadline=None)
settings.load_profile("entrepot")


def pytest_configure() -> None:
    """A run that is told to end stops its servers, as one that is interrupted does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _open_dir() -> Path:
    """A new directory that Postgres' own user may pass when the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="entrepot-test-", dir="/tmp"))
    path.chmod(0o711)
    return path


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """Where the session's servers keep their data; removed at the end."""
    path = _open_dir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """An empty directory for one test that Postgres' own user may pass (``tmp_path`` is 0700)."""
    path = _open_dir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_dir: Path) -> Iterator[PostgresServer]:
    """A running Postgres; ``create_database(name)`` gives the DSN of a new database."""
    server = PostgresServer(servers_dir / "postgres", password=SecretStr(new_token()))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def minio_a(servers_dir: Path) -> Iterator[MinioServer]:
    """A running MinIO: ``endpoint``, ``access_key``, ``secret_key``."""
    yield from _minio(servers_dir / "minio-a")


@pytest.fixture(scope="session")
def minio_b(servers_dir: Path) -> Iterator[MinioServer]:
    """A second running MinIO, with credentials of its own."""
    yield from _minio(servers_dir / "minio-b")


def _minio(data_dir: Path) -> Iterator[MinioServer]:
    server = MinioServer(data_dir, MinioCredentials(new_token(8), SecretStr(new_token(24))))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def stack() -> Iterator[Running]:
    """The whole stack, deployed: two sites, Postgres, Prefect with a worker, the gateway."""
    data_dir = _open_dir()
    try:
        running = Running(up(data_dir, sites=2, port_base=0, gateway=True))
        deploy(running.config, progress=lambda _line: None)
        yield running
        running.close()
    finally:
        down(data_dir)
        shutil.rmtree(data_dir, ignore_errors=True)
