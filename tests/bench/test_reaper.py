"""A benchmark that is killed takes its servers along; one that ends itself is left alone."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from bench.reaper import watched
from entrepot.embedded.process import leftovers
from tests.running import wait_for
from tests.sources import ROOT

_BENCH = """
import sys
from pathlib import Path
from pydantic import SecretStr
from bench.reaper import watched
from bench.servers import site
from entrepot.embedded.postgres import PostgresServer
root = Path(sys.argv[1])
with watched(root), site("benchone", root):
    PostgresServer(root / "postgres", password=SecretStr("secret")).start()
    print("up", flush=True)
    sys.stdin.read()
"""


def test_servers_of_a_killed_benchmark_end() -> None:
    root = Path(tempfile.mkdtemp(prefix="entrepot-test-", dir="/tmp"))
    root.chmod(0o711)
    with subprocess.Popen(
        [sys.executable, "-c", _BENCH, str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as bench:
        assert bench.stdout
        assert bench.stdout.readline() == b"up\n"
        servers = [*leftovers(root / "benchone"), *leftovers(root / "postgres")]
        assert {"minio", "postgres"} <= {server.name().partition("-")[0] for server in servers}
        bench.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.Process.is_running, servers)), timeout_s=60)
    wait_for(lambda: not root.exists(), timeout_s=60)


def test_what_a_benchmark_keeps_at_its_end_stays(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with watched(tmp_path):
        assert len(psutil.Process().children()) >= 1
    assert (tmp_path / "results").exists()
