"""Sweeps over managed buckets: the catalogs beside the stores say the same afterwards."""

from collections.abc import Iterator
from typing import Any

import pytest

from entrepot.clock import new_id
from entrepot.objects.check import check
from entrepot.objects.service import Objects
from entrepot.objects.writes import Wish
from entrepot.store.protocol import Attributes
from tests.flows.test_stream import at_each, keys_at_b
from tests.running import Running

# The stream keeps no such rule, so what comes to site-b is the sweep's work alone.
POLICY = ("--conflict", "first-write-wins")


@pytest.fixture
def swept(stack: Running) -> Iterator[str]:
    """A managed, encrypted bucket at both sites, and a rule that sweeps alone keep."""
    bucket = f"swept-{new_id().hex[:12]}"

    async def create(objects: Objects) -> None:
        await objects.create_bucket(bucket, tenant_id="acme", encrypted=True)

    at_each(stack, create)
    stack.entrepot("replicate", "rule", "add", bucket, "--bucket", bucket, *POLICY)
    yield bucket
    stack.sql("DELETE FROM rules WHERE name = %s RETURNING name", bucket)
    for site in ("site-a", "site-b"):
        stack.sql("DELETE FROM buckets WHERE name = %s RETURNING 1", bucket, site=site)


def sweep(stack: Running, rule: str, **more: Any) -> None:
    stack.ended(stack.start("replicate/nightly", {"rule": rule, **more}))


def stamps(stack: Running, bucket: str, site: str) -> list[Any]:
    """What the site's catalog has; but for who deleted, which no store keeps."""
    query = (
        "SELECT v.key, v.version_id, v.stamp_ms, v.size_bytes, v.etag FROM versions v"
        " JOIN buckets b ON b.id = v.bucket_id WHERE b.name = %s ORDER BY v.key, v.version_id"
    )
    return [tuple(row.values()) for row in stack.sql(query, bucket, site=site)]


def test_catalogs_learn_what_a_sweep_brings_and_keep_what_was_removed(
    stack: Running, swept: str
) -> None:
    body = b"one sentence of many " * 10_000
    first: list[str] = []

    async def write(objects: Objects) -> None:
        first.append((await objects.put(swept, "k", body)).version_id)
        await objects.put(swept, "k", body + b"again")
        await objects.put(swept, "gone", b"x")
        await objects.delete(swept, "gone")

    at_each(stack, write, ("site-a",))
    sweep(stack, swept)
    assert keys_at_b(stack, swept) == {"k"}
    assert stamps(stack, swept, "site-b") == stamps(stack, swept, "site-a")

    async def read(objects: Objects) -> None:
        async with objects.get(swept, "k") as found:
            assert await found.read() == body + b"again"
        found_ = await check(objects.ground, await objects.ground.bucket(swept))
        assert (found_.orphans, found_.missing) == ([], [])

    async def remove(objects: Objects) -> None:
        await objects.delete(swept, "k", version_id=first[0])

    at_each(stack, read)
    at_each(stack, remove, ("site-b",))
    sweep(stack, swept)  # absence alone would bring it back
    assert first[0] not in [row[1] for row in stamps(stack, swept, "site-b")]
    assert first[0] in [row[1] for row in stamps(stack, swept, "site-a")]
    at_each(stack, read)


def test_tags_that_were_changed_are_in_both_catalogs_and_stores(stack: Running, swept: str) -> None:
    async def write(objects: Objects) -> None:
        await objects.put(swept, "k", b"x", wish=Wish(attributes=Attributes(tags={"s": "1"})))

    async def retag(objects: Objects) -> None:
        await objects.tag(swept, "k", {"s": "2"})

    async def read(objects: Objects) -> None:
        row = await objects.head(swept, "k")
        assert row.attributes["tags"] == {"s": "2"}
        store, where = objects.ground.store, {"version_id": row.version_id}
        assert await store.tags(swept, "k", **where) == {"s": "2"}

    at_each(stack, write, ("site-a",))
    sweep(stack, swept)
    at_each(stack, retag, ("site-b",))
    sweep(stack, swept, attributes=True)
    at_each(stack, read)
