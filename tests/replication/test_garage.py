"""Garage, which keeps no versions: a store that can be read and written, and no site of a rule."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrepot.catalog.rule import rule_spec
from entrepot.catalog.sites import Site
from entrepot.embedded.garage import GarageServer, garage_user
from entrepot.errors import IntegrityError, NotFound, Unsupported
from entrepot.replication.probe import probe
from entrepot.replication.promises import check_promises
from entrepot.store.protocol import Attributes, Capability
from entrepot.store.s3 import S3Store
from entrepot.terms import Travel
from entrepot.testing.contract_tools import current, history, new_bucket, pieces, read

pytestmark = pytest.mark.nightly

MIB = 1 << 20


@pytest.fixture(scope="module")
def garage(servers_dir: Path) -> Iterator[GarageServer]:
    server = GarageServer(servers_dir / "garage", garage_user())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
async def store(garage: GarageServer) -> AsyncIterator[S3Store]:
    found = S3Store(
        endpoint=garage.endpoint, access_key=garage.access_key, secret_key=garage.secret_key
    )
    yield found
    await found.close()


async def test_what_it_was_probed_to_do(store: S3Store) -> None:
    found = await probe(store)
    assert found.capabilities == {Capability.TRAILER}
    assert found.findings["versioning"].saw == "versioning cannot be switched on"
    assert "ListObjectVersions" in found.findings["list"].saw
    assert found.findings["conditional-write"].saw.endswith("took it")
    assert all(found.findings[name].can for name in ("write", "remove"))


async def test_a_rule_over_it_is_refused_with_the_reason(store: S3Store) -> None:
    """Also one that only copies to it: what it has would be overwritten, and gone."""
    probed = (await probe(store)).as_json()
    everything = {name: {"can": True, "saw": ""} for name in Capability}
    now = datetime.now(UTC)
    sites = (
        Site("minio", "http://a:1", "a", 0, everything, now),
        Site("garage", "http://b:1", "b", 1, probed, now),
    )
    said = {"buckets": ("photos",), "sites": ("minio", "garage")}
    for terms in ({}, {"mode": "one-way", "source": "minio"}):
        spec = rule_spec(said | terms | {"travels": (Travel.METADATA,)})
        with pytest.raises(Unsupported) as refused:
            check_promises(spec, sites)
        assert str(refused.value) == (
            "a site cannot keep this rule: garage has no versioning, so a losing write would be "
            "gone: versioning cannot be switched on"
        )


async def test_what_of_the_contract_it_keeps(store: S3Store) -> None:
    bucket = await new_bucket(store, versioned=False)
    attributes = Attributes("text/plain", {"author": "ada"})
    for key in ("a b", "ü/%2F", "a//b", "k"):
        await store.put(bucket, key, key.encode(), attributes=attributes)
        assert await read(store, bucket, key) == key.encode()
        assert (await store.head(bucket, key)).attributes == attributes
    assert await read(store, bucket, "ü/%2F", start=1, stop=4) == "ü/%2F".encode()[1:4]
    await store.put(bucket, "k", pieces(b"over", b"written"), size_bytes=11)
    assert await read(store, bucket, "k") == b"overwritten"
    with pytest.raises(IntegrityError):
        await store.put(bucket, "k", b"other", md5=bytes(16))
    assert await read(store, bucket, "k") == b"overwritten"
    upload = await store.start(bucket, "parts")
    bodies = (b"p" * 5 * MIB, b"q")
    parts = [await store.part(bucket, "parts", upload, n, b) for n, b in enumerate(bodies, 1)]
    assert await store.parts(bucket, "parts", upload) == tuple(parts)
    await store.complete(bucket, "parts", upload, tuple(parts))
    assert await read(store, bucket, "parts") == b"".join(bodies)
    await store.delete(bucket, "a b")
    with pytest.raises(NotFound):
        await store.head(bucket, "a b")
    assert [each.key for each in await current(store, bucket)] == ["a//b", "k", "parts", "ü/%2F"]
    with pytest.raises(Unsupported, match="ListObjectVersions"):
        await history(store, bucket)
