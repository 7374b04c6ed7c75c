"""Brings a catalog's schema up to what this version of the code expects.

Invariant: a migration runs whole or not at all, in one transaction, under an advisory lock, so
two runs at once end as one. Schemas only go forward: ``downgrade`` is refused, an older schema is
had by restoring a backup. To change a table: change ``tables.py``, add a module with the SQL under
``migrations/``; a test compares both.

Words: *revision* a numbered step, ``control_0001`` or ``site_0001``, and so on.
"""

from enum import StrEnum
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from entrepot.catalog.connect import async_url
from entrepot.catalog.translate import translated
from entrepot.errors import SetupError

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x656E7472  # "entr": any number that no other program locks in this database


class CatalogKind(StrEnum):
    """Which of the two schemas a database holds."""

    CONTROL = "control"
    SITE = "site"


async def migrate(dsn: str | SecretStr, *, kind: CatalogKind) -> str:
    """Bring the database at ``dsn`` to the newest revision; returns that revision.

    Does nothing where it is there already. Raises ``SetupError`` where the database holds the
    other kind or was migrated by a newer version, ``Unavailable`` where it cannot be reached or
    another run holds the lock for longer than 15 seconds.
    """
    with translated():
        engine = create_async_engine(async_url(dsn), poolclass=NullPool)
        async with engine.begin() as connection:
            # A later revision may rewrite a large table.
            await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            return await connection.run_sync(_upgrade, kind)


def _upgrade(connection: Connection, kind: CatalogKind) -> str:
    config = alembic_config(kind)
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = [script.revision for script in scripts.walk_revisions()]
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise SetupError(
            "the database holds another kind of catalog, or one of a newer version",
            hint=f"give the {kind} catalog a database of its own, or install the newer version",
            revision=current,
        )
    command.upgrade(config, "head")
    return known[0]


def alembic_config(kind: CatalogKind) -> Config:
    """Alembic's configuration for one kind; ``attributes["connection"]`` is the caller's."""
    config = Config()
    config.set_main_option("script_location", _escaped(_SCRIPTS))
    config.set_main_option("version_locations", _escaped(_SCRIPTS / kind))
    config.set_main_option("path_separator", "newline")  # a path may hold blanks and colons
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")  # the value goes through a configuration parser
