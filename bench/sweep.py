"""A sweep against ``mc mirror`` and ``rclone sync``: the same data, servers and run for all.

    python -m bench.sweep [--json] [--cases …] [--tools …] [--runs 3] [--scale 1] [--keep]

In each repetition the tools take turns (A B C A B C); the figure of a tool is its median. After
every run both sites are listed by another client and compared; a run that left a difference, or
a warm one that wrote anything, ends the benchmark with an error.

Words: *case* a dataset and a state to start from. *cold*: the target is empty, in a bucket that
no other run saw. *warm*: both sites in step in every respect, which every tool has confirmed by
one run that is not measured. *changed*: warm, then 1 % of the objects written anew at the source
with the same size.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench import data, peers, table
from bench.data import Dataset
from bench.measure import MIB, Endpoint, Measured, Tool
from bench.reaper import watched
from bench.servers import site
from entrepot.embedded import binaries
from entrepot.errors import IntegrityError

SMALL = Dataset(count=5_000, size_bytes=8 * 1024)
LARGE = Dataset(count=12, size_bytes=64 * MIB)
MANY = Dataset(count=100_000, size_bytes=100)
CHANGED_SHARE = 100
"""One object in so many is changed."""

Runs = dict[str, list[Measured]]
"""The measured runs of each tool."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every case needs; ``tools`` in the order in which they take turns."""

    source: Endpoint
    target: Endpoint
    tools: Mapping[str, Tool]
    runs: int
    drop: Callable[[str], None]

    def create(self, bucket: str) -> None:
        for endpoint in (self.source, self.target):
            data.create(endpoint, bucket)

    def measure(self, name: str, bucket: str) -> Measured:
        """One run of the tool, after everything written before it has reached the disk."""
        os.sync()
        measured = self.tools[name](bucket)
        _say(f"{bucket}, {name}: {measured.wall_s:.2f} s")
        return measured


def cold(bench: Bench, case: str, dataset: Dataset) -> Runs:
    """Everything is to be copied, into a new bucket each time."""
    found: Runs = {name: [] for name in bench.tools}
    for number in range(bench.runs):
        for name in bench.tools:
            bucket = f"{case}-{name}-{number}"
            bench.create(bucket)
            data.seed(dataset, [bench.source], [bucket])
            found[name].append(bench.measure(name, bucket))
            data.check(dataset, bench.source, bench.target, bucket)
            bench.drop(bucket)
    return found


def warm(bench: Bench, case: str, dataset: Dataset) -> Runs:
    """Nothing is to be copied; one bucket serves all, because nothing may be written."""
    bench.create(case)
    data.seed(dataset, [bench.source, bench.target], [case])
    before = data.check(dataset, bench.source, bench.target, case)
    found: Runs = {name: [] for name in bench.tools}
    for number in range(-1, bench.runs):
        for name in bench.tools:
            measured = bench.measure(name, case)
            if data.check(dataset, bench.source, bench.target, case) != before:
                raise IntegrityError("a warm run wrote something", tool=name, bucket=case)
            if number >= 0:
                found[name].append(measured)
    bench.drop(case)
    return found


def changed(bench: Bench, case: str, dataset: Dataset) -> Runs:
    """One object in a hundred is new at the source, of the same size; others each time."""
    found: Runs = {name: [] for name in bench.tools}
    for name in bench.tools:
        bench.create(f"{case}-{name}")
    buckets = [f"{case}-{name}" for name in bench.tools]
    data.seed(dataset, [bench.source, bench.target], buckets)
    for name, bucket in zip(bench.tools, buckets, strict=True):
        bench.measure(name, bucket)
    for number in range(bench.runs):
        indexes = range(number % CHANGED_SHARE, dataset.count, CHANGED_SHARE)
        for name, bucket in zip(bench.tools, buckets, strict=True):
            data.put(dataset, bench.source, bucket, indexes, salt=f"run {number}")
            found[name].append(bench.measure(name, bucket))
            data.check(dataset, bench.source, bench.target, bucket)
    for bucket in buckets:
        bench.drop(bucket)
    return found


CASES: Mapping[str, tuple[Callable[[Bench, str, Dataset], Runs], Dataset]] = {
    "cold-small": (cold, SMALL),
    "cold-large": (cold, LARGE),
    "warm": (warm, SMALL),
    "changed-1pct": (changed, SMALL),
    "warm-100k": (warm, MANY),
}


def scaled(dataset: Dataset, scale: float) -> Dataset:
    """Fewer objects, or smaller ones where there are few; for a trial of the harness."""
    if dataset.count < CHANGED_SHARE:
        return Dataset(dataset.count, max(1, int(dataset.size_bytes * scale)))
    return Dataset(max(1, int(dataset.count * scale)), dataset.size_bytes)


@contextmanager
def opened(names: Sequence[str], *, runs: int, mc: Path, root: Path) -> Iterator[Bench]:
    """Servers and tools, gone at the end; their files lie under ``root``."""
    with ExitStack() as stack:
        source = stack.enter_context(site("benchsource", root))
        target = stack.enter_context(site("benchtarget", root))
        tools: dict[str, Tool] = {}
        for name in names:
            if name == table.OURS:
                tools[name] = stack.enter_context(ours(source, target))
            else:
                tools[name] = peers.opened(name, source, target, mc=mc, scratch=root)

        def drop(bucket: str) -> None:
            for endpoint in (source, target):
                peers.drop(endpoint, bucket, mc=mc, scratch=root)

        yield Bench(source=source, target=target, tools=tools, runs=runs, drop=drop)


def ours(source: Endpoint, target: Endpoint) -> AbstractContextManager[Tool]:
    """Ours, ready to run. It starts a whole stack, so it is imported only where asked for."""
    module = importlib.import_module("bench.ours")
    opened_tool: AbstractContextManager[Tool] = module.opened(source, target)
    return opened_tool


def _case(bench: Bench, name: str, *, scale: float) -> dict[str, Any]:
    measure, dataset = CASES[name]
    dataset = scaled(dataset, scale)
    return table.case(name, [dataset], measure(bench, name, dataset))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--cases", default=",".join(CASES), callback=table.names(tuple(CASES)))
@click.option("--tools", default="ours,mc,rclone", callback=table.names((table.OURS, *peers.MODES)))
@click.option("--runs", default=3, type=click.IntRange(1, 100), help="Repetitions of each case.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 1.0), help="Share of the data.")
@click.option("--keep", is_flag=True, help="Leave logs and what is left of the data.")
def main(
    *,
    as_json: bool,
    cases: tuple[str, ...],
    tools: tuple[str, ...],
    runs: int,
    scale: float,
    keep: bool,
) -> None:
    """Measure a sweep against mc mirror and rclone sync."""
    mc = binaries.mc(progress=_say)
    report = {
        "runs": runs,
        "scale": scale,
        "machine": table.machine(),
        "versions": peers.versions(mc=mc, minio=binaries.minio(progress=_say)),
    }
    root = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    try:
        with watched(root), opened(tools, runs=runs, mc=mc, root=root) as bench:
            report["cases"] = [_case(bench, name, scale=scale) for name in cases]
    finally:
        if keep:
            _say(f"kept: {root}")
        else:
            shutil.rmtree(root)
    if as_json:
        print(json.dumps(report))
    else:
        table.show(report)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: cleans up
    main()
