"""What one run of one tool costs: wall time, CPU time, memory.

The tool runs in a process of its own with exactly the environment it is given. CPU time is the
kernel's own account of that process and of the children it waited for. The peak of a process is
``VmHWM``, read from ``/proc`` every 50 ms: ``ru_maxrss`` would not do, because Linux hands the
parent's peak to the child at exec.

Words: *tree* the process, its descendants and those beside; *beside* servers that work for the
tool in processes of their own, whose CPU time and memory are its cost too.
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from entrepot.errors import IntegrityError, Unavailable

SAMPLE_S = 0.05
TREE_EVERY = 10
"""Samples between two looks for new processes: looking reads all of ``/proc`` and would take a
noticeable part of a core from the tool."""

TIMEOUT_S = 1800.0
"""No tool needs a tenth of it for the largest case; past it the tool hangs."""

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One S3 server: ``url`` without a path, ``name`` unique among those of one benchmark."""

    name: str
    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. ``peak_mib`` is of the largest process, ``tree_peak_mib`` of all at one moment.

    ``fixed_start_s`` is the part of ``wall_s`` that does not depend on the work (a flow run's
    start); ``prefect_share`` is the part of the flow's own time that was not the library's.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    tree_peak_mib: float
    fixed_start_s: float = 0.0
    prefect_share: float | None = None
    stdout: str = ""


Tool = Callable[[str], Measured]
"""Brings the bucket of that name on the target in step with the one on the source."""


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    beside: Sequence[int] = (),
    timeout_s: float = TIMEOUT_S,
) -> Measured:
    """Run ``command`` to its end and measure it; ``beside`` are process ids.

    Raises ``IntegrityError`` with the end of its stderr where it fails, ``Unavailable`` where it
    takes longer than ``timeout_s``.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        cpu_before_s = _cpu_s(beside)
        started = time.perf_counter()
        process = subprocess.Popen(
            list(command), env=dict(env), stdout=out, stderr=err, start_new_session=True
        )
        watch = _Watch(process.pid, beside, timeout_s)
        try:
            watch.start()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # the tool has a session of its own: Ctrl-C reached only us
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            wall_s = time.perf_counter() - started
            watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        if watch.timed_out:
            raise Unavailable("tool took too long", command=command[0], timeout_s=timeout_s)
        if process.returncode != 0:
            raise IntegrityError(
                f"tool failed: {_text(err)[-2000:]}", command=command[0], status=process.returncode
            )
        return Measured(
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime + _cpu_s(beside) - cpu_before_s,
            peak_mib=watch.peak_bytes / MIB,
            tree_peak_mib=watch.tree_peak_bytes / MIB,
            stdout=_text(out),
        )


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds so far of the trees of ``pids``; what their dead children used included."""
    total_s = 0.0
    for process in (process for pid in pids for process in _tree(pid)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system
            if process.pid in pids:
                total_s += times.children_user + times.children_system
    return total_s


def _peak_bytes(process: psutil.Process) -> int:
    """The most memory the process ever held; what it holds now where there is no ``/proc``."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)


class _Watch(threading.Thread):
    """Samples a tree until stopped, and ends it where it takes too long."""

    def __init__(self, pid: int, beside: Sequence[int], timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.tree_peak_bytes = 0
        self.timed_out = False
        self._pid = pid
        self._beside = beside
        self._deadline = time.monotonic() + timeout_s
        self._stopped = threading.Event()
        self._samples = 0
        self._own: list[psutil.Process] = []
        self._others: list[psutil.Process] = []

    def run(self) -> None:
        while not self.timed_out:
            self._sample()
            if self._stopped.wait(SAMPLE_S):
                return
            if time.monotonic() > self._deadline:
                self.timed_out = True
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _sample(self) -> None:
        if self._samples % TREE_EVERY == 0:
            self._own = _tree(self._pid)
            self._others = [process for pid in self._beside for process in _tree(pid)]
        self._samples += 1
        total_bytes = 0
        for process in self._own:
            with suppress(psutil.NoSuchProcess):
                total_bytes += process.memory_info().rss
                self.peak_bytes = max(self.peak_bytes, _peak_bytes(process))
        for process in self._others:
            with suppress(psutil.NoSuchProcess):
                total_bytes += process.memory_info().rss
        self.tree_peak_bytes = max(self.tree_peak_bytes, total_bytes)
