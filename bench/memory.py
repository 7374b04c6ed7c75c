"""Whether the memory of a sweep depends on how much it sweeps.

    python -m bench.memory [--json] [--keys 10000,1000000] [--missing-every 1000]

Two generated sites (``bench.generated``); the target lacks every thousandth key, so that the
sweep also copies. What is measured is the flow's own process; the generated sites are not
counted, and they are checked afterwards: the target must hold every key.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import httpx

from bench import table
from bench.generated import BUCKET
from bench.measure import Endpoint, Measured
from bench.sweep import ours
from entrepot.errors import IntegrityError


@contextmanager
def generated_site(name: str, *, keys: int, missing_every: int = 0) -> Iterator[Endpoint]:
    """A generated site in a process of its own, gone at the end."""
    command = [sys.executable, "-m", "bench.generated", "--keys", str(keys)]
    command += ["--missing-every", str(missing_every)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            yield Endpoint(name=name, url=url, access_key="bench", secret_key="bench-generated")
        finally:
            process.terminate()


def held(endpoint: Endpoint) -> int:
    """How many keys the site holds now, as it counts them itself."""
    return int(httpx.get(f"{endpoint.url}/{BUCKET}?count").json()["keys"])


def measure(keys: int, *, missing_every: int) -> Measured:
    """One sweep of ours over ``keys`` keys."""
    with (
        generated_site("generatedsource", keys=keys) as source,
        generated_site("generatedtarget", keys=keys, missing_every=missing_every) as target,
        ours(source, target) as tool,
    ):
        measured = tool(BUCKET)
        if held(target) != keys:
            raise IntegrityError("the sweep left keys out", keys=keys, held=held(target))
        return measured


def result(keys: int, measured: Measured) -> dict[str, Any]:
    return {
        "keys": keys,
        "ours_peak_mib": round(measured.peak_mib, 1),
        "seconds": round(measured.wall_s, 2),
        "cpu_s": round(measured.cpu_s, 2),
        "keys_per_s": round(keys / (measured.wall_s - measured.fixed_start_s)),
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--keys", default="10000,1000000", help="Sizes, with commas between.")
@click.option("--missing-every", default=1000, type=click.IntRange(0), help="0: none is missing.")
def main(*, as_json: bool, keys: str, missing_every: int) -> None:
    """Measure the peak memory of a sweep at different numbers of keys."""
    sizes = [int(size) for size in keys.split(",")]
    results = [result(size, measure(size, missing_every=missing_every)) for size in sizes]
    peaks = [entry["ours_peak_mib"] for entry in results]
    growth = round(max(peaks) / min(peaks), 3)
    report = {"sizes": results, "growth": growth, "machine": table.machine()}
    if as_json:
        print(json.dumps(report))
    else:
        table.show_memory(report)


if __name__ == "__main__":
    main()
