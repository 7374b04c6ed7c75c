"""What cuts networks for the tests cleans up after itself, also when it is killed."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from entrepot.embedded.process import leftovers
from tests.replication.namespaces import PREFIX, end_stale, require_root
from tests.running import wait_for

_RUN = """
import signal
from tests.replication.namespaces import archipelago
with archipelago("site-a") as found:
    print(found["site-a"].far.name, flush=True)
    signal.pause()
"""


@pytest.mark.nightly
def test_what_a_killed_run_left_is_ended_by_the_next() -> None:
    require_root()
    with subprocess.Popen([sys.executable, "-c", _RUN], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        link = run.stdout.readline().strip()
        run.send_signal(signal.SIGKILL)
    [left] = Path(tempfile.gettempdir()).glob(f"{PREFIX}{run.pid}-*")
    assert leftovers(left / "site-a") and link in psutil.net_if_addrs()
    end_stale()
    assert not left.exists() and not leftovers(left / "site-a")
    wait_for(lambda: link not in psutil.net_if_addrs(), timeout_s=20)
