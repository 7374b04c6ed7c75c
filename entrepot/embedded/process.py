"""One server as a child process: spawn, wait until it answers, stop; find what a crash left over.

Invariant: a process is touched only if its environment carries our mark for this data directory,
so a reused pid is never mistaken for ours, and a server's own children (Prefect's web server,
running flows) are found even when they moved to another session.

Words: the *mark* is the variable ``ENTREPOT_CHILD=<name>@<data directory>``; a *leftover* is a
marked process whose supervisor is gone.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import SetupError

HOST = "127.0.0.1"
MARK = "ENTREPOT_CHILD"
# A log is kept once over (``.1``), so a stack's logs stay under twice this per child.
LOG_LIMIT_BYTES = 32 << 20
_TICK_S = 0.05


@dataclass(frozen=True)
class Account:
    """The unprivileged user that a server runs as."""

    uid: int
    gid: int


def run_as(account: Account | None) -> dict[str, Any]:
    """Arguments of ``subprocess`` that run a program as this user; none for ourselves."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


@dataclass(frozen=True)
class Spec:
    """How one server is started, asked whether it is ready, and stopped."""

    name: str
    command: tuple[str, ...]
    data_dir: Path
    log: Path
    probe: Callable[[], bool]
    env: Mapping[str, str] = field(repr=False, default_factory=dict)
    cwd: Path | None = None
    port: int | None = None
    url: str = ""
    account: Account | None = None
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 30.0
    ready_timeout_s: float = 180.0
    after_ready: Callable[[], None] = lambda: None

    @property
    def mark(self) -> str:
        return f"{self.name}@{self.data_dir}"


class Child:
    """A server that we start, and start again."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; reaps it once it ended."""
        return self._process.poll() if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self.exit_code is None

    def spawn(self) -> None:
        """Start it in its own session; output goes to the log."""
        spec = self.spec
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        trim_log(spec.log)
        with spec.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    spec.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**spec.env, MARK: spec.mark},
                    cwd=spec.cwd or spec.data_dir,
                    start_new_session=True,
                    **run_as(spec.account),
                )
            except OSError as error:
                raise SetupError(
                    f"cannot start {spec.name}: {error.strerror}",
                    hint="is the program there and executable?",
                    path=spec.command[0],
                ) from error

    def wait_ready(self) -> None:
        """Block until the probe succeeds; a ``SetupError`` quotes the end of the log."""
        deadline = SYSTEM_CLOCK.monotonic() + self.spec.ready_timeout_s
        while not (self.alive and self.spec.probe()):
            if not self.alive:
                raise self._failure(f"ended with status {self.exit_code} while starting")
            if SYSTEM_CLOCK.monotonic() > deadline:
                raise self._failure(f"is not ready after {self.spec.ready_timeout_s:.0f} s")
            time.sleep(_TICK_S)
        self.spec.after_ready()

    def _failure(self, what: str) -> SetupError:
        tail = log_tail(self.spec.log)
        if "No space left on device" in tail:
            what += ": the disk is full"
        return SetupError(
            f"{self.spec.name} {what}; its log ends with:\n{tail}",
            hint=f"read {self.spec.log}",
        )

    def stop(self) -> None:
        """Ask, wait, kill; then end whatever it left behind. Safe to call twice."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self.spec.stop_signal)
            try:
                process.wait(self.spec.stop_timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        end_leftovers(self.spec.data_dir, name=self.spec.name)


def leftovers(data_dir: Path, *, name: str | None = None) -> list[psutil.Process]:
    """Living processes marked for this data directory (and child ``name``), oldest first."""
    found: list[tuple[float, psutil.Process]] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK, "")
            child, _, directory = mark.partition("@")
            if directory == str(data_dir) and name in (None, child) and is_alive(process):
                found.append((process.create_time(), process))
    return [process for _, process in sorted(found, key=lambda pair: (pair[0], pair[1].pid))]


def end_leftovers(data_dir: Path, *, name: str | None = None, timeout_s: float = 10.0) -> None:
    """End what ``leftovers`` finds, newest server first, each as its kind wants to be stopped.

    Only the roots of a process tree are signalled: a server ends its own helpers (a signal sent
    to Postgres' helpers would mean something else). Kills after ``timeout_s`` (Postgres: six times
    that, since it writes a checkpoint).
    """
    names = [name] if name else _names_newest_first(data_dir)
    for each in names:
        if each == "postgres":
            _end_group(data_dir, each, how=signal.SIGINT, timeout_s=6 * timeout_s)
        else:
            _end_group(data_dir, each, how=signal.SIGTERM, timeout_s=timeout_s)


def _names_newest_first(data_dir: Path) -> list[str]:
    names: dict[str, None] = {}
    for process in leftovers(data_dir):
        with contextlib.suppress(psutil.Error, OSError):
            names.setdefault(process.environ().get(MARK, "").partition("@")[0])
    return list(reversed(names))


def _end_group(data_dir: Path, name: str, *, how: int, timeout_s: float) -> None:
    deadline = SYSTEM_CLOCK.monotonic() + timeout_s
    signalled: set[int] = set()
    while found := leftovers(data_dir, name=name):
        late = SYSTEM_CLOCK.monotonic() > deadline
        if SYSTEM_CLOCK.monotonic() > deadline + 30:
            raise SetupError(
                f"{name} (pid {found[0].pid}) does not end, even when killed",
                hint="it may hang on a dead disk; look with: ps -o pid,stat,wchan,args",
            )
        group = {process.pid for process in found}
        for process in found:
            with contextlib.suppress(psutil.Error):
                if late:
                    process.kill()
                elif process.pid not in signalled and process.ppid() not in group:
                    signalled.add(process.pid)
                    process.send_signal(how)
        time.sleep(_TICK_S)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def log_tail(log: Path, *, lines: int = 12) -> str:
    """The last lines of a log, indented; "" without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def trim_log(log: Path) -> None:
    """Move a log that grew past the limit to ``.1`` by copying: its writer appends and goes on."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)


def free_port() -> int:
    """A port that the kernel says is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def check_port_free(port: int, *, purpose: str) -> None:
    """Raise ``SetupError`` naming the port, and its owner where the system tells."""
    with socket.socket() as probe:
        # As the servers do: connections in TIME_WAIT do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SetupError(
                f"port {port} for {purpose} is taken{_owner(port)}",
                hint="end that process, or choose other ports: entrepot up --port-base N "
                "(0: any free ports)",
                port=port,
            ) from error


def _owner(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
