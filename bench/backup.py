"""Backups beside ``rclone sync`` to disk followed by ``restic backup``, and beside that alone.

    python -m bench.backup [--json] [--cases …] [--runs 3] [--scale 1]

The source is a bucket of one MinIO, our vault a bucket of another, restic's repository a directory.
They take turns (A B A B), each run in a process of its own; what our vault holds is read back and
compared afterwards, and restic must have met every file.

Words: *unchanged* a run with nothing new since the one before; *edited* a second generation, in
which bytes were put into each object and others written over.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import shake_256
from pathlib import Path
from random import Random
from typing import Any

import click
from pydantic import SecretStr
from rich.console import Console

from bench import data, peers, restic, table
from bench.data import Dataset
from bench.measure import Endpoint, Measured, run
from bench.reaper import watched
from bench.restic import Restic
from bench.servers import site
from bench.sweep import Runs, scaled
from bench.vaults import Work
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_token
from entrepot.embedded import binaries
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import IntegrityError

BOTH = "rclone+restic"
KIB = 1024
WORDS = 20_000


@dataclass(frozen=True, slots=True)
class Mixed(Dataset):
    """Random objects of 8 to 64 KiB, whose mean is ``size_bytes``."""

    def body(self, index: int, *, salt: str = "") -> bytes:
        size_bytes = (8 + index % 57) * KIB
        return shake_256(f"{salt} mixed {index}".encode()).digest(size_bytes)


@dataclass(frozen=True, slots=True)
class Large(Dataset):
    """Random objects of which no two have anything in common."""

    def key(self, index: int) -> str:
        return f"large/{index:03d}"

    def body(self, index: int, *, salt: str = "") -> bytes:
        return edited(shake_256(f"large {index}".encode()).digest(self.size_bytes), salt)


@dataclass(frozen=True, slots=True)
class Prose(Dataset):
    """Lines of words, some frequent and most rare, as people write them."""

    def key(self, index: int) -> str:
        return f"prose/{index:03d}.txt"

    def body(self, index: int, *, salt: str = "") -> bytes:
        random, parts, left = Random(index), list[str](), self.size_bytes
        while left > 0:
            line = " ".join(_word(int(random.paretovariate(0.6))) for _ in range(12)) + "\n"
            parts.append(line)
            left -= len(line)
        return edited("".join(parts).encode()[: self.size_bytes], salt)


def _word(rank: int) -> str:
    number = rank % WORDS
    return shake_256(b"%d" % number).hexdigest(1 + number % 5)


def edited(body: bytes, salt: str) -> bytes:
    """``body`` with ``salt`` put in at a third and written over what is at two thirds."""
    if not salt:
        return body
    mark, at = salt.encode() * 8, len(body) // 3
    return b"".join([body[:at], mark, body[at : 2 * at], mark, body[2 * at + len(mark) :]])


Set = Sequence[Dataset]
ALL: Set = (Mixed(5_000, 36 * KIB), Large(12, 51_900_000))
SIZES: Mapping[str, Dataset] = {"random": Large(12, 8_000_000), "text": Prose(12, 2_000_000)}
CASES = ("backup", "unchanged", "size")


@dataclass(frozen=True, slots=True)
class Bench:
    """Servers, programs, and what every measurement needs."""

    source: Endpoint
    target: Endpoint
    dsn: str
    root: Path
    mc: Path
    restic: Path
    runs: int

    def ours(self, verb: str, bucket: str, vault: str) -> tuple[dict[str, float], Measured]:
        """One work of ours: what it says and what it cost, its start told apart."""
        keys = str(self.root / "keys")
        work = Work(self.source, self.target, self.dsn, keys, verb, bucket, vault)
        path = self.root / "work.json"
        path.write_text(json.dumps(asdict(work)))
        os.sync()
        measured = run([sys.executable, "-m", "bench.vaults", str(path)], env=os.environ)
        said: dict[str, float] = json.loads(measured.stdout.splitlines()[-1])
        start_s = measured.wall_s - said.get("wall_s", measured.wall_s)
        return said, replace(measured, fixed_start_s=start_s)

    def seed(self, bucket: str, datasets: Set) -> None:
        data.create(self.source, bucket)
        for dataset in datasets:
            data.seed(dataset, [self.source], [bucket])

    def drop(self, endpoint: Endpoint, bucket: str) -> None:
        peers.drop(endpoint, bucket, mc=self.mc, scratch=self.root)


@dataclass(frozen=True, slots=True)
class Round:
    """One vault and one repository, of one bucket with so many objects."""

    bench: Bench
    bucket: str
    name: str
    objects: int

    @property
    def repository(self) -> Restic:
        return Restic(self.bench.restic, self.bench.root / f"{self.name}-restic")

    @property
    def directory(self) -> Path:
        return self.bench.root / f"{self.name}-files"

    def make(self) -> None:
        """Nothing backed up yet."""
        data.create(self.bench.target, self.name)
        self.repository.make()

    def save(self, *, read: int) -> tuple[Runs, tuple[int, int]]:
        """Each of the three once, and the bytes of our vault and of restic's repository then.

        ``IntegrityError`` unless ours read so many objects.
        """
        said, ours = self.bench.ours("save", self.bucket, self.name)
        if said["read"] != read:
            raise IntegrityError(f"a backup read another number of objects: {said}")
        os.sync()
        copied = peers.to_disk(
            self.bench.source, self.bucket, self.directory, scratch=self.bench.root
        )
        os.sync()
        kept = self.repository.save(self.directory, objects=self.objects)
        found = {table.OURS: ours, BOTH: _after(copied, kept), "restic": kept}
        for tool, each in found.items():
            _say(f"{self.name}, {tool}: {each.wall_s - each.fixed_start_s:.2f} s")
        sizes = int(said["stored_bytes"]), self.repository.size_bytes
        return {tool: [each] for tool, each in found.items()}, sizes

    def check(self, *, entries: int) -> None:
        """``IntegrityError`` unless every byte comes back out of our vault."""
        found, _ = self.bench.ours("check", self.bucket, self.name)
        if found["entries"] != entries:
            raise IntegrityError(f"the vault has not all: {found}")

    def drop(self) -> None:
        self.bench.drop(self.bench.target, self.name)
        for path in (self.repository.root, self.directory):
            shutil.rmtree(path)


def _after(first: Measured, second: Measured) -> Measured:
    """Two runs, one after the other, as one."""
    return Measured(
        wall_s=first.wall_s + second.wall_s,
        cpu_s=first.cpu_s + second.cpu_s,
        peak_mib=max(first.peak_mib, second.peak_mib),
        tree_peak_mib=max(first.tree_peak_mib, second.tree_peak_mib),
    )


def timed(bench: Bench, cases: Sequence[str], *, scale: float) -> list[dict[str, Any]]:
    """``backup`` and ``unchanged``: the second is of what the first has made."""
    datasets = [replace(each, **_scale(each, scale)) for each in ALL]
    count = sum(dataset.count for dataset in datasets)
    bench.seed("source", datasets)
    found: dict[str, Runs] = {"backup": {}, "unchanged": {}}
    for number in range(bench.runs):
        turn = Round(bench, "source", f"vault-{number}", count)
        turn.make()
        _add(found["backup"], turn.save(read=count)[0])
        turn.check(entries=count)
        if "unchanged" in cases:
            _add(found["unchanged"], turn.save(read=0)[0])
        turn.drop()
    bench.drop(bench.source, "source")
    found["unchanged"].pop("restic", None)  # it knows nothing of the bucket: no peer by itself
    return [table.case(name, datasets, found[name]) for name in found if name in cases]


def _add(to: Runs, runs: Runs) -> None:
    for tool, each in runs.items():
        to.setdefault(tool, []).extend(each)


def sizes(bench: Bench, *, scale: float) -> dict[str, Any]:
    """Bytes of the vault and of the repository: ``parts`` of each kind, and of two generations."""
    parts: dict[str, tuple[int, int]] = {}
    for name, full in SIZES.items():
        dataset = replace(full, **_scale(full, scale))
        bucket = f"size-{name}"
        bench.seed(bucket, [dataset])
        turn = Round(bench, bucket, f"{bucket}-vault", dataset.count)
        turn.make()
        _, parts[name] = turn.save(read=dataset.count)
        data.put(dataset, bench.source, bucket, range(dataset.count), salt="edited")
        _, parts[f"{name}, edited"] = turn.save(read=dataset.count)
        turn.check(entries=2 * dataset.count)
        turn.drop()
        bench.drop(bench.source, bucket)
    return _sized(parts)


def _sized(parts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The case ``size``; its ratio is that of the worst part."""
    told = {
        name: {"ours": ours, "restic": theirs, "ratio": round(ours / theirs, 4)}
        for name, (ours, theirs) in parts.items()
    }
    return {
        "name": "size",
        "ours_s": sum(ours for ours, _ in parts.values()),
        "peers": {"restic": sum(theirs for _, theirs in parts.values())},
        "ratio_to_best": max(each["ratio"] for each in told.values()),
        "ours_peak_mib": None,
        "unit": "bytes",
        "parts": told,
    }


def _scale(dataset: Dataset, scale: float) -> dict[str, int]:
    less = scaled(dataset, scale)
    return {"count": less.count, "size_bytes": less.size_bytes}


@contextmanager
def opened(root: Path, *, runs: int, mc: Path, program: Path) -> Iterator[Bench]:
    """Servers that are gone at the end; their files lie under ``root``."""
    root.chmod(0o711)  # Postgres runs as another user than root
    (root / "keys").mkdir(mode=0o700)
    postgres = PostgresServer(root / "postgres", password=SecretStr(new_token()), durable=True)
    try:
        dsn = postgres.start().create_database("bench")
        asyncio.run(migrate(dsn, kind=CatalogKind.SITE))
        with site("benchsource", root) as source, site("benchvaults", root) as target:
            yield Bench(source, target, dsn, root, mc, program, runs)
    finally:
        postgres.stop()


def measure(bench: Bench, cases: Sequence[str], *, scale: float) -> list[dict[str, Any]]:
    """Every case that was asked for."""
    found: list[dict[str, Any]] = []
    if {"backup", "unchanged"} & set(cases):
        found += timed(bench, cases, scale=scale)
    if "size" in cases:
        found.append(sizes(bench, scale=scale))
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """The tables for people."""
    console = console or Console()
    seconds = [found for found in report["cases"] if found["name"] != "size"]
    table.show({**report, "cases": seconds}, console, title="Backups")
    for found in report["cases"]:
        for name, part in found.get("parts", {}).items():
            ours, theirs = part["ours"] / 1e6, part["restic"] / 1e6
            console.print(f"{name}: {ours:.2f} MB, restic {theirs:.2f} MB ({part['ratio']})")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--cases", default=",".join(CASES), callback=table.names(CASES))
@click.option("--runs", default=3, type=click.IntRange(1, 100), help="Repetitions of each case.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 1.0), help="Share of the data.")
def main(*, as_json: bool, cases: tuple[str, ...], runs: int, scale: float) -> None:
    """Measure backups against restic."""
    mc, program = binaries.mc(progress=_say), binaries.restic(progress=_say)
    versions = peers.versions(mc=mc, minio=binaries.minio(progress=_say))
    report: dict[str, Any] = {
        "runs": runs,
        "scale": scale,
        "machine": table.machine(),
        "versions": versions | {"restic": restic.version(program)},
    }
    _say(f"restic {report['versions']['restic']}, rclone {versions['rclone']}")
    root = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    try:
        with watched(root), opened(root, runs=runs, mc=mc, program=program) as bench:
            report["cases"] = measure(bench, cases, scale=scale)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
