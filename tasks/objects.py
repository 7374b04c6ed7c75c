"""The steps of a check of managed buckets, a task each.

The key ring is opened from the worker's own settings: no key passes through Prefect.
"""

from prefect import task

from entrepot.catalog.buckets import list_buckets
from entrepot.catalog.states import BucketMode
from entrepot.objects.check import Findings, check
from tasks.library import catalog, objects, run
from tasks.replication import RETRY, SHORT_S


@task(
    task_run_name="managed buckets of {site}",
    tags=["entrepot"],
    timeout_seconds=SHORT_S,
    **RETRY,
)
def managed_buckets(site: str) -> tuple[str, ...]:
    """The managed buckets of a site, by name."""

    async def read() -> tuple[str, ...]:
        known = await list_buckets(await catalog(site))
        return tuple(each.name for each in known if each.mode is BucketMode.MANAGED)

    return run(read())


@task(task_run_name="check {site}/{bucket}", tags=["entrepot"], **RETRY)
def check_bucket(site: str, bucket: str, *, heal: bool) -> Findings:
    """Compare a bucket with its catalog; with ``heal`` take up what has no row."""

    async def compare() -> Findings:
        ground = (await objects(site)).ground
        return await check(ground, await ground.bucket(bucket), heal=heal)

    return run(compare())
