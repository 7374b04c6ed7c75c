"""A migrated catalog of either kind for each test, in the session's real Postgres."""

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.embedded.postgres import PostgresServer

_numbers = count()


@pytest.fixture
def empty_dsn(postgres: PostgresServer) -> str:
    """A database without tables."""
    return new_database(postgres)


def new_database(postgres: PostgresServer) -> str:
    return postgres.create_database(f"catalog_test_{next(_numbers)}")


@pytest_asyncio.fixture
async def control(empty_dsn: str) -> AsyncIterator[Catalog]:
    """An empty control catalog of this test alone."""
    await migrate(empty_dsn, kind=CatalogKind.CONTROL)
    async with Catalog.open(empty_dsn) as catalog:
        yield catalog


@pytest_asyncio.fixture
async def site(empty_dsn: str) -> AsyncIterator[Catalog]:
    """An empty site catalog of this test alone."""
    await migrate(empty_dsn, kind=CatalogKind.SITE)
    async with Catalog.open(empty_dsn) as catalog:
        yield catalog


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_control(postgres: PostgresServer) -> AsyncIterator[Catalog]:
    """One control catalog for properties, whose examples each use a subject of their own."""
    dsn = new_database(postgres)
    await migrate(dsn, kind=CatalogKind.CONTROL)
    async with Catalog.open(dsn, pool_size=8) as catalog:
        yield catalog
