"""A third real MinIO, and worlds of two or three sites over the session's servers."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer
from tests.replication.worlds import World

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def minio_c(servers_dir: Path) -> Iterator[MinioServer]:
    """A third running MinIO."""
    server = MinioServer(
        servers_dir / "minio-c", MinioCredentials(new_token(8), SecretStr(new_token(24)))
    )
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
async def worlds(
    minio_a: MinioServer, minio_b: MinioServer, minio_c: MinioServer
) -> AsyncIterator[MakeWorld]:
    """Makes worlds with a new bucket each, and closes them."""
    made: list[World] = []

    def make(*, sites: int = 2, **more: object) -> World:
        servers = (minio_a, minio_b, minio_c)[:sites]
        made.append(World(servers, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        await world.close()
