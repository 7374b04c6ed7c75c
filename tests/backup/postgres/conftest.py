"""A vault on MinIO, a world with a server, and a history to restore from."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from entrepot.backup.postgres.archive import WalArchive
from entrepot.embedded.minio import MinioServer
from tests.backup.postgres.worlds import NAME, World, vault_on, world_of


@pytest.fixture
async def archive(minio_a: MinioServer, tmp_path: Path) -> AsyncGenerator[WalArchive, None]:
    async with vault_on(minio_a, tmp_path) as vault:
        yield WalArchive(vault, NAME)


@pytest.fixture(scope="module")
async def world(minio_a: MinioServer, servers_dir: Path) -> AsyncGenerator[World, None]:
    folder = servers_dir / "backed-up"
    folder.mkdir()
    folder.chmod(0o711)
    async with world_of(minio_a, folder) as made:
        yield made
