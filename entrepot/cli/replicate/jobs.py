"""``entrepot replicate jobs``: what Postgres knows of the runs."""

from pathlib import Path
from typing import Any

import click

from entrepot.cli.common import answer, config_option, json_option, run


@click.command("jobs")
@click.option("--most", default=20, type=click.IntRange(1, 1000), help="How many, newest first.")
@config_option
@json_option
def jobs_command(*, most: int, config_path: Path | None, as_json: bool) -> None:
    """Show the latest jobs with their state and counts."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.jobs import recent
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [
                {
                    "started_at": f"{job.started_at:%Y-%m-%d %H:%M:%S}",
                    "subject": job.subject,
                    "state": str(job.state),
                    "epoch": job.epoch,
                    "lease_until": f"{job.lease_until:%H:%M:%S}",
                    **{
                        name: job.report.get("totals", {}).get(name, 0)
                        for name in ("listed", "copied", "marked", "failed")
                    },
                }
                for job in await recent(catalog, limit=most)
            ]

    answer(run(read()), as_json=as_json, empty="no job yet; type: entrepot replicate run")
