"""What the supervisor says about itself, in ``state.json``, for ``status`` and the next ``up``.

Invariant: the file is replaced whole; a process is believed to be the named one only if both its
pid and its start time agree.
"""

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from entrepot.embedded.paths import write_text
from entrepot.embedded.process import is_alive

# psutil derives the start time from the boot time, which a clock correction moves a little.
_SAME_START_S = 2.0


class Identity(BaseModel):
    """A process that can be told from another one with the same pid."""

    model_config = ConfigDict(frozen=True)

    pid: int
    create_time: float

    @property
    def alive(self) -> bool:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < _SAME_START_S
            return same and is_alive(process)
        return False


def identify(pid: int | None = None) -> Identity | None:
    """Of a running process (None: this one); None when it is gone."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return Identity(pid=process.pid, create_time=process.create_time())
    return None


class ChildState(BaseModel):
    """One server as the supervisor sees it."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: Literal["waiting", "starting", "running", "restarting", "stopped"]
    identity: Identity | None = None
    port: int | None = None
    url: str = ""
    restarts: int = 0
    started_at: datetime | None = None


class StackState(BaseModel):
    """The whole stack as the supervisor sees it."""

    model_config = ConfigDict(frozen=True)

    supervisor: Identity
    phase: Literal["starting", "running", "stopping", "stopped", "failed"]
    children: tuple[ChildState, ...] = ()
    error: str = ""
    hint: str = ""


def read_state(path: Path) -> StackState | None:
    """None when there is none, or it cannot be understood."""
    try:
        return StackState.model_validate_json(path.read_text())
    except (FileNotFoundError, ValidationError):
        return None


def write_state(path: Path, state: StackState) -> None:
    """Replace the file."""
    write_text(path, state.model_dump_json(indent=2) + "\n")
