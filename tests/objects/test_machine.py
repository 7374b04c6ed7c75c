"""Two gateways of a site, their accidents and recoveries, against a dict."""

import pytest
import pytest_asyncio
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from tests.objects.machine import BRIEF, STEADY, Entry, WholeMachine, _could_be, _fold


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(
    postgres: PostgresServer, minio_a: MinioServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A site with a catalog of its own."""
    dsn = postgres.create_database("objects_machine_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    keys = tmp_path_factory.mktemp("machine-keys")
    keys.chmod(0o700)
    return {
        "dsn": dsn,
        "endpoint": minio_a.endpoint,
        "access_key": minio_a.access_key,
        "secret_key": minio_a.secret_key.get_secret_value(),
        "keys": str(keys),
    }


def _play(site: dict[str, str], how: settings) -> None:
    class Machine(WholeMachine):
        pass

    Machine.site = site
    run_state_machine_as_test(Machine, settings=how)


def test_gateways_against_a_dict(site: dict[str, str]) -> None:
    _play(site, BRIEF)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_gateways_against_a_dict_at_length(site: dict[str, str]) -> None:
    _play(site, STEADY)


def test_the_model_tells_what_could_be() -> None:
    one, two, marker = (Entry(body, certain=True) for body in (b"1", b"2", None))
    perhaps = Entry(b"p", certain=False)
    assert _could_be([], [])
    assert _could_be([b"1", b"2"], [one, two])
    assert _could_be([b"1", b"p", None], [one, perhaps, marker])
    assert _could_be([b"1", None], [one, perhaps, marker])
    assert not _could_be([b"2", b"1"], [one, two])
    assert not _could_be([b"1"], [one, two])
    assert not _could_be([b"1", b"2", b"2"], [one, two])
    assert not _could_be([b"p"], [one, perhaps])
    assert _fold(["a", "a/b", "a/b/c", "b/"], "") == ["a", "a/", "b/"]
    assert _fold(["a", "a/b", "a/b/c", "b/"], "a/") == ["a/b", "a/b/"]
