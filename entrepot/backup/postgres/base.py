"""Base backups: what ``pg_basebackup`` streams, file by file, as a tree of a snapshot.

The tar goes through memory, never to a disk: that takes no room beside the cluster, and each file
is chunked by itself, so that the next full backup stores what changed only. The price is that the
cluster has no tablespaces of its own, which a stream of one tar cannot carry.

Invariant: the snapshot appears only when the vault has all of it, and all WAL from the backup's
start to its stop, without which it could not be restored.
"""

import asyncio
import json
import tarfile
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from entrepot.backup.back_up import check_stored
from entrepot.backup.files import read_entries, store_file, store_tree, write_files
from entrepot.backup.postgres.archive import WalArchive
from entrepot.backup.postgres.plan import BaseBackup, Method, wal_from
from entrepot.backup.postgres.programs import Cluster, streaming
from entrepot.backup.postgres.wal import lsn_text, parse_lsn
from entrepot.errors import IntegrityError, InvalidInput, NotFound, SetupError, Unsupported
from entrepot.vault.records import Kind
from entrepot.vault.repository import Vault
from entrepot.vault.snapshots import Entry, Snapshot, Tree
from entrepot.vault.writer import Writer, writing

PIECE_BYTES: Final = 1 << 20
MANIFEST: Final = "backup_manifest"
SITE: Final = "postgres"
"""Of trees that are clusters."""

WAL_WAIT_S: Final = 60.0
"""For the last segment of a backup, where the server does not wait for it itself (a standby)."""

_FAILS: Final = (
    "SELECT last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
)
_OPTIONS: Final = (
    "--pgdata=-",
    "--format=tar",
    "--wal-method=none",
    "--checkpoint=fast",
    "--no-password",
)


async def back_up(archive: WalArchive, cluster: Cluster, *, base: str | None = None) -> str:
    """Take a base backup; the name of its snapshot.

    ``base``: an incremental one on that snapshot (the server has ``summarize_wal`` on, from 17).
    ``NotFound`` where the cluster's WAL is not archived in this vault, ``Unsupported`` for one
    with tablespaces, ``SetupError`` for what ``pg_basebackup`` says.
    """
    vault = archive.vault
    system = await _check(archive, cluster)
    now_ms = int(vault.clock.now().timestamp() * 1000)
    with tempfile.TemporaryDirectory(prefix="entrepot-") as scratch:
        options = list(_OPTIONS)
        if base is not None:
            manifest = await _manifest_of(vault, base, cluster.name, Path(scratch))
            options.append(f"--incremental={manifest}")
        tree = Tree(kind="files", site=SITE, name=cluster.name)
        index = await vault.index()
        async with writing(vault, index) as writer:
            command = cluster.command("pg_basebackup", *options)
            async with streaming(command, cluster.env()) as stream:
                entries, manifest_bytes = await _stored(vault, writer, stream)
            tree = await store_tree(vault, writer, tree, entries)
    stopped = await cluster.ask("SELECT (extract(epoch from clock_timestamp()) * 1000)::bigint")
    backup = replace(
        _described(manifest_bytes, cluster.name),
        base=base,
        method=Method.FULL if base is None else Method.INCREMENTAL,
        system_identifier=system,
        version=int(await cluster.ask("SHOW server_version_num")),
        stopped_ms=stopped,
    )
    await _await_wal(archive, backup)
    await check_stored(vault, index)
    return await write_snapshot(vault, tree, backup, started_ms=now_ms, parent=base)


async def write_snapshot(
    vault: Vault, tree: Tree, backup: BaseBackup, *, started_ms: int, parent: str | None = None
) -> str:
    """Let a backup appear; its name."""
    snapshot = Snapshot(
        started_ms=started_ms,
        ended_ms=int(vault.clock.now().timestamp() * 1000),
        trees=(tree,),
        parent=parent,
        tags={"postgres": backup.cluster, "method": backup.method.value},
        points={"postgres": {backup.cluster: backup.to_json()}},
    )
    return await vault.write(Kind.SNAPSHOT, snapshot.dump())


async def backups_of(vault: Vault, cluster: str) -> list[BaseBackup]:
    """Backups and dumps of a cluster, oldest first."""
    found = []
    for name in await vault.names(Kind.SNAPSHOT):
        try:
            snapshot = await vault.snapshot(name)
        except NotFound:  # removed by a prune meanwhile
            continue
        said = snapshot.points.get("postgres", {}).get(cluster)
        if said is not None:
            found.append(BaseBackup.of_json(name, cluster, said))
    return found


async def newest_base(archive: WalArchive) -> str:
    """The snapshot that an incremental backup can stand on; ``NotFound`` where there is none."""
    found = await backups_of(archive.vault, archive.cluster)
    usable = [each.snapshot for each in found if each.method is not Method.DUMP]
    if not usable:
        raise NotFound(
            "there is no backup to stand on",
            hint="take a full one first: entrepot backup postgres create",
            cluster=archive.cluster,
        )
    return usable[-1]


async def extract(archive: WalArchive, snapshot: str, file: str, path: Path) -> int:
    """Write one file of a snapshot to ``path``, which must not be there; its bytes."""
    vault = archive.vault
    index = await vault.index()
    tree = tree_of(await vault.snapshot(snapshot), archive.cluster)
    for entry in await read_entries(vault, index, tree):
        if entry.key == file and not file.endswith("/"):
            return await write_files(vault, index, [replace(entry, key=path.name)], path.parent)
    raise NotFound("the snapshot has no such file", name=snapshot, file=file)


def tree_of(snapshot: Snapshot, cluster: str) -> Tree:
    """The tree of a cluster in a snapshot; ``NotFound``."""
    for tree in snapshot.trees:
        if (tree.kind, tree.site, tree.name) == ("files", SITE, cluster):
            return tree
    raise NotFound("the snapshot has no files of this cluster", cluster=cluster)


async def _check(archive: WalArchive, cluster: Cluster) -> int:
    """Refuse what could not be restored, before anything is read; the system identifier."""
    system = int(await cluster.ask("SELECT system_identifier FROM pg_control_system()"))
    known, _ = await archive.system()
    if known != system:
        raise InvalidInput(
            "the vault has the WAL of another cluster under that name",
            hint="give each cluster a name of its own in backup.clusters",
            cluster=cluster.name,
        )
    if await cluster.ask(_FAILS):
        raise SetupError(
            "the server's archive_command fails, and a base backup would wait for it",
            hint="its log says why; is the helper up? entrepot backup wal serve",
            cluster=cluster.name,
        )
    spaces = await cluster.ask("SELECT count(*) FROM pg_tablespace WHERE spcname !~ '^pg_'")
    if spaces:
        raise Unsupported(
            "the cluster has tablespaces, which a streamed base backup cannot hold",
            hint="move its tables to pg_default, or dump it: entrepot backup postgres dump",
            tablespaces=spaces,
        )
    return system


async def _manifest_of(vault: Vault, name: str, cluster: str, scratch: Path) -> Path:
    """The manifest of an earlier backup, as a file."""
    index = await vault.index()
    tree = tree_of(await vault.snapshot(name), cluster)
    entries = await read_entries(vault, index, tree)
    manifest = [entry for entry in entries if entry.key == MANIFEST]
    if not manifest:
        raise InvalidInput(
            "this is no base backup", hint="entrepot backup postgres list", name=name
        )
    await write_files(vault, index, manifest, scratch)
    return scratch / MANIFEST


async def _stored(vault: Vault, writer: Writer, stream: IO[bytes]) -> tuple[list[Entry], bytes]:
    """Entries of all members of a tar, their bytes stored; and the manifest."""
    entries: list[Entry] = []
    manifest = b""
    tar = await asyncio.to_thread(tarfile.open, fileobj=stream, mode="r|")
    while member := await asyncio.to_thread(tar.next):
        key = member.name.removeprefix("./") + ("/" if member.isdir() else "")
        entry = Entry(key, "", int(member.mtime * 1000), extra={"mode": member.mode & 0o777})
        if member.isfile():
            body = tar.extractfile(member)
            assert body
            if key == MANIFEST:
                manifest = await asyncio.to_thread(body.read)
                entry = await store_file(vault, writer, _once(manifest), entry)
            else:
                entry = await store_file(vault, writer, pieces(body), entry)
        elif not member.isdir():
            raise Unsupported("the cluster has a file of a kind that is not backed up", path=key)
        entries.append(entry)
    if not manifest:
        raise IntegrityError("pg_basebackup ended without a manifest")
    return entries, manifest


async def pieces(body: IO[bytes]) -> AsyncIterator[bytes]:
    """The rest of a file."""
    while piece := await asyncio.to_thread(body.read, PIECE_BYTES):
        yield piece


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _described(manifest: bytes, cluster: str) -> BaseBackup:
    """What a manifest says of a backup; of what it does not say, nothing yet."""
    try:
        said: Any = json.loads(manifest)
        ranges = said["WAL-Ranges"]
        last = ranges[-1]  # oldest first: a backup of a standby may cross a promotion
        return BaseBackup(
            snapshot="",
            cluster=cluster,
            method=Method.FULL,
            base=None,
            system_identifier=0,
            version=0,
            timeline=int(last["Timeline"]),
            start_lsn=min(parse_lsn(each["Start-LSN"]) for each in ranges),
            stop_lsn=parse_lsn(last["End-LSN"]),
            stopped_ms=0,
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise IntegrityError("the manifest of a base backup is malformed") from error


async def _await_wal(archive: WalArchive, backup: BaseBackup) -> None:
    """Wait for the WAL that the backup needs; ``SetupError`` where it does not come."""
    clock = archive.vault.clock
    deadline = clock.monotonic() + WAL_WAIT_S
    while not wal_from(backup, await archive.files(), timeline=backup.timeline):
        if clock.monotonic() > deadline:
            raise SetupError(
                "the WAL of the backup did not reach the vault, so it could not be restored",
                hint="entrepot backup wal status; entrepot backup wal enable",
                cluster=backup.cluster,
                start=lsn_text(backup.start_lsn),
                stop=lsn_text(backup.stop_lsn),
            )
        await asyncio.sleep(0.5)
