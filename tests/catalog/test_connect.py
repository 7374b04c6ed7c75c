"""The pool: limits, broken connections, and every vendor error as one of ours."""

import asyncio
import pickle

import psycopg
import pytest
from psycopg import errors as pg
from pydantic import SecretStr
from sqlalchemy import exc, func, select, text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.sites import get_site, list_sites, upsert_site
from entrepot.catalog.translate import translate
from entrepot.errors import (
    AccessDenied,
    AlreadyExists,
    EntrepotError,
    InvalidInput,
    SetupError,
    Unavailable,
    is_retryable,
)

_OTHERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def test_a_killed_connection_is_unavailable_and_the_next_one_works(control: Catalog) -> None:
    with pytest.raises(Unavailable):
        async with control.begin() as victim:
            await victim.execute(select(1))
            async with control.begin() as killer:
                await killer.execute(_OTHERS)
            await victim.execute(select(1))
    assert await list_sites(control) == ()


async def test_connections_killed_while_idle_are_not_noticed(
    control: Catalog, empty_dsn: str
) -> None:
    await asyncio.gather(*(list_sites(control) for _ in range(4)))
    async with Catalog.open(empty_dsn) as other, other.begin() as connection:
        assert len((await connection.execute(_OTHERS)).all()) == 4
    for _ in range(6):
        assert await list_sites(control) == ()


async def test_pool_is_bounded(empty_dsn: str) -> None:
    async with Catalog.open(empty_dsn, pool_size=2) as catalog:

        async def work() -> int:
            async with catalog.begin() as connection:
                await connection.execute(select(func.pg_sleep(0.02)))
                count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                return int((await connection.execute(text(count))).scalar_one())

        assert max(await asyncio.gather(*(work() for _ in range(12)))) == 2


async def test_a_cancelled_caller_gives_its_connection_back(empty_dsn: str) -> None:
    async with Catalog.open(empty_dsn, pool_size=1) as catalog:

        async def sleep() -> None:
            async with catalog.begin() as connection:
                await connection.execute(select(func.pg_sleep(30)))

        for _ in range(3):
            task = asyncio.create_task(sleep())
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        async with catalog.begin() as connection:
            assert (await connection.execute(select(1))).scalar_one() == 1


async def test_session_is_bounded_and_in_utc(control: Catalog) -> None:
    async with control.begin() as connection:
        shown = [
            (await connection.execute(text(f"SHOW {name}"))).scalar_one()
            for name in ("timezone", "statement_timeout", "lock_timeout", "application_name")
        ]
    assert shown == ["UTC", "1min", "15s", "entrepot"]


async def test_without_tables_says_what_to_type(empty_dsn: str) -> None:
    async with Catalog.open(SecretStr(empty_dsn)) as catalog:
        with pytest.raises(SetupError) as refused:
            await get_site(catalog, name="a")
    assert refused.value.hint == "entrepot deploy"


async def test_wrong_password_is_no_reason_to_retry(empty_dsn: str) -> None:
    address = empty_dsn.rsplit("@", maxsplit=1)[-1]
    async with Catalog.open(f"postgresql://postgres:wrong@{address}") as catalog:
        with pytest.raises(AccessDenied):
            await list_sites(catalog)


async def test_what_postgres_cannot_hold_is_invalid_and_stays_unsaid(control: Catalog) -> None:
    for name in ("a\0b", "\ud800", "x" * 65, ""):
        with pytest.raises(InvalidInput) as refused:
            await upsert_site(control, name=name, endpoint="http://x", region="r", rank=1)
        assert not name or name not in str(refused.value)
    assert await list_sites(control) == ()


@pytest.mark.parametrize("size", [0, 101])
async def test_pool_size_has_limits(size: int) -> None:
    with pytest.raises(InvalidInput):
        Catalog.open("postgresql://x@127.0.0.1/x", pool_size=size)


def test_every_vendor_error_is_mapped_and_survives_pickling() -> None:
    vendor: list[Exception] = [
        kind("words")
        for kind in vars(pg).values()
        if isinstance(kind, type) and issubclass(kind, psycopg.Error)
    ]
    vendor += [exc.TimeoutError("words"), exc.InvalidRequestError("words")]
    vendor += [exc.DBAPIError("select 1", {}, pg.DeadlockDetected("words"))]
    assert len(vendor) > 250
    for error in vendor:
        ours = translate(error)
        assert isinstance(ours, EntrepotError)
        assert "words" not in str(ours)
        assert str(pickle.loads(pickle.dumps(ours))) == str(ours)


@pytest.mark.parametrize(
    ("vendor", "ours"),
    [
        (pg.AdminShutdown, Unavailable),
        (pg.CannotConnectNow, Unavailable),
        (pg.TooManyConnections, Unavailable),
        (pg.LockNotAvailable, Unavailable),
        (pg.QueryCanceled, Unavailable),
        (pg.SerializationFailure, Unavailable),
        (pg.DeadlockDetected, Unavailable),
        (pg.DiskFull, Unavailable),
        (pg.ReadOnlySqlTransaction, Unavailable),
        (pg.UniqueViolation, AlreadyExists),
        (pg.CheckViolation, InvalidInput),
        (pg.UndefinedTable, SetupError),
        (pg.InsufficientPrivilege, AccessDenied),
    ],
)
def test_what_can_heal_is_retryable(vendor: type[psycopg.Error], ours: type[EntrepotError]) -> None:
    error = translate(exc.DBAPIError("select 1", {}, vendor("words")))
    assert type(error) is ours
    assert is_retryable(error) == (ours is Unavailable)
