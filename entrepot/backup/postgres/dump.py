"""Dumps: one ``pg_dump`` a database and the roles, beside base backups and never in their place.

They are restored table by table and into other versions of Postgres. Dumped uncompressed: the
vault compresses, and stores once what two dumps share.
"""

from collections.abc import Sequence
from typing import Final

from entrepot.backup.back_up import check_stored
from entrepot.backup.files import store_file, store_tree
from entrepot.backup.postgres.base import SITE, pieces, write_snapshot
from entrepot.backup.postgres.plan import BaseBackup, Method
from entrepot.backup.postgres.programs import Cluster, streaming
from entrepot.errors import InvalidInput
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Tree
from entrepot.vault.writer import writing

GLOBALS: Final = "globals.sql"
_DATABASES: Final = (
    "SELECT array_agg(datname::text ORDER BY datname) FROM pg_database"
    " WHERE datallowconn AND NOT datistemplate"
)


async def dump(vault: Vault, cluster: Cluster, databases: Sequence[str] = ()) -> str:
    """Dump databases (all of them by default) and the roles; the name of the snapshot.

    Each database is consistent in itself; for one instant of all take a base backup.
    """
    now_ms = int(vault.clock.now().timestamp() * 1000)
    known: list[str] = await cluster.ask(_DATABASES)
    if unknown := sorted(set(databases) - set(known)):
        raise InvalidInput(f"there is no database {unknown[0]}", hint=", ".join(known))
    options = ("--format=custom", "--compress=0", "--no-password")
    commands = {GLOBALS: cluster.command("pg_dumpall", "--globals-only", "--no-password")}
    for database in databases or known:
        command = cluster.command("pg_dump", *options, dbname=database)
        commands[_file_name(database)] = command
    index = await vault.index()
    async with writing(vault, index) as writer:
        entries = []
        for name, command in commands.items():
            async with streaming(command, cluster.env()) as stream:
                entry = Entry(name, "", now_ms)
                entries.append(await store_file(vault, writer, pieces(stream), entry))
        tree = Tree(kind="files", site=SITE, name=cluster.name)
        tree = await store_tree(vault, writer, tree, entries)
    said = BaseBackup(
        snapshot="",
        cluster=cluster.name,
        method=Method.DUMP,
        base=None,
        system_identifier=int(
            await cluster.ask("SELECT system_identifier FROM pg_control_system()")
        ),
        version=int(await cluster.ask("SHOW server_version_num")),
        timeline=0,
        start_lsn=0,
        stop_lsn=0,
        stopped_ms=int(vault.clock.now().timestamp() * 1000),
    )
    await check_stored(vault, index)
    return await write_snapshot(vault, tree, said, started_ms=now_ms)


def _file_name(database: str) -> str:
    if "/" in database or database.startswith("."):
        raise InvalidInput("a database of this name cannot be dumped to a file", name=database)
    return f"{database}.dump"
