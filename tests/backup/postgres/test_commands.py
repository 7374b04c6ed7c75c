"""``entrepot backup wal`` and ``backup postgres`` as a person types them, on real servers."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner
from pydantic import SecretStr

from entrepot.cli import main
from entrepot.clock import new_id
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from tests.running import wait_for


class Typed:
    """Commands with the settings of one file; one with ``code`` must end so."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def __call__(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, [*words, "--config", str(self.config)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).splitlines()[0])


@pytest.fixture
def server(open_dir: Path) -> Iterator[PostgresServer]:
    made = PostgresServer(open_dir / "pg", password=SecretStr("secret")).start()
    yield made
    made.stop()


@pytest.fixture
def typed(server: PostgresServer, minio_a: MinioServer, open_dir: Path) -> Typed:
    (open_dir / "wal").mkdir(mode=0o755)
    settings = {
        "minio": {
            "endpoint": minio_a.endpoint,
            "access_key": minio_a.access_key,
            "secret_key": minio_a.secret_key.get_secret_value(),
        },
        "encryption": {
            "ring": str(open_dir / "keys"),
            "local": {"path": str(open_dir / "root.key")},
        },
        "backup": {
            "vaults": [
                {"name": "near", "site": "us-east-1", "bucket": f"vault-{new_id().hex[:12]}"}
            ],
            "clusters": [
                {
                    "name": "shop",
                    "vault": "near",
                    "conninfo": server._server.dsn("postgres").replace("+psycopg", ""),
                    "socket": str(open_dir / "wal/shop"),
                }
            ],
        },
    }
    config = open_dir / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    config.chmod(0o600)
    made = Typed(config)
    made("keys", "init")
    made("vault", "create", "near")
    return made


@contextmanager
def helper(typed: Typed) -> Iterator[subprocess.Popen[str]]:
    """``backup wal serve`` as a process, once it answers."""
    command = [sys.executable, "-m", "entrepot.cli", "backup", "wal", "serve", "--config"]
    with subprocess.Popen(
        [*command, str(typed.config)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline().startswith("WAL of shop: ")
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def sql(server: PostgresServer, statement: str) -> Any:
    with server._server.connect() as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def test_from_nothing_to_a_plan(typed: Typed, server: PostgresServer, open_dir: Path) -> None:
    assert "wal enable" in typed("backup", "wal", "status", code=1)
    assert "no answer" in typed("backup", "wal", "push", "/dev/null", "--socket", "/none", code=1)
    with helper(typed):
        enabled = typed.json("backup", "wal", "enable")
        assert sql(server, "SHOW archive_command") == enabled["archive_command"]
        snapshot = typed.json("backup", "postgres", "create")["snapshot"]
        before = sql(server, "SELECT clock_timestamp()")
        typed("backup", "postgres", "point", "here")
    latest = datetime.fromisoformat(typed.json("backup", "wal", "status")["latest_time"])
    assert before <= latest <= before + timedelta(minutes=5)
    restore = ("backup", "postgres", "restore", str(open_dir / "x"), "--dry-run")
    assert typed.json(*restore, "--point", "here")["snapshots"] == [snapshot]
    assert "does not reach the target" in typed(*restore, "--point", "elsewhere", code=1)
    assert "its zone" in typed(*restore, "--time", "2026-01-01T00:00:00", code=2)


@pytest.mark.nightly
def test_from_nothing_to_a_restored_cluster(
    typed: Typed, server: PostgresServer, open_dir: Path
) -> None:
    with helper(typed) as first:
        enabled = typed.json("backup", "wal", "enable", "--timeout", "30")
        assert sql(server, "SHOW archive_timeout") == "30s"
        assert sql(server, "SHOW archive_command") == enabled["archive_command"]
        snapshot = typed.json("backup", "postgres", "create")["snapshot"]
        sql(server, "CREATE TABLE t AS SELECT generate_series(1, 500) AS n")
        first.send_signal(signal.SIGKILL)
        first.wait()
        sql(server, "INSERT INTO t VALUES (501)")
        lost = sql(server, "SELECT pg_walfile_name(pg_switch_wal())")
        wait_for(lambda: sql(server, "SELECT failed_count FROM pg_stat_archiver"))
    with helper(typed):
        typed("backup", "postgres", "point", "before the sale")
        sql(server, "DROP TABLE t")
        status = typed.json("backup", "wal", "status")
        assert status["gaps"] == []
        assert [row["snapshot"] for row in status["backups"]] == [snapshot]
        assert status["runs"][0]["last"] > lost
        assert [each["method"] for each in typed.json("backup", "postgres", "list")] == ["full"]
        where = str(open_dir / "back")
        to_point = ("backup", "postgres", "restore", where, "--point", "before the sale")
        planned = typed.json(*to_point, "--dry-run")
        assert (planned["snapshots"], planned["wal_segments"] > 0) == ([snapshot], True)
        assert not Path(where).exists()
        late = ("backup", "postgres", "restore", where, "--time", "2999-01-01T00:00:00Z")
        assert "does not reach the target" in typed(*late, code=1)
        assert typed.json(*to_point)["path"] == where
        settings = Path(where, "postgresql.auto.conf").read_text()
        assert "recovery_target_name = 'before the sale'" in settings
        assert Path(where, "recovery.signal").exists()
    _check_direct(typed, open_dir, lost)
    typed("backup", "wal", "disable")
    assert sql(server, "SHOW archive_command") == "true"


def _check_direct(typed: Typed, open_dir: Path, segment: str) -> None:
    """The commands without a helper do the same."""
    path = open_dir / segment
    typed("backup", "wal", "fetch", segment, str(path))
    typed("backup", "wal", "push", str(path))
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"other")
    assert "another file under that name" in typed("backup", "wal", "push", str(path), code=1)
    nobody = "0" * 7 + "9" + "0" * 16
    assert typed("backup", "wal", "fetch", nobody, str(open_dir / "x"), code=1) == ""
    assert "no vault of that name" not in typed("backup", "wal", "fetch", "x", "y", code=200)


def test_a_server_that_does_not_answer_is_said(typed: Typed, server: PostgresServer) -> None:
    server.stop()
    assert "does not answer" in typed("backup", "postgres", "point", "x", code=1)
    with pytest.raises(psycopg.OperationalError):
        sql(server, "SELECT 1")
