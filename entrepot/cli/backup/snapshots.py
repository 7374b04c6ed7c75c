"""``entrepot backup create``, ``list`` and ``show``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.flowrun import start, wait_option

if TYPE_CHECKING:
    from entrepot.vault.repository import Vault
    from entrepot.vault.snapshots import Entry, Snapshot

DEPLOYMENT = "back_up/nightly"
SHOWN_MAX = 10_000


@click.command("create")
@click.option("--vault", "vaults", multiple=True, help="Only into this vault; may be repeated.")
@click.option("--site", "sites", multiple=True, help="Only of this site; may be repeated.")
@click.option("--bucket", "buckets", multiple=True, help="Only this bucket; may be repeated.")
@click.option("--prefix", "prefixes", multiple=True, help="Only keys that start so; repeatable.")
@wait_option
@config_option
@json_option
def create_command(
    *,
    vaults: tuple[str, ...],
    sites: tuple[str, ...],
    buckets: tuple[str, ...],
    prefixes: tuple[str, ...],
    wait: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Back up buckets now, as a Prefect run."""
    from entrepot.config import load

    config = load(config_path)
    for name in vaults:
        config.vault(name)
    parameters = {
        "vaults": list(vaults),
        "sites": list(sites),
        "buckets": list(buckets),
        "prefixes": list(prefixes),
    }
    run(start(config, DEPLOYMENT, parameters=parameters, wait=wait, as_json=as_json))


@click.command("list")
@click.argument("vault")
@config_option
@json_option
def list_command(*, vault: str, config_path: Path | None, as_json: bool) -> None:
    """List the snapshots of VAULT, oldest first. Needs the vault and the keys, nothing else."""
    from entrepot.backup.open import open_vault
    from entrepot.config import load
    from entrepot.vault.records import Kind

    async def read() -> list[dict[str, Any]]:
        async with open_vault(load(config_path), vault) as opened:
            return [
                _row(name, await opened.snapshot(name))
                for name in await opened.names(Kind.SNAPSHOT)
            ]

    empty = f"no snapshots; type: entrepot backup create --vault {vault}"
    answer(run(read()), as_json=as_json, empty=empty)


def _row(name: str, snapshot: "Snapshot") -> dict[str, Any]:
    return {
        "snapshot": name,
        "seconds": round((snapshot.ended_ms - snapshot.started_ms) / 1000, 1),
        "sources": [f"{tree.site}/{tree.name}" for tree in snapshot.trees],
        "entries": sum(tree.entries for tree in snapshot.trees),
        "bytes": snapshot.size_bytes,
        "parent": snapshot.parent,
    }


@click.command("show")
@click.argument("vault")
@click.argument("snapshot")
@click.option("--bucket", help="Only this bucket.")
@click.option("--prefix", default="", help="Only keys that start so.")
@click.option("--max", "most", default=1000, show_default=True, help="Most entries to show.")
@config_option
@json_option
def show_command(
    *,
    vault: str,
    snapshot: str,
    bucket: str | None,
    prefix: str,
    most: int,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show what SNAPSHOT of VAULT kept: every version and delete marker."""
    from entrepot.backup.open import open_vault
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with open_vault(load(config_path), vault) as opened:
            return await _entries(opened, snapshot, bucket, prefix, most)

    answer(run(read()), as_json=as_json, empty="the snapshot has no such entries")


async def _entries(
    vault: "Vault", name: str, bucket: str | None, prefix: str, most: int
) -> list[dict[str, Any]]:
    from contextlib import aclosing

    from entrepot.backup.parents import entries_of

    rows: list[dict[str, Any]] = []
    index = await vault.index()
    for tree in (await vault.snapshot(name)).trees:
        if bucket not in (None, tree.name):
            continue
        async with aclosing(entries_of(vault, index, tree)) as entries:
            async for entry in entries:
                if len(rows) >= most:
                    return rows
                if entry.key.startswith(prefix):
                    rows.append(_shown(tree.name, entry))
    return rows


def _shown(bucket: str, entry: "Entry") -> dict[str, Any]:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(entry.mtime_ms / 1000, UTC)
    return {
        "bucket": bucket,
        "key": entry.key,
        "version_id": entry.version_id,
        "time": when.isoformat(timespec="milliseconds"),
        "size_bytes": entry.size_bytes,
        "etag": entry.etag,
        "delete_marker": entry.is_delete_marker,
        "chunks": len(entry.chunks),
    }
