"""The local stack from Python: ``up``, ``down``, ``status``, ``info``.

``up`` checks everything that can be checked before it starts anything, and leaves a supervisor in
the background. Invariant: one stack a data directory, held by a lock that the supervisor keeps; a
refusal changes nothing.
"""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from entrepot.clock import SYSTEM_CLOCK
from entrepot.codec.keys.directory import RingDirectory
from entrepot.codec.keys.local import LocalRoot
from entrepot.embedded import binaries, secrets
from entrepot.embedded.configfile import CONTROL_DATABASE, CONTROL_USER, write_config
from entrepot.embedded.paths import (
    MIN_FREE_BYTES,
    DataDir,
    check_free_space,
    default_data_dir,
    make_dir,
    write_text,
)
from entrepot.embedded.plan import REGION, Plan, catalog_name, parse, revise
from entrepot.embedded.prefect_server import without_prefect
from entrepot.embedded.process import (
    HOST,
    MARK,
    check_port_free,
    end_leftovers,
    free_port,
    leftovers,
    log_tail,
    trim_log,
)
from entrepot.embedded.servers import prefect_config, process_env
from entrepot.embedded.state import StackState, read_state
from entrepot.errors import SetupError

Progress = Callable[[str], None]
# Postgres may take a minute to write its checkpoint, each other server less.
_DOWN_TIMEOUT_S = 240.0
# Supervisors that this process started: kept so that they are reaped, and not warned about.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class SiteEndpoint:
    """One site: its S3 endpoint, its root user, and the database of its catalog."""

    name: str
    region: str
    endpoint: str
    access_key: str
    secret_key: SecretStr
    rank: int
    catalog_dsn: SecretStr


@dataclass(frozen=True)
class StackInfo:
    """Where everything is. ``env`` is what a client process needs on top of its environment."""

    data_dir: Path
    config_path: Path
    sites: tuple[SiteEndpoint, ...]
    control_dsn: SecretStr
    prefect_api_url: str
    prefect_ui_url: str
    prefect_auth: SecretStr
    gateway_url: str
    env: Mapping[str, str] = field(repr=False)

    def client_env(self) -> dict[str, str]:
        """A whole environment for a client process: ours, without foreign PREFECT_* settings."""
        return without_prefect(os.environ) | dict(self.env)


@dataclass(frozen=True)
class ChildStatus:
    """One server. ``uptime_s`` is None when it does not run."""

    name: str
    state: str
    pid: int | None
    port: int | None
    url: str
    restarts: int
    uptime_s: float | None


@dataclass(frozen=True)
class StackStatus:
    """``phase``: starting, running, stopping, stopped, failed, or crashed (supervisor killed)."""

    data_dir: Path
    phase: str
    supervisor_pid: int | None
    children: tuple[ChildStatus, ...]

    @property
    def healthy(self) -> bool:
        return self.phase == "running" and all(each.state == "running" for each in self.children)


def up(
    data_dir: Path | None = None,
    *,
    sites: int | None = None,
    port_base: int | None = None,
    prefect: bool = True,
    gateway: bool = False,
    notifications: bool = True,
    progress: Progress = lambda _line: None,
    min_free_bytes: int = MIN_FREE_BYTES,
) -> StackInfo:
    """Start the stack in the background and wait until every server answers.

    Args:
        data_dir: where the data lives; None: ``default_data_dir()``.
        sites: how many MinIO sites; None: as before, or 2. More may be added, none taken away.
        port_base: sites at base + i, Postgres + 50, Prefect + 60, gateway + 80; 0: free ports,
            remembered; None: as before, or 19000.
        prefect, gateway: whether these run too.
        notifications: whether the sites tell the gateway what is written to adopted buckets.
        progress: gets one line at a time; never a secret.
        min_free_bytes: refuse to start on a disk with less.

    Raises:
        SetupError: it cannot start, or already runs; the hint says what to type.
        InvalidInput: an argument is out of range.
    """
    data = _resolve(data_dir)
    with _full_disk_told(data), _locked(_claim(data)) as lock:
        kept = _kept_plan(data)
        check_free_space(data.root, min_free_bytes=min_free_bytes)
        plan = revise(
            kept,
            sites=sites,
            port_base=port_base,
            prefect=prefect,
            gateway=gateway,
            notifications=notifications,
            free_port=free_port,
            is_free=_is_free,
        )
        minio = binaries.minio(progress=progress)
        if leftovers(data.root):
            progress("ending the servers that a killed supervisor left")
            end_leftovers(data.root)
        for name, port in plan.used_ports.items():
            check_port_free(port, purpose=name)
        fresh = kept is None and not data.secrets.exists()
        found = secrets.create(data.secrets) if fresh else secrets.load(data.secrets)
        plan = _write(data, plan, progress)
        _start_supervisor(data, minio, lock, progress)
    return _describe(data, plan, found)


def down(data_dir: Path | None = None, *, progress: Progress = lambda _line: None) -> None:
    """Stop every server; data stays. Nothing to stop is no error.

    Raises ``SetupError`` if there is no stack in the directory or it does not stop.
    """
    data = _existing(data_dir)
    state = read_state(data.state)
    if state and state.supervisor.alive:
        progress("stopping the servers")
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.supervisor.pid, signal.SIGTERM)
        _wait_until_gone(state)
    with _locked(data):
        if leftovers(data.root):
            progress("ending the servers that a killed supervisor left")
            end_leftovers(data.root)


def status(data_dir: Path | None = None) -> StackStatus:
    """What runs. Raises ``SetupError`` if there is no stack in the directory."""
    data = _existing(data_dir)
    state = read_state(data.state)
    if state is None:
        return StackStatus(data.root, "stopped", None, ())
    supervised = state.supervisor.alive
    phase: str = state.phase
    if not supervised and phase in ("starting", "running", "stopping"):
        phase = "crashed"
    now = SYSTEM_CLOCK.now()
    children = []
    for child in state.children:
        alive = child.identity is not None and child.identity.alive
        children.append(
            ChildStatus(
                name=child.name,
                state=child.state if supervised else "orphaned" if alive else "stopped",
                pid=child.identity.pid if child.identity and alive else None,
                port=child.port,
                url=child.url,
                restarts=child.restarts,
                uptime_s=(now - child.started_at).total_seconds()
                if alive and child.started_at
                else None,
            )
        )
    pid = state.supervisor.pid if supervised else None
    return StackStatus(data.root, phase, pid, tuple(children))


def info(data_dir: Path | None = None) -> StackInfo:
    """Where everything is, running or not. Raises ``SetupError`` without a stack there."""
    data = _existing(data_dir)
    plan = parse(data.marker.read_text(), path=str(data.marker))
    return _describe(data, plan, secrets.load(data.secrets))


def _resolve(data_dir: Path | None) -> DataDir:
    return DataDir((data_dir or default_data_dir()).expanduser().resolve())


def _existing(data_dir: Path | None) -> DataDir:
    data = _resolve(data_dir)
    if not data.marker.exists():
        raise SetupError(
            "there is no stack in this directory",
            hint="start one with: entrepot up, or name another with --data DIR",
            path=str(data.root),
        )
    return data


def _claim(data: DataDir) -> DataDir:
    """The directory, made if need be; refused unless it is ours or empty, and writable."""
    root = data.root
    if root.exists() and not root.is_dir():
        raise SetupError("not a directory", hint="choose another with --data DIR", path=str(root))
    make_dir(root)
    if not os.access(root, os.W_OK | os.X_OK):
        raise SetupError(
            "the directory is not writable", hint="choose another with --data DIR", path=str(root)
        )
    # What a first `up` that was refused may leave, and mkfs.
    early = (data.lock.name, data.secrets.name, data.config.name, "lost+found")
    if not data.marker.exists() and any(entry.name not in early for entry in root.iterdir()):
        raise SetupError(
            "the directory holds other files and no stack",
            hint="choose an empty or a new one with --data DIR",
            path=str(root),
        )
    if os.geteuid() == 0:
        root.chmod(root.stat().st_mode | 0o011)  # Postgres' own user must pass
    return data


def _kept_plan(data: DataDir) -> Plan | None:
    if data.marker.exists():
        return parse(data.marker.read_text(), path=str(data.marker))
    return None


@contextlib.contextmanager
def _locked(data: DataDir) -> Iterator[int]:
    """Hold the stack's lock; the descriptor may be handed to a child, which then holds it too."""
    descriptor = os.open(data.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        state = read_state(data.state)
        if state and state.supervisor.alive:
            raise SetupError(
                f"already running, pid {state.supervisor.pid}",
                hint="look with: entrepot status; stop it with: entrepot down",
                path=str(data.root),
            ) from error
        raise SetupError(
            "another entrepot up or down is at work here",
            hint="wait until it is done, then: entrepot status",
            path=str(data.root),
        ) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _full_disk_told(data: DataDir) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SetupError(
            "the disk is full",
            hint="free some space, or choose another disk with --data DIR",
            path=str(data.root),
        ) from error


def _is_free(port: int) -> bool:
    try:
        check_port_free(port, purpose="")
    except SetupError:
        return False
    return True


def _write(data: DataDir, plan: Plan, progress: Progress) -> Plan:
    plan, written = write_config(data, plan)
    if not written:
        progress("config.yaml was changed by hand and is kept; see config.generated.yaml")
    if not data.keys.exists():  # a stack of its own has a ring of its own, from the start
        RingDirectory.create(data.keys, clock=SYSTEM_CLOCK)
        if not data.root_key.exists():
            LocalRoot.create_file(data.root_key)
    write_text(data.marker, plan.model_dump_json(indent=2) + "\n")
    return plan


def _start_supervisor(data: DataDir, minio: Path, lock: int, progress: Progress) -> None:
    log = make_dir(data.logs) / "supervisor.log"
    trim_log(log)
    data.state.unlink(missing_ok=True)
    env = {key: value for key, value in os.environ.items() if key != MARK}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot.embedded.supervisor", str(data.root), str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env | {"ENTREPOT_MINIO": str(minio)},
            cwd=data.root,
            start_new_session=True,
            pass_fds=(lock,),
        )
    _started.append(process)
    try:
        _wait_until_running(data, process, progress)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _wait_until_running(
    data: DataDir, process: subprocess.Popen[bytes], progress: Progress
) -> None:
    told: set[tuple[str, str]] = set()
    while True:
        ended = process.poll() is not None
        state = read_state(data.state)
        for child in state.children if state else ():
            line = (child.name, child.state)
            if child.state in ("starting", "running") and line not in told:
                told.add(line)
                progress(f"{child.name}: {child.state}")
        if state and state.phase == "running":
            return
        if ended:
            tail = log_tail(data.logs / "supervisor.log")
            raise SetupError(
                (state and state.error) or f"the supervisor ended; its log ends with:\n{tail}",
                hint=(state and state.hint) or f"look into {data.logs}",
            )
        time.sleep(0.05)


def _wait_until_gone(state: StackState) -> None:
    deadline = SYSTEM_CLOCK.monotonic() + _DOWN_TIMEOUT_S
    while state.supervisor.alive:
        if SYSTEM_CLOCK.monotonic() > deadline:
            raise SetupError(
                f"the supervisor (pid {state.supervisor.pid}) does not stop",
                hint=f"kill -9 {state.supervisor.pid}, then: entrepot down",
            )
        time.sleep(0.05)
    for process in [*_started]:
        if process.poll() is not None:
            _started.remove(process)


def _describe(data: DataDir, plan: Plan, found: secrets.Secrets) -> StackInfo:
    prefect = prefect_config(data, plan, found)
    return StackInfo(
        data_dir=data.root,
        config_path=data.config,
        sites=tuple(
            SiteEndpoint(
                name=name,
                region=REGION,
                endpoint=f"http://{HOST}:{plan.ports[name]}",
                access_key=found.minio_access_key.get_secret_value(),
                secret_key=found.minio_secret_key,
                rank=rank,
                catalog_dsn=_dsn(catalog_name(name), plan, found),
            )
            for rank, name in enumerate(plan.site_names)
        ),
        control_dsn=_dsn(CONTROL_DATABASE, plan, found),
        prefect_api_url=prefect.api_url,
        prefect_ui_url=prefect.ui_url,
        prefect_auth=found.prefect_auth,
        gateway_url=f"http://{HOST}:{plan.ports['gateway']}",
        env=process_env(data, plan, found),
    )


def _dsn(database: str, plan: Plan, found: secrets.Secrets) -> SecretStr:
    login = f"{CONTROL_USER}:{found.db_password.get_secret_value()}"
    return SecretStr(f"postgresql+psycopg://{login}@{HOST}:{plan.ports['postgres']}/{database}")
