"""The demo's chapters, in order. Each does one thing and says what it saw.

1 servers · 2 files into two tenants' buckets at both sites · 3 a sweep makes the sites equal ·
4 changes and deletes at both sites, a second sweep · 5 a webhook starts a third, which finds
nothing to do · 6 usage is counted · 7 all of it is checked from outside · 8 both sites write one
key during a cut, and all is proved equal · 9 a managed bucket, whose writer is killed.
"""

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entrepot.catalog.buckets import adopt_bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import save_rule
from entrepot.catalog.tenants import save_tenant
from entrepot.catalog.usage import UsageRow, latest_usage
from entrepot.cli.demo import disputed, managed, outside
from entrepot.cli.demo.change import Truth, connect, load, remove
from entrepot.cli.demo.files import Shelf, shelves
from entrepot.cli.demo.telling import Teller
from entrepot.clock import SYSTEM_CLOCK
from entrepot.config import Config
from entrepot.config import load as load_config
from entrepot.embedded import binaries, stack
from entrepot.embedded.stack import StackInfo
from entrepot.errors import IntegrityError
from entrepot.gateway.assemble import prefect_api
from entrepot.gateway.prefect_api import FlowRun
from entrepot.units import approximate_size

RULE = "demo"
RUN_TIMEOUT_S = 900.0
AT_B_SHARE = 10  # one file in ten is written at site B first
CHANGED, DELETED = 40, 20  # at each site, of each tenant


@dataclass(slots=True)
class Story:
    """What the chapters share."""

    info: StackInfo
    config: Config
    teller: Teller
    shelves: Sequence[Shelf]
    truth: Truth = field(default_factory=Truth)
    runs: list[dict[str, Any]] = field(default_factory=list)


async def tell(data_dir: Path, *, data_from: Path | None, teller: Teller) -> dict[str, Any]:
    """The whole story; returns the report of ``--json``."""
    began = SYSTEM_CLOCK.monotonic()
    chosen = shelves(data_from)
    story = await asyncio.to_thread(_servers, data_dir, teller, chosen)
    await _load(story)
    teller.chapter("3. A sweep makes the sites equal")
    first = await _run(story, "replicate/nightly", {"rule": RULE})
    _tell_sweep(story, first)
    await _change(story)
    second = await _run(story, "replicate/nightly", {"rule": RULE})
    _tell_sweep(story, second)
    await _webhook(story)
    usage = await _account(story)
    seen = await asyncio.to_thread(_check, story)
    equal = await _recount(story)
    proof = await disputed.show(
        story.info,
        story.config,
        rule=RULE,
        bucket=story.shelves[0].bucket,
        sweep=lambda: _run(story, "replicate/nightly", {"rule": RULE}),
        teller=teller,
    )
    ledger = await managed.show(story.info, story.config, story.shelves[0], teller=teller)
    report = {
        "replicate": {
            "objects": first["copied"] + second["copied"],
            "bytes": first["copied_bytes"] + second["copied_bytes"],
            "seconds": round(first["seconds"] + second["seconds"], 3),
            "identical": not seen.faults,
            "run_url": first["run_url"],
        },
        "usage": {"tenants": usage, "recount_equal": equal},
        "proof": proof,
        "managed": ledger,
        "checked": {"objects": seen.objects, "bytes": seen.bytes, "faults": list(seen.faults)},
        "runs": story.runs,
        "seconds": round(SYSTEM_CLOCK.monotonic() - began, 1),
    }
    _tell_end(story, report)
    return report


def _servers(data_dir: Path, teller: Teller, chosen: Sequence[Shelf]) -> Story:
    from entrepot.cli.deploy import deploy

    teller.chapter("1. Two MinIO sites, Postgres and Prefect, on this machine")
    info = stack.up(
        data_dir,
        sites=2,
        port_base=0,
        prefect=True,
        gateway=True,
        notifications=False,  # a stream would forestall the sweeps that are shown
        progress=teller.line,
    )
    config = load_config(info.config_path)
    deploy(config, progress=teller.line)
    teller.line(f"Prefect's UI is at {info.prefect_ui_url}")
    return Story(info=info, config=config, teller=teller, shelves=chosen)


async def _load(story: Story) -> None:
    story.teller.chapter("2. Real files into two tenants' buckets, most at site A, some at B")
    async with Catalog.open(story.config.database_url()) as control:
        for shelf in story.shelves:
            await save_tenant(control, id=shelf.tenant, name=f"The {shelf.tenant}")
        await save_rule(
            control,
            name=RULE,
            buckets=[shelf.bucket for shelf in story.shelves],
            sites=[site.name for site in story.info.sites],
        )
    for site in story.config.sites():
        async with Catalog.open(site.database_url) as catalog:
            for shelf in story.shelves:
                await adopt_bucket(catalog, name=shelf.bucket, tenant_id=shelf.tenant)
    site_a, site_b = story.info.sites
    async with connect(site_a) as a, connect(site_b) as b:
        for shelf in story.shelves:
            await a.create(shelf.bucket, versioned=True)
            await b.create(shelf.bucket, versioned=True)
            at_b = shelf.items[::AT_B_SHARE]
            at_a = [item for number, item in enumerate(shelf.items) if number % AT_B_SHARE]
            size = sum(item.size_bytes for item in shelf.items)
            what = f"{shelf.bucket}, {approximate_size(size)}"
            with story.teller.bar(what, len(shelf.items)) as step:
                await load(a, shelf, at_a, story.truth, where="site-a", step=step)
                await load(b, shelf, at_b, story.truth, where="site-b", step=step)


async def _change(story: Story) -> None:
    story.teller.chapter("4. Changes and deletes at both sites, and a second sweep")
    site_a, site_b = story.info.sites
    async with connect(site_a) as a, connect(site_b) as b:
        for shelf in story.shelves:
            slots = [shelf.items[number::4] for number in range(4)]
            work = [slots[0][:CHANGED], slots[1][:CHANGED], slots[2][:DELETED], slots[3][:DELETED]]
            total = sum(map(len, work))
            with story.teller.bar(f"{shelf.bucket}: changed and deleted", total) as step:
                await load(
                    a, shelf, work[0], story.truth, where="site-a", edit=b"\n# at A\n", step=step
                )
                await load(
                    b, shelf, work[1], story.truth, where="site-b", edit=b"\n# at B\n", step=step
                )
                await remove(a, shelf, work[2], story.truth, step=step)
                await remove(b, shelf, work[3], story.truth, step=step)


async def _run(story: Story, deployment: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Start a deployment through Prefect, as the command line does, and wait for its end."""
    async with prefect_api(story.config) as api:
        started = await api.start(deployment, parameters={"request": dict(request)})
        story.teller.line(f"{deployment}: {started.url}")
        return await _ended(story, started)


async def _ended(story: Story, started: FlowRun) -> dict[str, Any]:
    """Wait for a run and read what it left: the totals of its table artifact."""
    async with prefect_api(story.config) as api:
        run = await api.wait(started.id, timeout_s=RUN_TIMEOUT_S)
        if run.state != "COMPLETED":
            raise IntegrityError(
                f"the run ended as {run.state.lower()}: {run.message}",
                hint=f"see {run.url} (run the demo with --keep)",
            )
        tables = {each.key: each.data for each in await api.artifacts(run.id)}
    rows = _rows(tables.get("replicate-report"))
    found: dict[str, Any] = {"name": run.name, "run_url": run.url}
    for name in ("listed", "copied", "copied_bytes", "marked", "verified", "failed"):
        found[name] = sum(int(row.get(name, 0)) for row in rows)
    found["seconds"] = sum(float(row.get("seconds", 0)) for row in rows)
    story.runs.append({"name": run.name, "url": run.url, "state": run.state})
    return found


def _rows(data: Any) -> list[dict[str, Any]]:
    found = json.loads(data) if isinstance(data, str) else data or []
    return [dict(row) for row in found]


def _tell_sweep(story: Story, run: Mapping[str, Any]) -> None:
    story.teller.line(
        f"{run['copied']:,} copies of {approximate_size(run['copied_bytes'])}, "
        f"{run['marked']:,} delete markers, {run['verified']:,} verified, "
        f"in {run['seconds']:.1f} s"
    )


async def _webhook(story: Story) -> None:
    """Create a webhook as a person would, and run the curl that it prints, three times."""
    from click.testing import CliRunner

    from entrepot.cli.webhook import webhook

    story.teller.chapter("5. A webhook starts the same deployment; nothing is left to do")
    arguments = ["create", "sweep-now", "--deployment", "replicate/nightly", "--set"]
    made = await asyncio.to_thread(
        CliRunner().invoke,
        webhook,
        [*arguments, f"rule={RULE}", "--config", str(story.info.config_path)],
        catch_exceptions=False,
    )
    story.teller.line("entrepot webhook create sweep-now ... prints a curl; sent three times:")
    answers = []
    for _ in range(3):
        done = await asyncio.to_thread(
            subprocess.run, ["/bin/sh", "-c", made.stdout], capture_output=True, check=True
        )
        answers.append(_answer(done.stdout))
    story.teller.line(f"runs started: {len({each['flow_run_id'] for each in answers})}")
    async with prefect_api(story.config) as api:
        run = await api.flow_run(answers[0]["flow_run_id"])
    story.teller.line(f"replicate/nightly: {run.url}")
    _tell_sweep(story, await _ended(story, run))


def _answer(output: bytes) -> dict[str, Any]:
    text = output.decode()
    found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


async def _recorded(story: Story) -> list[tuple[str, UsageRow]]:
    """The rows of every site's latest account, each with its site."""
    found: list[tuple[str, UsageRow]] = []
    for site in story.config.sites():
        async with Catalog.open(site.database_url) as catalog:
            usage = await latest_usage(catalog)
        found += [(site.name, row) for row in (usage.rows if usage else ())]
    return found


async def _account(story: Story) -> list[dict[str, Any]]:
    story.teller.chapter("6. What each tenant holds")
    await _run(story, "account_usage/hourly", {})
    tenants: dict[tuple[str, str], dict[str, Any]] = {}
    for site, row in await _recorded(story):
        total = tenants.setdefault(
            (row.tenant_id, site),
            {"tenant": row.tenant_id, "site": site, "bucket": row.bucket}
            | dict.fromkeys(_USAGE, 0),
        )
        for name in _USAGE:
            total[name] += getattr(row, name)
    rows = list(tenants.values())
    story.teller.table(
        "",
        ["tenant", "site", "objects", "current", "versions", "all versions", "delete markers"],
        [
            [
                row["tenant"],
                row["site"],
                f"{row['objects']:,}",
                approximate_size(row["current_bytes"]),
                f"{row['versions']:,}",
                approximate_size(row["total_bytes"]),
                f"{row['delete_markers']:,}",
            ]
            for row in rows
        ],
    )
    return rows


_USAGE = ("current_bytes", "total_bytes", "objects", "versions", "delete_markers")


def _check(story: Story) -> outside.Seen:
    story.teller.chapter("7. Checked from outside: the minio SDK reads all, mc counts again")
    seen = outside.compare(story.info.sites, story.truth)
    story.teller.line(
        f"{seen.objects:,} objects read and hashed at two sites, {approximate_size(seen.bytes)}: "
        + ("same keys, bytes and metadata" if not seen.faults else f"FAULTS: {seen.faults[0]}")
    )
    return seen


async def _recount(story: Story) -> bool:
    """Hold Postgres' latest account against ``mc du``, bucket by bucket and site by site."""
    ours: dict[tuple[str, str], dict[str, int]] = {}
    for site, row in await _recorded(story):
        total = ours.setdefault(
            (site, row.bucket), {"current_bytes": 0, "objects": 0, "total_bytes": 0}
        )
        for name in total:
            total[name] += getattr(row, name)
    mc = await asyncio.to_thread(lambda: binaries.mc(progress=story.teller.line))
    buckets = [shelf.bucket for shelf in story.shelves]
    theirs = await asyncio.to_thread(
        lambda: {
            (site, bucket): counted
            for site, bucket, counted in outside.recount(mc, story.info.sites, buckets)
        }
    )
    equal = ours == theirs
    story.teller.line(f"mc du counts {'the same' if equal else f'otherwise: {theirs} {ours}'}")
    return equal


def _tell_end(story: Story, report: Mapping[str, Any]) -> None:
    story.teller.chapter(f"Done in {report['seconds']:.0f} s")
    for run in story.runs:
        story.teller.line(f"{run['name']}: {run['url']}")
