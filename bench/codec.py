"""What encrypting and compressing cost, beside ``openssl speed``.

    python -m bench.codec [--json] [--runs 3] [--scale 1]

``openssl speed`` encrypts one buffer of 64 KiB in the cache again and again; ours are streams of
frames of that size, cut, numbered and copied. In each repetition everything takes its turn; each
figure is a median. All runs in one thread at a time, as one object does.

Words: *seal*, *open* AES-256-GCM in frames, and *pack*, *unpack* zstd in blocks, each alone;
*write*, *read* the whole way of an object, header to footer, MD5 included. *ratio* our rate to
that of openssl. *saved* how much shorter it is, of lines of a log.
"""

import asyncio
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

import click
import zstandard
from cryptography.hazmat.backends.openssl import backend
from rich.console import Console
from rich.table import Table as Shown

from bench import table
from bench.measure import MIB
from entrepot.clock import new_bytes
from entrepot.codec.blocks import BlockOpener, BlockPacker
from entrepot.codec.decode import Reader
from entrepot.codec.encode import Shape, encoded, footer
from entrepot.codec.footer import Table
from entrepot.codec.frames import FRAME_BYTES, FrameOpener, FrameSealer, frame_count
from entrepot.codec.seal import new_data_id, new_data_key, seal_for_object
from entrepot.errors import IntegrityError, SetupError

SIZE_BYTES = 64 * MIB
"""The large object of ``bench.store``."""

KINDS = {"encrypted": (False, True), "compressed": (True, False), "both": (True, True)}

Rates = dict[str, list[float]]
"""MB/s of each run, by operation."""


@dataclass(frozen=True, slots=True)
class Data:
    """Batches of 1 MiB: ``noise`` does not compress, ``log`` does."""

    noise: Sequence[bytes]
    log: Sequence[bytes]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.noise))


def data(size_bytes: int) -> Data:
    """That many bytes of either kind, from their names alone."""
    count = size_bytes // MIB
    noise = [hashlib.shake_128(f"codec {number}".encode()).digest(MIB) for number in range(count)]
    return Data(noise, [_log(number) for number in range(count)])


def _log(number: int) -> bytes:
    """1 MiB of lines as a gateway writes them."""
    lines, size_bytes = list[bytes](), 0
    while size_bytes < MIB:
        found = hashlib.shake_128(f"line {number} {len(lines)}".encode()).hexdigest(12)
        line = (
            f"2026-01-01T{number % 24:02d}:{len(lines) % 60:02d}:07.{found[:3]}Z INFO "
            f"method=GET bucket=photos key=2025/{found[3:5]}/{found} status=200 "
            f"bytes={int(found[:5], 16)} tenant=acme took_ms={int(found[5:7], 16)}\n"
        )
        lines.append(line.encode())
        size_bytes += len(line)
    return b"".join(lines)[:MIB]


def openssl(*flags: str, seconds: int) -> float:
    """MB/s of ``openssl speed`` for AES-256-GCM in one thread."""
    path = shutil.which("openssl")
    if path is None:
        raise SetupError("openssl is not installed", hint="apt-get install openssl")
    command = [path, "speed", "-mr", "-seconds", str(seconds), "-bytes", str(FRAME_BYTES)]
    command += [*flags, "-evp", "aes-256-gcm"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("+F:"))
    return float(line.split(":")[-1]) / 1e6


def _rate(size_bytes: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return size_bytes / 1e6 / (time.perf_counter() - started)


def _spent(*results: Iterable[object]) -> None:
    """Make all of them and keep none, as a sender does."""
    for each in results:
        for _ in each:
            pass


def frames(found: Data, rates: Rates) -> None:
    """Seal and open, once."""
    key, aad = bytes(32), bytes(32)
    sealer = FrameSealer(key, aad=aad)
    stored = [piece for batch in found.noise for piece in sealer.feed(batch)] + [*sealer.drain()]

    def seal() -> None:
        sealer = FrameSealer(key, aad=aad)
        _spent(*(sealer.feed(batch) for batch in found.noise), sealer.drain())

    def open_() -> None:
        last = frame_count(found.size_bytes) - 1
        opener = FrameOpener(key, aad=aad, size_bytes=found.size_bytes, first=0, last=last)
        _spent(*(opener.feed(piece) for piece in stored))

    rates["seal"].append(_rate(found.size_bytes, seal))
    rates["open"].append(_rate(found.size_bytes, open_))


def blocks(found: Data, rates: Rates) -> float:
    """Pack and unpack, once; answers with what is saved."""
    packer = BlockPacker()
    packed = [piece for batch in found.log for piece in packer.feed(batch)]
    last = len(found.log) - 1

    def pack() -> None:
        packer = BlockPacker()
        _spent(*(packer.feed(batch) for batch in found.log))

    def unpack() -> None:
        records = bytes(packer.records)
        opener = BlockOpener(records, size_bytes=found.size_bytes, first=0, last=last)
        _spent(*(opener.feed(piece) for piece in packed))

    rates["pack"].append(_rate(found.size_bytes, pack))
    rates["unpack"].append(_rate(found.size_bytes, unpack))
    return 1 - sum(map(len, packed)) / found.size_bytes


def _shape(compressed: bool, encrypted: bool) -> Shape:
    if not encrypted:
        return Shape(new_data_id(), compressed, None, b"")
    key = new_data_key(tenant="bench", key_number=1)
    return Shape(key.data_id, compressed, key, seal_for_object(key, tenant_key=new_bytes(32)))


async def _given(batches: Iterable[bytes]) -> AsyncIterator[bytes]:
    for batch in batches:
        yield batch


async def whole(kind: str, found: Data, rates: Rates) -> None:
    """Write and read an object of one kind, once."""
    compressed, encrypted = KINDS[kind]
    shape, batches = _shape(compressed, encrypted), found.log if compressed else found.noise
    started = time.perf_counter()
    stream = encoded(_given(batches), shape)
    async for _ in stream:
        pass
    end = footer(shape, Table(found.size_bytes, "", {}, (stream.segment,)))
    rates[f"write {kind}"].append(found.size_bytes / 1e6 / (time.perf_counter() - started))

    stream = encoded(_given(batches), shape)
    stored = [piece async for piece in stream]
    rows = Table(found.size_bytes, "", {}, (stream.segment,))

    @asynccontextmanager
    async def fetch(_start: int, _stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        yield _given(stored)

    started, size_bytes = time.perf_counter(), 0
    async for piece in Reader.of(fetch, rows, shape=shape).read():
        size_bytes += len(piece)
    rates[f"read {kind}"].append(found.size_bytes / 1e6 / (time.perf_counter() - started))
    if size_bytes != found.size_bytes or not end:
        raise IntegrityError("not everything was read", kind=kind)


def measure(*, runs: int, scale: float) -> dict[str, Any]:
    """Every operation, and openssl, in turn."""
    found, seconds = data(max(MIB, int(SIZE_BYTES * scale))), 3 if scale == 1 else 1
    names = ["openssl seal", "seal", "openssl open", "open", "md5", "pack", "unpack"]
    names += [f"{way} {kind}" for kind in KINDS for way in ("write", "read")]
    rates: Rates = {name: [] for name in names}
    saved = 0.0
    for _ in range(runs):
        rates["openssl seal"].append(openssl(seconds=seconds))
        rates["openssl open"].append(openssl("-decrypt", seconds=seconds))
        frames(found, rates)
        rates["md5"].append(_rate(found.size_bytes, lambda: _digest(found.noise)))
        saved = blocks(found, rates)
        for kind in KINDS:
            asyncio.run(whole(kind, found, rates))
    return {"operations": figures(rates), "saved": round(saved, 3)}


def _digest(batches: Iterable[bytes]) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    for batch in batches:
        digest.update(batch)
    return digest.digest()


def figures(rates: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """One entry an operation; ``ratio`` of medians where openssl does the same."""
    peers = {name: rates.get(f"openssl {name}") for name in rates}
    return [
        {
            "name": name,
            "runs_mb_per_s": [round(rate, 1) for rate in runs],
            "mb_per_s": round(median(runs), 1),
            "ratio": round(median(runs) / median(peer), 2) if (peer := peers[name]) else None,
        }
        for name, runs in rates.items()
    ]


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """The table for people: one line an operation."""
    shown = Shown(
        title=f"Codec, median of {report['runs']}, one object of 64 MiB",
        caption=f"compression saves {report['saved']:.0%} of the log",
    )
    shown.add_column("operation")
    shown.add_column("MB/s", justify="right")
    shown.add_column("ratio", justify="right")
    for each in report["operations"]:
        ratio = "" if each["ratio"] is None else str(each["ratio"])
        shown.add_row(each["name"], str(each["mb_per_s"]), ratio)
    (console or Console()).print(shown)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--runs", default=3, type=click.IntRange(1, 100), help="Repetitions.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 1.0), help="Share of the data.")
def main(*, as_json: bool, runs: int, scale: float) -> None:
    """Measure encryption and compression against openssl."""
    report = {
        "runs": runs,
        "scale": scale,
        "machine": table.machine(),
        "versions": {
            **{name: version(name) for name in ("cryptography", "zstandard")},
            "openssl of cryptography": backend.openssl_version_text(),
            "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        },
    }
    report |= measure(runs=runs, scale=scale)
    if as_json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
