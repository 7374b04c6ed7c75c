"""The demo's managed bucket: encrypted, compressed, and a writer that is killed in the middle.

What must be there is kept by whoever sent it: a key counts from the moment that the writer's
process reported its acknowledgement.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from entrepot.cli.demo.files import Shelf, sha256
from entrepot.cli.demo.telling import Teller
from entrepot.config import Config
from entrepot.embedded.stack import StackInfo
from entrepot.objects.check import check
from entrepot.objects.ground import Limits
from entrepot.objects.open import open_objects
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes
from entrepot.units import approximate_size

BUCKET = "ledger"
MARKER = b"this line must lie on no disk in the clear\n"
FILES = 60
ACKNOWLEDGED = 150
"""Writes of the child before it is killed; it has eight under way at any moment."""
LIMITS = Limits(lease_s=2.0, recover_every_s=600.0)


async def show(info: StackInfo, config: Config, shelf: Shelf, *, teller: Teller) -> dict[str, Any]:
    """The chapter; its part of the report."""
    teller.chapter("9. A managed bucket, encrypted and compressed; its writer is killed")
    site = config.sites()[0]
    async with open_objects(config, site, limits=LIMITS) as objects:
        await objects.create_bucket(BUCKET, tenant_id=shelf.tenant, encrypted=True, compressed=True)
        truth = await _fill(objects, shelf, teller)
        _tell_versions(await objects.versions(BUCKET, prefix="notes"), teller)
        found_in = await asyncio.to_thread(_marker_on_disk, info.data_dir / "sites")
        teller.line(
            f"its text is on the disks: {found_in}" if found_in else "its text is on no disk"
        )
        acknowledged = await _kill_a_writer(info.config_path, site.name)
        truth |= acknowledged
        await asyncio.sleep(LIMITS.lease_s + 0.5)
        done = await recover(objects.ground, older_s=0)
        lost = [key for key, digest in truth.items() if await _digest(objects, key) != digest]
        findings = await check(objects.ground, await objects.ground.bucket(BUCKET))
        kept, counted = await objects.usage(BUCKET), await objects.usage(BUCKET, recount=True)
    teller.line(f"killed with SIGKILL after {len(acknowledged)} acknowledged writes")
    teller.line(
        f"recovered: {done.completed} whole ones completed, {done.released} without bytes released"
    )
    teller.line(f"acknowledged and not there: {len(lost)}")
    teller.line(
        f"entrepot catalog check: {findings.versions} versions, "
        f"{findings.orphan_count} orphans, {findings.missing_count} missing"
    )
    return {
        "objects": kept.objects,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "completed": done.completed,
        "released": done.released,
        "versions": findings.versions,
        "orphans": [each.key for each in findings.orphans],
        "missing": [each.key for each in findings.missing],
        "recount_equal": kept == counted,
        "marker_on_disk": bool(found_in),
    }


def is_whole(report: dict[str, Any]) -> bool:
    """Whether nothing was lost, left over, miscounted or readable."""
    wrong = ("lost", "orphans", "missing", "marker_on_disk")
    return bool(report["recount_equal"]) and not any(report[name] for name in wrong)


async def _fill(objects: Objects, shelf: Shelf, teller: Teller) -> dict[str, str]:
    truth: dict[str, str] = {}
    items = sorted(shelf.items, key=lambda item: -item.size_bytes)[:FILES]
    with teller.bar(f"{BUCKET}: the largest files", len(items)) as step:
        for item in items:
            body = item.read()
            wish = Wish(Attributes(content_type=item.content_type), actor=shelf.tenant)
            await objects.put(BUCKET, item.key, body, wish=wish)
            truth[item.key] = sha256(body)
            step()
    for number in range(1, 4):
        body = MARKER * 40_000 * number
        await objects.put(BUCKET, "notes", body, wish=Wish(actor=shelf.tenant))
        truth["notes"] = sha256(body)
    return truth


def _tell_versions(rows: Sequence[Any], teller: Teller) -> None:
    teller.table(
        "entrepot object explain ledger notes",
        ["version", "written", "by", "size", "stored", "current"],
        [
            [
                row.version_id[:8],
                str(row.stamp.time_ms),
                f"{row.stamp.site}/{row.stamp.writer}",
                approximate_size(row.size_bytes),
                approximate_size(row.stored_bytes),
                "" if number else "yes",
            ]
            for number, row in enumerate(rows)
        ],
    )


def _marker_on_disk(root: Path) -> str:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if MARKER.rstrip() in path.read_bytes():
                return str(path)
    return ""


async def _digest(objects: Objects, key: str) -> str:
    async with objects.get(BUCKET, key) as body:
        return sha256(await body.read())


async def _kill_a_writer(config_path: Path, site: str) -> dict[str, str]:
    """Let a process of its own write, and kill it; what it had reported as done by then."""
    arguments = [sys.executable, "-m", "entrepot.cli.demo.managed", str(config_path), site]
    child = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    done: dict[str, str] = {}
    async for line in child.stdout:
        key, _, digest = line.decode().strip().partition(" ")
        done[key] = digest
        if len(done) == ACKNOWLEDGED:
            child.send_signal(signal.SIGKILL)
    await child.wait()
    return done


# --- The writer, a process of its own -------------------------------------------------------------


def _bodies() -> Iterator[tuple[str, bytes]]:
    number = 0
    while True:
        number += 1
        yield f"log/{number:06}", f"entry {number}\n".encode() * (1 + number % 5000)


async def _write_on(config: Config, name: str) -> None:
    [site] = [each for each in config.sites() if each.name == name]
    bodies = _bodies()
    async with open_objects(config, site, limits=LIMITS) as objects:

        async def work() -> None:
            for key, body in bodies:
                await objects.put(BUCKET, key, body, wish=Wish(actor="demo"))
                print(key, sha256(body), flush=True)

        await asyncio.gather(*(work() for _ in range(8)))


def main() -> None:
    """``python -m entrepot.cli.demo.managed CONFIG SITE``: write until somebody kills it."""
    from entrepot.config import load

    asyncio.run(_write_on(load(Path(sys.argv[1])), sys.argv[2]))


if __name__ == "__main__":
    main()
