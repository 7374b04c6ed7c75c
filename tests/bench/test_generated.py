"""The generated site against what a plain list of its keys would answer."""

import io
from collections.abc import Iterator

import pytest
from minio import Minio

from bench import data
from bench.generated import BUCKET, PREFIX_KEYS, Keys
from bench.measure import Endpoint
from bench.memory import generated_site, held

COUNT = 2 * PREFIX_KEYS + 5
MISSING_EVERY = 7


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with generated_site("generated", keys=COUNT, missing_every=MISSING_EVERY) as site:
        yield site


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Minio:
    return data.client(endpoint)


def expected() -> list[str]:
    keys = Keys(COUNT)
    return [keys[number] for number in range(COUNT) if number % MISSING_EVERY]


def test_both_listings_page_through_every_key_in_order(endpoint: Endpoint, client: Minio) -> None:
    assert held(endpoint) == len(expected())
    assert [entry.key for entry in data.listing(endpoint, BUCKET)] == expected()
    versions = list(client.list_objects(BUCKET, recursive=True, include_version=True))
    assert [version.object_name for version in versions] == expected()
    assert len({version.version_id for version in versions}) == len(versions)


def test_prefix_marker_and_delimiter(client: Minio) -> None:
    def names(**ask: object) -> list[str | None]:
        return [entry.object_name for entry in client.list_objects(BUCKET, **ask)]  # type: ignore[arg-type]

    assert names() == ["d00000/", "d00001/", "d00002/"]
    assert names(prefix="d00001/00001001") == [
        key for key in expected() if key.startswith("d00001/00001001")
    ]
    assert names(start_after="d00001/000019990.bin", recursive=True) == [
        key for key in expected() if key > "d00001/000019990.bin"
    ]
    assert names(prefix="nothing/") == []


def test_a_missing_key_is_there_once_it_was_put() -> None:
    with generated_site("other", keys=30, missing_every=10) as site:
        client = data.client(site)
        assert held(site) == 27
        for key in (Keys(30)[10], Keys(30)[11]):  # the second was there already
            client.put_object(BUCKET, key, io.BytesIO(b""), 0)
        assert held(site) == 28
        listed = [entry.object_name for entry in client.list_objects(BUCKET, recursive=True)]
        assert Keys(30)[10] in listed
        assert len(listed) == 28
        assert client.get_object(BUCKET, Keys(30)[10]).read() == b""


def test_two_sites_are_in_step() -> None:
    with generated_site("one", keys=1500) as one, generated_site("two", keys=1500) as two:
        assert data.listing(one, BUCKET) == data.listing(two, BUCKET)
