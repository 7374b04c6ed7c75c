"""Wall time, CPU time and memory of a process whose cost is known."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from bench.measure import MIB, run
from entrepot.errors import IntegrityError, Unavailable

# Sleeps after the work, so that a machine under load takes a sample of the peak.
GREEDY = "import time; held = b'x' * (120 << 20); print('done'); time.sleep(0.5)"
BUSY = "import time; stop = time.process_time() + 0.3\nwhile time.process_time() < stop: pass"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_memory_and_wall_time_of_a_process() -> None:
    measured = run(python(GREEDY), env={})
    assert measured.stdout == "done\n"
    assert 120 < measured.peak_mib < 180
    assert measured.tree_peak_mib >= 120
    assert 0.5 < measured.wall_s < 30


def test_memory_is_not_the_parents_own() -> None:
    held = b"x" * (256 * MIB)
    measured = run(python("import time; time.sleep(0.2)"), env={})
    assert len(held) / MIB > 2 * measured.peak_mib


def test_cpu_time_of_children_counts() -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    assert 0.3 <= run(python(code), env={}).cpu_s < 5


def test_cpu_time_and_memory_of_servers_beside_count() -> None:
    hungry = "import time; held = b'x' * (120 << 20); print(flush=True)\nwhile True: pass"
    server = subprocess.Popen(python(hungry), stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            measured = run(python("import time; time.sleep(1)"), env={}, beside=[server.pid])
        finally:
            server.kill()
    assert measured.cpu_s > 0.1
    assert measured.tree_peak_mib > 120 > measured.peak_mib


def test_a_tool_that_fails_is_no_result() -> None:
    with pytest.raises(IntegrityError, match="it broke"):
        run(python("import sys; sys.exit('it broke')"), env={})


def test_a_tool_that_hangs_is_ended() -> None:
    with pytest.raises(Unavailable, match="too long"):
        run(python("import time; time.sleep(60)"), env={}, timeout_s=0.2)


def test_interrupting_the_benchmark_ends_the_tool() -> None:
    code = "import sys; from bench.measure import run; run([*sys.argv[1:]], env={})"
    tool = python("import time; time.sleep(60)")
    with subprocess.Popen([*python(code), *tool], stderr=subprocess.DEVNULL) as bench:
        while not (found := psutil.Process(bench.pid).children()):
            assert bench.poll() is None
        time.sleep(1)  # the tool is there a moment before the benchmark waits for it
        bench.send_signal(signal.SIGINT)
    assert bench.returncode != 0
    assert not found[0].is_running()
