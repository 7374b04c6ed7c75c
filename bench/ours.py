"""Our sweep as the benchmarks run it: a Prefect flow run in a fresh process each time.

Prefect's server, its worker and Postgres run beside it, as they do on a laptop. What a run costs
whatever there is to do (the process, the imports, Prefect's bookkeeping of run and tasks) is the
*fixed start*: before each run the same flow runs over an empty bucket, and the time that the flow
itself takes there is subtracted from the time that it takes with work. *Prefect's share* is the
part of that difference in which the library was not at work.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import data
from bench.measure import Endpoint, Measured, Tool, run
from bench.reaper import watched
from entrepot.embedded import stack

EMPTY = "entrepot-empty"


@contextmanager
def opened(source: Endpoint, target: Endpoint) -> Iterator[Tool]:
    """A stack of our own around the two endpoints, and the tool that sweeps a bucket of them."""
    root = Path(tempfile.mkdtemp(prefix="entrepot-bench-stack-"))
    root.chmod(0o711)  # Postgres runs as another user than root
    try:
        with watched(root), _running(root, source, target) as tool:
            yield tool
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _running(root: Path, source: Endpoint, target: Endpoint) -> Iterator[Tool]:
    generated = "generated" in source.name
    info = stack.up(root / "data", sites=1, port_base=0, prefect=True, gateway=False, progress=_say)
    try:
        env = info.client_env() | {"PREFECT_LOGGING_LEVEL": "WARNING"}
        _set_up([source, target], env=env, control=info.control_dsn, generated=generated)
        if not generated:
            for endpoint in (source, target):
                data.create(endpoint, EMPTY)
            _measure(EMPTY, env)  # warms caches
        yield lambda bucket: _sweep(bucket, env, with_empty=not generated)
    finally:
        stack.down(root / "data")


def _set_up(
    endpoints: list[Endpoint], *, env: Mapping[str, str], control: Any, generated: bool
) -> None:
    sites = [
        {
            "name": each.name,
            "url": each.url,
            "region": each.region,
            "access_key": each.access_key,
            "secret_key": each.secret_key,
            "generated": generated,
        }
        for each in endpoints
    ]
    subprocess.run(
        [sys.executable, "-m", "bench.flow_run", "setup"],
        input=json.dumps({"control": control.get_secret_value(), "sites": sites}),
        env=dict(env),
        text=True,
        check=True,
    )


def _sweep(bucket: str, env: Mapping[str, str], *, with_empty: bool) -> Measured:
    empty = _measure(EMPTY, env)[1] if with_empty else {"flow_s": 0.0, "library_s": 0.0}
    measured, said = _measure(bucket, env)
    work_s = said["flow_s"] - empty["flow_s"]
    library_s = said["library_s"] - empty["library_s"]
    _say(f"  flow {said['flow_s']:.2f} s, of an empty bucket {empty['flow_s']:.2f} s")
    share = max(0.0, (work_s - library_s) / work_s) if work_s > 0 else None
    return replace(measured, fixed_start_s=measured.wall_s - work_s, prefect_share=share)


def _measure(bucket: str, env: Mapping[str, str]) -> tuple[Measured, dict[str, float]]:
    command = [sys.executable, "-m", "bench.flow_run", "sweep", "--bucket", bucket]
    measured = run(command, env=env)
    return measured, json.loads(measured.stdout.splitlines()[-1])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
