"""The background process that starts the servers of a stack and keeps them running.

Started by ``entrepot up`` as ``python -m entrepot.embedded.supervisor DATA_DIR LOCK_FD``, with the
stack's lock already held on that descriptor. Invariant: while it lives, nobody else touches the
servers of this data directory; it ends them in reverse order before it ends. If it is killed, the
servers go on, and the next ``up`` or ``down`` finds and ends them.
"""

import contextlib
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType

from entrepot.clock import SYSTEM_CLOCK
from entrepot.embedded import binaries, secrets
from entrepot.embedded.paths import DataDir
from entrepot.embedded.plan import parse
from entrepot.embedded.process import Child, end_leftovers, trim_log
from entrepot.embedded.servers import specs
from entrepot.embedded.state import ChildState, StackState, identify, write_state
from entrepot.errors import EntrepotError, SetupError

_TICK_S = 0.25
_FIRST_BACKOFF_S = 0.5
_LAST_BACKOFF_S = 30.0
# A server that ran this long is believed to be well: its next failure starts the backoff anew.
_WELL_S = 60.0


class _Asked(BaseException):
    """SIGTERM or SIGINT arrived. Not an ``Exception``, so that nothing swallows it."""


@dataclass
class _Kept:
    """One server and its history of failures."""

    child: Child
    phase: str = "waiting"
    restarts: int = 0
    backoff_s: float = _FIRST_BACKOFF_S
    started_s: float = 0.0
    started_at: datetime | None = None
    start_again_s: float | None = None

    def spawn(self) -> None:
        self.phase = "starting"
        self.started_s = SYSTEM_CLOCK.monotonic()
        self.started_at = SYSTEM_CLOCK.now()
        self.start_again_s = None
        self.child.spawn()

    def tend(self) -> None:
        """One look: notice that it answers or died, start it again when its time has come."""
        now = SYSTEM_CLOCK.monotonic()
        if self.start_again_s is not None:
            if now >= self.start_again_s:
                self.restarts += 1
                try:
                    end_leftovers(self.child.spec.data_dir, name=self.child.spec.name)
                    self.spawn()
                except SetupError as error:  # the others go on, and this one is tried again
                    print(f"{error}; {error.hint}", file=sys.stderr, flush=True)
        elif not self.child.alive:
            self.phase = "restarting"
            if now - self.started_s > _WELL_S:
                self.backoff_s = _FIRST_BACKOFF_S
            self.start_again_s = now + self.backoff_s
            self.backoff_s = min(2 * self.backoff_s, _LAST_BACKOFF_S)
        elif self.phase == "starting" and self.child.spec.probe():
            self.phase = "running"

    def describe(self) -> ChildState:
        spec = self.child.spec
        pid = self.child.pid if self.child.alive else None
        return ChildState.model_validate(
            {
                "name": spec.name,
                "state": self.phase,
                "identity": identify(pid) if pid else None,
                "port": spec.port,
                "url": spec.url,
                "restarts": self.restarts,
                "started_at": self.started_at,
            }
        )


class Supervisor:
    """Runs the servers of one data directory until asked to stop."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._kept: list[_Kept] = []
        self._written: StackState | None = None
        me = identify()
        assert me is not None
        self._me = me

    def run(self) -> int:
        """Start, watch, stop. The exit status: 0 when asked to stop, 1 when a start failed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ask)
        failure: EntrepotError | None = None
        try:
            self._start()
            self._watch()
        except _Asked:
            pass
        except EntrepotError as error:
            failure = error
        except OSError as error:
            failure = SetupError(str(error), hint=f"look at {self._data.logs}")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            self._stop(failure)
        if failure:
            print(f"{failure}; {failure.hint}", file=sys.stderr, flush=True)
        return 1 if failure else 0

    def _start(self) -> None:
        self._tell("starting")
        plan = parse(self._data.marker.read_text(), path=str(self._data.marker))
        kept = secrets.load(self._data.secrets)
        servers = specs(self._data, plan, kept, minio=binaries.minio())
        self._kept = [_Kept(Child(spec)) for spec in servers]
        for server in self._kept:
            server.spawn()
            self._tell("starting")
            server.child.wait_ready()
            server.phase = "running"
            self._tell("starting")

    def _watch(self) -> None:
        while True:
            for server in self._kept:
                server.tend()
                trim_log(server.child.spec.log)
            self._tell("running")
            time.sleep(_TICK_S)

    def _stop(self, failure: EntrepotError | None) -> None:
        self._tell("stopping")
        for server in reversed(self._kept):
            server.child.stop()
            server.phase = "stopped"
            self._tell("stopping")
        # A server whose start was cut short between its birth and our note of it.
        end_leftovers(self._data.root)
        self._tell("failed" if failure else "stopped", failure)

    def _tell(self, phase: str, failure: EntrepotError | None = None) -> None:
        state = StackState.model_validate(
            {
                "supervisor": self._me,
                "phase": phase,
                "children": tuple(server.describe() for server in self._kept),
                "error": str(failure) if failure else "",
                "hint": failure.hint if failure else "",
            }
        )
        if state != self._written:
            # A full disk must not end servers that still run: the next change is written again.
            with contextlib.suppress(OSError):
                write_state(self._data.state, state)
                self._written = state


def _ask(_number: int, _frame: FrameType | None) -> None:
    raise _Asked


def main() -> int:
    """``DATA_DIR LOCK_FD``: the descriptor stays open, and with it the lock, until we end."""
    return Supervisor(DataDir(Path(sys.argv[1]))).run()


if __name__ == "__main__":
    sys.exit(main())
