"""A cluster that archives into a vault on a real store, and servers over what comes back."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from entrepot.backup.postgres.archive import WalArchive
from entrepot.backup.postgres.helper import helping
from entrepot.backup.postgres.programs import Cluster
from entrepot.backup.postgres.scan import _LONG
from entrepot.backup.postgres.switch import Commands, archive_to, commands_at
from entrepot.backup.postgres.wal import WalFile, segment_name
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.pginstall import choose_install, service_account
from entrepot.embedded.postgres import PostgresServer
from entrepot.embedded.process import HOST, Account, Child, Spec, free_port
from entrepot.store.protocol import Store
from entrepot.vault.place import VaultPlace
from entrepot.vault.repository import Vault
from tests.objects.worlds import key_ring, s3_store

NAME = "main"
SMALL_BYTES = 1 << 20
"""The smallest segment that Postgres can be made with."""


def small_segment(name: str, *, system: int = 1, filler: bytes = b"") -> bytes:
    """A segment that has a header and no record."""
    file = WalFile.parse(name)
    lsn = file.number(SMALL_BYTES) * SMALL_BYTES
    head = _LONG.pack(0xD118, 2, file.timeline, lsn, 0, system, SMALL_BYTES, 8192)
    return (head + filler).ljust(SMALL_BYTES, b"\0")


def segment(number: int, timeline: int = 1) -> str:
    """The name of such a segment."""
    return segment_name(timeline, number, SMALL_BYTES)


@asynccontextmanager
async def vault_on(
    minio: MinioServer,
    keys: Path,
    *,
    bucket: str = "",
    around: Callable[[Store], Store] = lambda store: store,
) -> AsyncGenerator[Vault, None]:
    """A vault in a bucket of its own; an existing one where ``bucket`` names it."""
    store = around(s3_store(minio))
    ring = key_ring(keys)
    try:
        if bucket:
            yield await Vault.open(VaultPlace(store, bucket), ring)
        else:
            bucket = f"vault-{new_id().hex[:20]}"
            await store.create(bucket)
            yield await Vault.create(VaultPlace(store, bucket), ring)
    finally:
        await ring.close()
        await store.close()


@dataclass
class World:
    """A server, the archive that its WAL goes to, and what Postgres runs for it."""

    server: PostgresServer
    cluster: Cluster
    archive: WalArchive
    commands: Commands
    folder: Path
    owner: tuple[int, int] | None

    @property
    def vault(self) -> Vault:
        return self.archive.vault

    def sql(self, statement: str, *given: Any) -> Any:
        """The first column of the first row."""
        with psycopg.connect(self.cluster.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), given or None)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def cluster_of(server: PostgresServer) -> Cluster:
    """The server as a backup sees it."""
    account = service_account(server.data_dir)
    dsn = server._server.dsn("postgres").replace("+psycopg", "")
    return Cluster(NAME, dsn, choose_install(account).bin_dir)


@asynccontextmanager
async def world_of(
    minio: MinioServer, folder: Path, *, around: Callable[[Store], Store] = lambda store: store
) -> AsyncGenerator[World, None]:
    """A new server that archives into a new vault."""
    account = service_account(folder)
    owner = (account.uid, account.gid) if account else None
    server = PostgresServer(folder / "pg", password=SecretStr("secret"))
    keys = folder / "keys"
    keys.mkdir()
    sockets = folder / "s"
    sockets.mkdir(mode=0o755)
    await asyncio.to_thread(server.start)
    try:
        async with vault_on(minio, keys, around=around) as vault:
            archive = WalArchive(vault, NAME)
            async with helping(archive, sockets / "wal", owner=owner):
                commands = commands_at(sockets / "wal", owner=owner)
                cluster = cluster_of(server)
                await archive_to(archive, cluster, commands.archive)
                yield World(server, cluster, archive, commands, folder, owner)
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def started(directory: Path, world: World) -> AsyncGenerator[str, None]:
    """A server over a restored directory, once it is a primary; its conninfo.

    In threads, since the helper that it asks for WAL answers on this loop.
    """
    port = free_port()
    log = directory.with_name(directory.name + ".log")
    conninfo = f"host={HOST} port={port} user=postgres password=secret dbname=postgres"

    def is_primary() -> bool:
        try:
            with psycopg.connect(conninfo, connect_timeout=3) as connection:
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                return row is not None and not row[0]
        except psycopg.OperationalError:
            return False

    account = Account(*world.owner) if world.owner else None
    child = Child(
        Spec(
            name="restored",
            command=(
                str(world.cluster.bin_dir / "postgres"),
                "-D",
                str(directory),
                "-p",
                str(port),
            ),
            data_dir=directory.parent,
            log=log,
            probe=is_primary,
            env={"LC_ALL": "C"},
            account=account,
            cwd=directory,
            stop_signal=2,
        )
    )
    child.spawn()
    try:
        await asyncio.to_thread(child.wait_ready)
        yield conninfo
    finally:
        await asyncio.to_thread(child.stop)


def rows(conninfo: str, query: str) -> list[Any]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


async def until(condition: Callable[[], Awaitable[Any]], *, timeout_s: float = 90.0) -> Any:
    """What ``condition`` gives once that is true."""
    deadline = SYSTEM_CLOCK.monotonic() + timeout_s
    while not (found := await condition()):
        assert SYSTEM_CLOCK.monotonic() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.05)
    return found
