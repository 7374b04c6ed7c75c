"""From runs to figures: medians, ratios of medians, and a table for people.

``ours_s`` leaves the flow run's fixed start out, ``ours_total_s`` has it in; the ratios say which
by the same names. Without a tool among those measured its figures are null.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from bench.data import Dataset
from bench.measure import MIB, Measured

OURS = "ours"


def case(
    name: str, datasets: Sequence[Dataset], runs: Mapping[str, Sequence[Measured]]
) -> dict[str, Any]:
    """One entry of ``cases``; seconds and MiB, medians over the runs."""
    peers = {tool: _wall_s(found) for tool, found in runs.items() if tool != OURS}
    best_s = min(peers.values(), default=None)
    ours = runs.get(OURS, ())
    total_s = _wall_s(ours) if ours else None
    start_s = median(run.fixed_start_s for run in ours) if ours else None
    work_s = median(run.wall_s - run.fixed_start_s for run in ours) if ours else None
    shares = [run.prefect_share for run in ours if run.prefect_share is not None]
    return {
        "name": name,
        "objects": sum(dataset.count for dataset in datasets),
        "bytes": sum(dataset.count * dataset.size_bytes for dataset in datasets),
        "ours_s": _rounded(work_s),
        "ours_fixed_start_s": _rounded(start_s),
        "ours_total_s": _rounded(total_s),
        "peers": {tool: _rounded(wall_s) for tool, wall_s in peers.items()},
        "ratio_to_best": _ratio(work_s, best_s),
        "ratio_total_to_best": _ratio(total_s, best_s),
        "ours_peak_mib": _rounded(max((run.peak_mib for run in ours), default=None)),
        "prefect_share": _rounded(median(shares) if shares else None),
        "tools": {tool: _detail(found) for tool, found in runs.items()},
    }


def _detail(runs: Sequence[Measured]) -> dict[str, Any]:
    return {
        "runs_s": [_rounded(run.wall_s) for run in runs],
        "cpu_s": _rounded(median(run.cpu_s for run in runs)),
        "peak_mib": _rounded(max(run.peak_mib for run in runs)),
        "tree_peak_mib": _rounded(max(run.tree_peak_mib for run in runs)),
    }


def _wall_s(runs: Sequence[Measured]) -> float:
    return median(run.wall_s for run in runs)


def _ratio(ours_s: float | None, best_s: float | None) -> float | None:
    return _rounded(ours_s / best_s) if ours_s is not None and best_s else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "cores": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // MIB,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def show(
    report: Mapping[str, Any], console: Console | None = None, *, title: str = "Sweep"
) -> None:
    """The table for people: one line a case and tool, best peer and ratio at ours."""
    where = report["machine"]
    table = Table(
        title=f"{title}, median of {report['runs']} on {where['cores']} cores, Linux "
        f"{where['kernel']}",
        caption="ours: without the fixed start, which stands after the +",
    )
    table.add_column("case", no_wrap=True)
    table.add_column("tool", no_wrap=True)
    for name in ("seconds", "of best peer", "CPU s", "peak MiB", "Prefect's share"):
        table.add_column(name, justify="right")
    for found in report["cases"]:
        for tool, detail in found["tools"].items():
            cells = [found["name"], tool, *_cells(found, tool)]
            table.add_row(
                *cells[:4], f"{detail['cpu_s']:.2f}", f"{detail['peak_mib']:.0f}", cells[4]
            )
        table.add_section()
    (console or Console()).print(table)


def _cells(found: Mapping[str, Any], tool: str) -> tuple[str, str, str]:
    """Seconds, ratio and share of one line."""
    if tool != OURS:
        best_s = min(found["peers"].values())
        return f"{found['peers'][tool]:.2f}", f"{found['peers'][tool] / best_s:.2f}", ""
    ratio, share = found["ratio_to_best"], found["prefect_share"]
    return (
        f"{found['ours_s']:.2f} + {found['ours_fixed_start_s']:.2f}",
        "" if ratio is None else f"{ratio:.2f}",
        "" if share is None else f"{share:.0%}",
    )


def show_memory(report: Mapping[str, Any], console: Console | None = None) -> None:
    """The memory of a sweep, one line a size."""
    table = Table(title=f"Memory of a sweep: largest / smallest = {report['growth']}")
    for name in ("keys", "peak MiB", "seconds", "CPU s", "keys/s"):
        table.add_column(name, justify="right")
    for found in report["sizes"]:
        table.add_row(
            f"{found['keys']:,}",
            f"{found['ours_peak_mib']:.1f}",
            f"{found['seconds']:.2f}",
            f"{found['cpu_s']:.2f}",
            f"{found['keys_per_s']:,}",
        )
    (console or Console()).print(table)


def names(known: Sequence[str]) -> Callable[..., tuple[str, ...]]:
    """What parses an option of such names with commas between."""

    def parse(_context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
        names = tuple(value.split(","))
        if unknown := [name for name in names if name not in known]:
            raise click.BadParameter(f"{unknown[0]!r}; known: {', '.join(known)}", param=parameter)
        return names

    return parse
