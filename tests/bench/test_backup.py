"""Backups beside restic on a small scale, and what must not count as a result."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bench import backup
from bench.backup import Large, Mixed, Prose, Round
from entrepot.embedded import binaries
from entrepot.errors import IntegrityError


def invoke(*args: str) -> Result:
    return CliRunner().invoke(backup.main, list(args), catch_exceptions=False)


def reported(cases: str) -> dict[str, Any]:
    """What a trial of those cases says."""
    result = invoke("--json", "--runs", "1", "--scale", "0.005", "--cases", cases)
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert ",".join(case["name"] for case in report["cases"]) == cases
    assert "unknown" not in report["versions"].values()
    return report


@pytest.mark.nightly
def test_backups_beside_restic() -> None:
    report = reported("backup,unchanged")
    first, unchanged = report["cases"]
    assert first["peers"].keys() == {"restic", "rclone+restic"}
    assert unchanged["peers"].keys() == {"rclone+restic"}
    for case in report["cases"]:
        best = min(case["peers"].values())
        assert case["ratio_to_best"] == pytest.approx(case["ours_s"] / best, rel=0.02)
        assert case["ours_s"] > 0 and case["ours_peak_mib"] > 50
    assert "Backups" in shown(report)


@pytest.mark.nightly
def test_sizes_beside_restic() -> None:
    report = reported("size")
    [size] = report["cases"]
    assert set(size["parts"]) == {"random", "random, edited", "text", "text, edited"}
    assert size["ratio_to_best"] == max(part["ratio"] for part in size["parts"].values())
    assert "text, edited: " in shown(report)


def shown(report: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    backup.show(report, console)
    return console.export_text()


def test_an_unknown_case_names_the_known_ones() -> None:
    assert "known: backup" in invoke("--cases", "backups").output


def test_what_is_missing_is_no_result(servers_dir: Path) -> None:
    root = servers_dir / "bench-backup"
    root.mkdir(mode=0o711)
    dataset = Mixed(3, 36 * backup.KIB)
    programs = {"mc": binaries.mc(), "program": binaries.restic()}
    with backup.opened(root, runs=1, **programs) as bench:
        bench.seed("few", [dataset])
        turn = Round(bench, "few", "few-vault", dataset.count)
        turn.make()
        with pytest.raises(IntegrityError, match="read another number"):
            turn.save(read=4)
        with pytest.raises(IntegrityError, match="has not all"):
            turn.check(entries=4)
        with pytest.raises(IntegrityError, match="another number of files"):
            turn.repository.save(root / "keys", objects=99)


def test_an_edit_leaves_most_of_a_body() -> None:
    for dataset in (Large(2, 6000), Prose(2, 6000)):
        before, after = dataset.body(1), dataset.body(1, salt="edited")
        assert len(before) == 6000 and before[:2000] == after[:2000] and before != after
        assert before[-1900:] == after[-1900:]
        assert dataset.body(0)[100:200] != before[100:200]


def test_random_objects_have_the_mean_size_that_they_say() -> None:
    dataset = Mixed(57, 36 * backup.KIB)
    sizes = [len(dataset.body(index)) for index in range(dataset.count)]
    assert (min(sizes), max(sizes)) == (8 * backup.KIB, 64 * backup.KIB)
    assert sum(sizes) == dataset.count * dataset.size_bytes
