"""One Postgres server on loopback that holds every database of the local stack.

Invariant: a data directory is either whole or absent (it is made under another name and renamed),
is opened only by the major version that made it, and is owned by an unprivileged user.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from pydantic import SecretStr

from entrepot.embedded.paths import make_dir, write_text
from entrepot.embedded.pginstall import PgInstall, choose_install, service_account
from entrepot.embedded.process import HOST, Account, Child, Spec, free_port, run_as
from entrepot.errors import SetupError

SUPERUSER = "postgres"
_SETTINGS = "entrepot.conf"


@dataclass(frozen=True)
class Database:
    """A database that must exist, with its owner's role."""

    name: str
    owner: str
    password: SecretStr
    extensions: tuple[str, ...] = ()


class Postgres:
    """The cluster in ``data_dir / "cluster"``: made on first use, started, filled with databases.

    ``databases`` are created when it is up, as far as they are missing. ``durable=False`` turns
    fsync off, for tests that throw the data away.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        password: SecretStr,
        port: int,
        stack: Path,
        log: Path,
        durable: bool = True,
        databases: tuple[Database, ...] = (),
    ) -> None:
        self.data_dir = data_dir
        self.port = port
        self._password = password
        self._stack = stack
        self._log = log
        self._durable = durable
        self._databases = databases

    @property
    def cluster(self) -> Path:
        return self.data_dir / "cluster"

    def dsn(
        self, database: str, *, user: str = SUPERUSER, password: SecretStr | None = None
    ) -> str:
        """``postgresql+psycopg://user:password@127.0.0.1:port/database``."""
        secret = (password or self._password).get_secret_value()
        return f"postgresql+psycopg://{user}:{secret}@{HOST}:{self.port}/{database}"

    def prepare(self) -> Spec:
        """Create the cluster if there is none, write its settings, say how to start it."""
        make_dir(self.data_dir)
        account = service_account(self.data_dir)
        if account:
            os.chown(self.data_dir, account.uid, account.gid)
        install = choose_install(account, major=self._major())
        if account and not _can_enter(self.data_dir, account):
            raise SetupError(
                "Postgres refuses to run as root, and its own user cannot enter the directory",
                hint="choose a directory that others may enter: --data /var/lib/entrepot",
                path=str(self.data_dir),
            )
        if not self.cluster.exists():
            self._create(install, account)
        self._configure(install, account)
        self._drop_stale_pid()
        return Spec(
            name="postgres",
            command=(str(install.bin_dir / "postgres"), "-D", str(self.cluster)),
            data_dir=self._stack,
            log=self._log,
            probe=self._ready,
            env=_server_env(),
            cwd=self.data_dir,
            port=self.port,
            url=f"postgresql://{HOST}:{self.port}",
            account=account,
            stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients to leave
            stop_timeout_s=60.0,
            ready_timeout_s=300.0,  # recovery after a crash replays WAL first
            after_ready=self._ensure_databases,
        )

    def _major(self) -> int | None:
        version = self.cluster / "PG_VERSION"
        return int(version.read_text()) if version.exists() else None

    def _create(self, install: PgInstall, account: Account | None) -> None:
        made = self.data_dir / "cluster.new"
        shutil.rmtree(made, ignore_errors=True)  # a first start that was cut short
        password_file = self.data_dir / ".password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password.get_secret_value())
        try:
            if account:
                os.chown(password_file, account.uid, account.gid)
            done = subprocess.run(
                [
                    str(install.bin_dir / "initdb"),
                    f"--pgdata={made}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--data-checksums",
                    *_locale(install.version),
                    *([] if self._durable else ["--no-sync"]),
                ],
                capture_output=True,
                text=True,
                check=False,
                env=_server_env(),
                cwd=self.data_dir,
                **run_as(account),
            )
        finally:
            password_file.unlink()
        if done.returncode:
            shutil.rmtree(made, ignore_errors=True)
            raise SetupError(
                f"cannot create the Postgres cluster:\n{done.stderr.strip()}",
                hint="read the lines above; nothing was changed",
                path=str(self.cluster),
            )
        with (made / "postgresql.conf").open("a") as settings:
            settings.write(f"include_if_exists = '{_SETTINGS}'\n")
        made.rename(self.cluster)

    def _configure(self, install: PgInstall, account: Account | None) -> None:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "wal_level": "replica",
            # Turning archive_mode on later needs a restart, so it is on from the first start.
            # Until backups exist there is nowhere to archive to: 'true' lets Postgres recycle
            # WAL. (An empty command would keep every segment for ever.)
            "archive_mode": "on",
            "archive_command": "true",
            "log_line_prefix": "%m [%p] %q%u@%d ",
        }
        if install.version >= (17, 0):
            settings["summarize_wal"] = "on"  # incremental base backups
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        lines = ["# Written at each start; put your own settings into postgresql.conf."]
        lines += [f"{name} = '{value}'" for name, value in settings.items()]
        path = self.cluster / _SETTINGS
        write_text(path, "\n".join(lines) + "\n", mode=0o600)
        if account:
            os.chown(path, account.uid, account.gid)

    def _drop_stale_pid(self) -> None:
        # In a container pids come again, and Postgres would take a stranger for its old self.
        # Only a file that no postgres process in this cluster stands behind is removed.
        pid_file = self.cluster / "postmaster.pid"
        if pid_file.exists() and not any(
            str(process.info["name"]).startswith("postgres")
            and process.info["cwd"] == str(self.cluster.resolve())
            for process in psutil.process_iter(["name", "cwd"])
        ):
            pid_file.unlink()

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection in autocommit."""
        dsn = self.dsn(database).replace("+psycopg", "")
        return psycopg.connect(dsn, autocommit=True, connect_timeout=3)

    def _ready(self) -> bool:
        try:
            with self.connect() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _ensure_databases(self) -> None:
        """Create the roles, databases and extensions that are missing."""
        for database in self._databases:
            with self.connect() as connection:
                _ensure_role(connection, database)
                _ensure_database(connection, database)
            with self.connect(database.name) as connection:
                for extension in database.extensions:
                    name = sql.Identifier(extension)
                    connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(name))


def _ensure_role(connection: psycopg.Connection, database: Database) -> None:
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [database.owner])
    if found.fetchone():
        return
    # Hashed here, so that the password appears in no statement and no server log.
    hashed = connection.pgconn.encrypt_password(
        database.password.get_secret_value().encode(), database.owner.encode(), b"scram-sha-256"
    )
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(database.owner), sql.Literal(hashed.decode())
        )
    )


def _ensure_database(connection: psycopg.Connection, database: Database) -> None:
    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database.name])
    if not found.fetchone():
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(database.name), sql.Identifier(database.owner)
            )
        )


def _locale(version: tuple[int, int]) -> list[str]:
    """Code point order: it is S3's order of keys, and the same on every machine."""
    if version >= (17, 0):
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C"]


def _server_env() -> dict[str, str]:
    """Our environment without PG*, which may describe another server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}


def _can_enter(path: Path, account: Account) -> bool:
    return (
        subprocess.run(
            ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)],
            check=False,
            cwd="/",
            **run_as(account),
        ).returncode
        == 0
    )


class PostgresServer:
    """A Postgres for tests: ``start()``, ``create_database(name)``, ``stop()``.

    As root the parents of ``data_dir`` must let others pass (mode 0711), because Postgres then
    runs as another user.
    """

    def __init__(
        self, data_dir: Path, *, password: SecretStr, port: int = 0, durable: bool = False
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self._server = Postgres(
            data_dir / "postgres",
            password=password,
            port=self.port,
            stack=data_dir,
            log=data_dir / "postgres.log",
            durable=durable,
        )
        self._child: Child | None = None

    def start(self) -> "PostgresServer":
        """Start it and wait until it answers. Raises ``SetupError``."""
        make_dir(self.data_dir)
        self._child = Child(self._server.prepare())
        self._child.spawn()
        self._child.wait_ready()
        return self

    def stop(self) -> None:
        if self._child:
            self._child.stop()

    def create_database(self, name: str) -> str:
        """A new empty database; returns its superuser DSN (``postgresql+psycopg://``)."""
        with self._server.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._server.dsn(name)
