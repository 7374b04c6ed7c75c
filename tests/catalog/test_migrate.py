"""Migrations: the schema that they make is the one that the code expects."""

import asyncio
import re
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from entrepot.catalog.connect import async_url
from entrepot.catalog.migrate import CatalogKind, alembic_config, migrate
from entrepot.catalog.tables import ControlBase, SiteBase
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import InvalidInput, PermanentError, SetupError, Unavailable, Unsupported
from tests.catalog.conftest import new_database

BASES = {CatalogKind.CONTROL: ControlBase, CatalogKind.SITE: SiteBase}
BOTH = pytest.mark.parametrize("kind", list(CatalogKind))

# What alembic's comparison leaves out: checks, partial indexes, defaults, actions of keys.
_DEFINITIONS = """
    SELECT conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', table_name, column_name, data_type, udt_name, is_nullable,
                     character_maximum_length, column_default)
    FROM information_schema.columns WHERE table_schema = 'public'
"""


def definitions(dsn: str, base: Any = None) -> set[str]:
    engine = create_engine(async_url(dsn), poolclass=NullPool)
    with engine.begin() as connection:
        if base is not None:
            base.metadata.create_all(connection)
        return {line for line in connection.scalars(text(_DEFINITIONS)) if "alembic" not in line}


def _table_of(line: str) -> str:
    """The table that a definition belongs to: its first word, or what an index is on."""
    found = re.search(r" ON (?:ONLY )?(?:public\.)?(\w+) USING ", line)
    return found[1] if found else line.split(maxsplit=1)[0].removeprefix("public.")


@BOTH
async def test_models_equal_the_migrated_schema(
    postgres: PostgresServer, empty_dsn: str, kind: CatalogKind
) -> None:
    await migrate(empty_dsn, kind=kind)
    engine = create_engine(async_url(empty_dsn), poolclass=NullPool)
    with engine.connect() as connection:
        tables = set(BASES[kind].metadata.tables)  # those of managed buckets are SQL alone

        def is_modelled(_it: object, name: str | None, sort: str, _db: bool, _to: object) -> bool:
            return sort != "table" or name in tables

        opts = {"compare_server_default": True, "include_object": is_modelled}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, BASES[kind].metadata) == []
    modelled = definitions(new_database(postgres), BASES[kind])
    migrated = definitions(empty_dsn)
    assert {line for line in migrated if _table_of(line) in tables} == modelled
    assert len(modelled) > 20


@BOTH
async def test_is_idempotent_also_when_many_run_at_once(empty_dsn: str, kind: CatalogKind) -> None:
    revisions = await asyncio.gather(*(migrate(empty_dsn, kind=kind) for _ in range(4)))
    newest = {CatalogKind.CONTROL: "control_0007", CatalogKind.SITE: "site_0003"}[kind]
    assert {*revisions, await migrate(empty_dsn, kind=kind)} == {newest}


@BOTH
async def test_revisions_are_one_line(kind: CatalogKind) -> None:
    scripts = ScriptDirectory.from_config(alembic_config(kind))
    assert len(scripts.get_heads()) == len(scripts.get_bases()) == 1
    assert all(script.revision.startswith(f"{kind}_") for script in scripts.walk_revisions())


@BOTH
async def test_downgrade_is_refused_and_harms_nothing(empty_dsn: str, kind: CatalogKind) -> None:
    await migrate(empty_dsn, kind=kind)
    before = definitions(empty_dsn)

    def downgrade(connection: Connection) -> None:
        config = alembic_config(kind)
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    engine = create_engine(async_url(empty_dsn), poolclass=NullPool)
    with pytest.raises(Unsupported, match="only go forward"), engine.begin() as connection:
        downgrade(connection)
    assert definitions(empty_dsn) == before


async def test_a_database_holds_one_kind(empty_dsn: str) -> None:
    await migrate(empty_dsn, kind=CatalogKind.SITE)
    before = definitions(empty_dsn)
    with pytest.raises(SetupError, match="another kind"):
        await migrate(empty_dsn, kind=CatalogKind.CONTROL)
    assert definitions(empty_dsn) == before


async def test_a_newer_schema_is_left_alone(empty_dsn: str) -> None:
    await migrate(empty_dsn, kind=CatalogKind.SITE)
    engine = create_engine(async_url(empty_dsn), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'site_9999'"))
    with pytest.raises(SetupError, match="newer version"):
        await migrate(empty_dsn, kind=CatalogKind.SITE)


async def test_a_failed_migration_leaves_nothing(empty_dsn: str) -> None:
    engine = create_engine(async_url(empty_dsn), poolclass=NullPool)
    with engine.begin() as connection:
        # In the way of the last table of the first revision.
        connection.execute(text("CREATE TABLE webhook_deliveries (one int)"))
    before = definitions(empty_dsn)
    with pytest.raises(PermanentError):
        await migrate(empty_dsn, kind=CatalogKind.CONTROL)
    assert definitions(empty_dsn) == before


async def test_addresses_that_cannot_work(empty_dsn: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await migrate("mysql://root:secret@localhost/x", kind=CatalogKind.SITE)
    assert "secret" not in str(refused.value)
    with pytest.raises(SetupError):
        await migrate(f"{empty_dsn.split('?', maxsplit=1)[0]}_absent", kind=CatalogKind.SITE)
    with pytest.raises(Unavailable):
        await migrate("postgresql://x@127.0.0.1:1/x", kind=CatalogKind.SITE)
