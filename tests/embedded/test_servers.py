"""The single servers that other suites stand on."""

import psycopg
import pytest
from minio import Minio

from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer


def test_postgres_serves_databases_with_archiving_ready(postgres: PostgresServer) -> None:
    dsn = postgres.create_database("embedded_probe")
    with psycopg.connect(dsn.replace("+psycopg", "")) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
            for name in ("archive_mode", "wal_level", "listen_addresses", "data_checksums")
        }
        connection.execute("CREATE EXTENSION pg_trgm")
    assert shown == {
        "archive_mode": "on",
        "wal_level": "replica",
        "listen_addresses": "127.0.0.1",
        "data_checksums": "on",
    }


def test_postgres_demands_the_password(postgres: PostgresServer) -> None:
    wrong = postgres.create_database("embedded_closed").replace("+psycopg", "")
    head, _, tail = wrong.partition("@")
    wrong = f"{head.rpartition(':')[0]}:wrong@{tail}"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_minio_sites_are_apart(minio_a: MinioServer, minio_b: MinioServer) -> None:
    def client(server: MinioServer) -> Minio:
        return Minio(
            server.endpoint.removeprefix("http://"),
            access_key=server.access_key,
            secret_key=server.secret_key.get_secret_value(),
            secure=False,
        )

    client(minio_a).make_bucket("embedded-only-on-a")
    assert not client(minio_b).bucket_exists("embedded-only-on-a")
