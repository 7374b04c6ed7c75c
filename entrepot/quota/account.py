"""Counting the buckets of a site and recording the result as of one instant.

The instant is when counting began; a listing is no snapshot, so a write while it runs may or may
not be counted.
"""

from collections.abc import Sequence
from dataclasses import asdict

from entrepot.catalog.usage import UsageRow
from entrepot.quota.count import Counter
from entrepot.store.protocol import ObjectStore


async def count_bucket(
    store: ObjectStore, *, bucket: str, tenant_id: str, depth: int
) -> tuple[UsageRow, ...]:
    """One row a prefix of a bucket, from one listing of its versions.

    Raises:
        BucketNotFound: the bucket is gone though the catalog has it.
    """
    counter = Counter(depth=depth)
    async for page in store.versions(bucket):
        for version in page.versions:
            counter.add(version)
    return tuple(
        UsageRow(tenant_id=tenant_id, bucket=bucket, prefix=prefix, **asdict(total))
        for prefix, total in counter.rows()
    )


def merge_rows(parts: Sequence[Sequence[UsageRow]]) -> tuple[UsageRow, ...]:
    """The rows of all buckets, by tenant, bucket and prefix."""
    rows = [row for part in parts for row in part]
    return tuple(sorted(rows, key=lambda row: (row.tenant_id, row.bucket, row.prefix)))
