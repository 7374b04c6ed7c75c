"""Two fresh MinIO servers on loopback, the same two for every tool of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from bench.measure import Endpoint
from entrepot.clock import new_bytes
from entrepot.embedded.minio import MinioCredentials, MinioServer


@contextmanager
def site(name: str, root: Path) -> Iterator[Endpoint]:
    """A server that is gone at the end; its data and log lie under ``root``/``name``."""
    secret = new_bytes(16).hex()
    server = MinioServer(root / name, MinioCredentials("bench", SecretStr(secret)))
    try:
        server.start()
        yield Endpoint(name=name, url=server.endpoint, access_key="bench", secret_key=secret)
    finally:
        server.stop()
