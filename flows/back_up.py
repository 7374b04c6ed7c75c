"""Buckets of sites into vaults: what changed since the last snapshot is read once for all vaults.

    sites → the buckets of each → back up, one site after the other → report

A snapshot appears when all of it is stored. A run that dies leaves none, and the next one goes on
where its last draft ended. Task runs: 1 + 2 x sites.
"""

from collections.abc import Sequence

from prefect import flow, get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from entrepot.backup.back_up import Backed
from entrepot.errors import InvalidInput
from flows import artifacts, hints
from tasks.backup import back_up_site, buckets_of, vault_names
from tasks.usage import site_names


class BackUpRequest(BaseModel):
    """What to back up, and where to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vaults: list[str] = Field(
        default=[], max_length=20, description="Vaults of the settings; empty for all of them"
    )
    sites: list[str] = Field(
        default=[], max_length=100, description="Only these sites; empty for all"
    )
    buckets: list[str] = Field(
        default=[], max_length=1000, description="Only these buckets; empty for all"
    )
    prefixes: list[str] = Field(
        default=[], max_length=100, description="Only keys that start so; empty for all"
    )


class BackUpReport(BaseModel):
    """What a run kept; ``snapshots`` are vault ids and names."""

    model_config = ConfigDict(frozen=True)

    snapshots: tuple[tuple[str, str], ...]
    entries: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int


@flow(
    name="back_up",
    flow_run_name="back up",
    description=__doc__,
    validate_parameters=True,
    persist_result=False,
)
def back_up(request: BackUpRequest) -> BackUpReport:
    """Back up buckets.

    Args:
        request: Which buckets, and into which vaults; left as it is, all into all
    """
    with hints.shown():
        return _back_up(request)


def _back_up(request: BackUpRequest) -> BackUpReport:
    bar = artifacts.Progress("backup-progress", "buckets into vaults")
    known = site_names()
    if unknown := sorted(set(request.sites) - set(known)):
        raise InvalidInput(f"no such site: {', '.join(unknown)}", hint="entrepot site list")
    vaults = request.vaults or vault_names()
    names = [name for name in known if not request.sites or name in request.sites]
    found: list[Backed] = []
    for number, site in enumerate(names, start=1):
        buckets = [
            each for each in buckets_of(site) if not request.buckets or each in request.buckets
        ]
        if buckets and vaults:
            found += back_up_site(site, buckets, prefixes=request.prefixes, vaults=vaults)
        bar.show(number / (len(names) + 1))
    report = _publish(found)
    bar.close()
    get_run_logger().info("%d entries, %d bytes new", report.entries, report.new_bytes)
    if not found:
        raise InvalidInput(
            "nothing was backed up",
            hint="no vault, or no bucket: see backup.vaults in config.yaml, entrepot bucket list",
        )
    return report


def _publish(found: Sequence[Backed]) -> BackUpReport:
    rows = [
        {
            "vault": backed.vault[:8],
            "snapshot": backed.snapshot,
            "bucket": bucket,
            "entries": count.entries,
            "bytes": count.size_bytes,
            "read": count.read,
            "read_bytes": count.read_bytes,
            "vanished": count.vanished,
        }
        for backed in found
        for bucket, count in backed.counts.items()
    ]
    artifacts.table("backup-buckets", rows, "What was backed up")
    kept = [
        {
            "vault": backed.vault[:8],
            "snapshot": backed.snapshot,
            "parent": backed.parent or "",
            "read_bytes": sum(count.read_bytes for count in backed.counts.values()),
            "new_bytes": backed.new_bytes,
            "stored_bytes": backed.stored_bytes,
        }
        for backed in found
    ]
    artifacts.table("backup-vaults", kept, "What was new, and what it takes")
    return BackUpReport(
        snapshots=tuple((backed.vault, backed.snapshot) for backed in found),
        entries=sum(row["entries"] for row in rows),
        read_bytes=sum(row["read_bytes"] for row in kept),
        new_bytes=sum(backed.new_bytes for backed in found),
        stored_bytes=sum(backed.stored_bytes for backed in found),
    )
