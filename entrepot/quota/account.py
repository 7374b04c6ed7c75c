"""Counting the buckets of a site and recording the result as of one instant.

The instant is when counting began; a listing is no snapshot, so a write while it runs may or may
not be counted. A bucket that the site does not have is named and counts as nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from entrepot.catalog.usage import UsageRow
from entrepot.errors import BucketNotFound
from entrepot.quota.count import Counter
from entrepot.store.protocol import ObjectStore


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of some buckets; ``missing`` are those that the catalog has and the site has not."""

    rows: tuple[UsageRow, ...] = ()
    missing: tuple[str, ...] = ()


async def count_buckets(
    store: ObjectStore, owned: Sequence[tuple[str, str]], *, depth: int
) -> Counted:
    """Count buckets, each with its tenant, one after the other."""
    parts, missing = [], []
    for bucket, tenant_id in owned:
        try:
            parts.append(await count_bucket(store, bucket=bucket, tenant_id=tenant_id, depth=depth))
        except BucketNotFound:
            missing.append(bucket)
    return Counted(merge_rows(parts), tuple(missing))


def merge_counts(parts: Sequence[Counted]) -> Counted:
    """All of them as one, by tenant, bucket and prefix."""
    missing = sorted(bucket for part in parts for bucket in part.missing)
    return Counted(merge_rows([part.rows for part in parts]), tuple(missing))


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
