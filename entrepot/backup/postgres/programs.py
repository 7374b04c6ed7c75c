"""Postgres' own programs, run against a server, and what they stream.

A password travels in the environment: arguments can be read by everybody on a machine.
"""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import SetupError, Unavailable

_ENV: Final = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PGAPPNAME": "entrepot"}
TAIL_BYTES: Final = 2000
"""Of what a program said, that an error quotes."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server: its name in the vault, how libpq reaches it, where its programs are.

    The user is a superuser, or has REPLICATION and ``pg_monitor`` (and reads what is dumped).
    """

    name: str
    conninfo: str = field(repr=False)
    bin_dir: Path
    clock: Clock = SYSTEM_CLOCK

    def command(self, program: str, *arguments: str, **connection: str) -> list[str]:
        """The command line; ``connection`` overrides what libpq is told."""
        said = self._said() | connection
        said.pop("password", None)
        target = make_conninfo("", **said)
        return [str(self.bin_dir / program), f"--dbname={target}", *arguments]

    def env(self) -> dict[str, str]:
        """The whole environment of a program."""
        password = self._said().get("password")
        return _ENV | ({"PGPASSWORD": password} if password else {})

    def _said(self) -> dict[str, str]:
        found = conninfo_to_dict(self.conninfo)
        return {name: str(value) for name, value in found.items() if value is not None}

    async def ask(self, query: str, *given: Any) -> Any:
        """The first column of a query's only row, in autocommit.

        ``Unavailable`` without an answer, ``SetupError`` for a refusal.
        """
        try:
            async with await psycopg.AsyncConnection.connect(
                self.conninfo, autocommit=True, connect_timeout=10
            ) as connection:
                cursor = await connection.execute(query.encode(), given or None)
                row = await cursor.fetchone() if cursor.description else None
        except psycopg.OperationalError as error:
            raise Unavailable(
                "the Postgres server does not answer",
                hint="is it up, and is backup.clusters[].conninfo right?",
                cluster=self.name,
                error=str(error).strip(),
            ) from error
        except psycopg.Error as error:
            raise SetupError(
                f"the Postgres server refuses: {str(error).strip()}",
                hint="the user of backup.clusters[].conninfo is to be a superuser",
                cluster=self.name,
            ) from error
        return row[0] if row else None


@asynccontextmanager
async def streaming(command: Sequence[str], env: dict[str, str]) -> AsyncGenerator[IO[bytes], None]:
    """The standard output of a program; ``SetupError`` at the end of the block if it failed.

    It is ended where the block raises.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: ASYNC220 - tarfile reads files, not streams
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=env
        )
        assert process.stdout
        try:
            yield process.stdout
            await asyncio.to_thread(process.wait)
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.kill()
                await asyncio.to_thread(process.wait)
        if process.returncode:
            raise _failed(command, said, process.returncode)


async def run(command: Sequence[str], *, cwd: Path | None = None) -> None:
    """Run a program that says nothing of use; ``SetupError`` with what it said if it failed."""
    with tempfile.TemporaryFile() as said:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=dict(_ENV),
            cwd=cwd,
            check=False,
        )
        if done.returncode:
            raise _failed(command, said, done.returncode)


def _failed(command: Sequence[str], said: IO[bytes], status: int) -> SetupError:
    end = said.seek(0, 2)
    said.seek(max(0, end - TAIL_BYTES))
    text = said.read().decode("utf-8", "replace").strip()
    program = Path(command[0]).name
    return SetupError(
        f"{program} failed with status {status}:\n{text}", hint="read the lines above"
    )
