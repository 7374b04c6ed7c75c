"""The check of managed buckets as a flow: what is found, healed, and made to be looked at."""

import asyncio
from collections.abc import Iterator

import pytest

from entrepot.clock import new_id
from entrepot.objects.open import open_objects
from tests.running import Running


@pytest.fixture
def ledger(stack: Running) -> Iterator[str]:
    """A managed, encrypted bucket of five objects at site A."""
    bucket = f"managed-{new_id().hex[:12]}"

    async def fill() -> None:
        site = stack.config.sites()[0]
        async with open_objects(stack.config, site) as objects:
            await objects.create_bucket(bucket, tenant_id="acme", encrypted=True)
            for number in range(5):
                await objects.put(bucket, f"k/{number}", b"x" * number)

    asyncio.run(fill())
    yield bucket
    stack.sql("DELETE FROM buckets WHERE name = %s RETURNING 1", bucket, site="site-a")


def check(stack: Running, bucket: str, state: str = "COMPLETED") -> tuple[dict[str, int], str]:
    """Run the flow for one bucket: its row in the table, and the id of the run."""
    run_id = stack.start("check_catalog/daily", {"buckets": [bucket]})
    stack.ended(run_id, state)
    [row] = stack.table(run_id, "catalog-check")
    return row, run_id


def test_a_check_heals_what_it_can_and_fails_where_an_object_is_lost(
    stack: Running, ledger: str
) -> None:
    row, _ = check(stack, ledger)
    assert (row["site"], row["versions"], row["orphans"], row["missing"]) == ("site-a", 5, 0, 0)
    s3 = stack.s3("site-a")
    s3.put_object(Bucket=ledger, Key="stranger", Body=b"round us")
    row, _ = check(stack, ledger)
    assert (row["orphans"], row["taken_up"]) == (1, 1)
    row, _ = check(stack, ledger)
    assert (row["versions"], row["orphans"]) == (6, 0)
    lost = s3.list_object_versions(Bucket=ledger, Prefix="k/3")["Versions"][0]["VersionId"]
    s3.delete_object(Bucket=ledger, Key="k/3", VersionId=lost)
    row, run_id = check(stack, ledger, "FAILED")
    assert row["missing"] == 1
    [named] = stack.table(run_id, "catalog-missing")
    assert (named["key"], named["version_id"]) == ("k/3", lost)
