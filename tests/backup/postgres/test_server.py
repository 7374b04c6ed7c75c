"""A real server archives into a vault, is backed up, and comes back at a target.

The module's world has one history, made once: rows 1 to 1,000 before the full backup, up to 2,000
before the incremental one, then 2,001, ``t1``, 2,002, the restore point ``here``, and the table's
end. Each test restores some of it elsewhere or asks what could be.
"""

import asyncio
import json
import os
import subprocess
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from entrepot.backup.files import read_entries
from entrepot.backup.postgres import scan
from entrepot.backup.postgres.base import MANIFEST, back_up, backups_of, extract, tree_of
from entrepot.backup.postgres.dump import dump
from entrepot.backup.postgres.plan import Method, Target
from entrepot.backup.postgres.programs import streaming
from entrepot.backup.postgres.reach import plan_restore
from entrepot.backup.postgres.restore import restore
from entrepot.backup.postgres.switch import archive_to, create_point, switch_wal
from entrepot.backup.postgres.wal import lsn_text, parse_lsn
from entrepot.embedded.minio import MinioServer
from entrepot.errors import AlreadyExists, InvalidInput, NotFound, SetupError, Unavailable
from entrepot.testing.proxy import BreakableProxy
from tests.backup.postgres.worlds import World, rows, started, until, world_of

ROWS = "SELECT count(*), max(n) FROM t"


@dataclass(frozen=True)
class History:
    """Snapshots, and moments of the server's clock and WAL."""

    full: str
    incremental: str
    t0: datetime
    t1: datetime
    lsn1: str
    here: str


@pytest.fixture(scope="module")
async def history(world: World) -> History:
    world.sql("CREATE TABLE t (n int)")
    world.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    t0 = world.sql("SELECT clock_timestamp()")
    full = await back_up(world.archive, world.cluster)
    world.sql("INSERT INTO t SELECT generate_series(1001, 2000)")
    incremental = await back_up(world.archive, world.cluster, base=full)
    world.sql("INSERT INTO t VALUES (2001)")
    t1 = world.sql("SELECT clock_timestamp()")
    lsn1 = world.sql("SELECT pg_current_wal_insert_lsn()::text")
    world.sql("INSERT INTO t VALUES (2002)")
    here = await create_point(world.cluster, "here")
    world.sql("DROP TABLE t")
    await switch_wal(world.cluster)
    return History(full, incremental, t0, t1, lsn1, here)


async def restored(world: World, target: Target, name: str, timeline: int | None = None) -> Path:
    plan = await plan_restore(world.archive, target, timeline=timeline)
    path = world.folder / name
    await restore(
        world.vault,
        plan,
        path,
        restore_command=world.commands.restore,
        bin_dir=world.cluster.bin_dir,
        owner=world.owner,
    )
    return path


async def looked(path: Path, world: World, query: str = ROWS) -> list[object]:
    async with started(path, world) as conninfo:
        return rows(conninfo, query)


async def test_a_time_from_an_incremental_backup(world: World, history: History) -> None:
    left = world.folder / ".at-t1.restoring" / "0"  # of a restore that was killed
    await asyncio.to_thread(left.mkdir, parents=True)
    path = await restored(world, Target(time=history.t1), "at-t1")
    assert not await asyncio.to_thread(left.parent.exists)
    assert await looked(path, world) == [(2001, 2001)]


@pytest.mark.nightly
async def test_a_restore_point(world: World, history: History) -> None:
    path = await restored(world, Target(point="here"), "here")
    assert await looked(path, world) == [(2002, 2002)]


@pytest.mark.nightly
async def test_an_lsn(world: World, history: History) -> None:
    path = await restored(world, Target(lsn=parse_lsn(history.lsn1)), "at-lsn")
    assert (await looked(path, world))[0] in [(2001, 2001), (2002, 2002)]  # inclusive of its record


@pytest.mark.nightly
async def test_the_latest_moment(world: World, history: History) -> None:
    path = await restored(world, Target(), "latest")
    assert await looked(path, world, "SELECT to_regclass('t')::text") == [(None,)]


async def test_what_is_not_covered_is_refused(world: World, history: History) -> None:
    archive = world.archive
    with pytest.raises(NotFound, match="no base backup ends before"):
        await plan_restore(archive, Target(time=history.t0))
    with pytest.raises(NotFound, match="does not reach"):
        await plan_restore(archive, Target(time=history.t1 + timedelta(days=1)))
    with pytest.raises(NotFound, match="does not reach"):
        await plan_restore(archive, Target(lsn=parse_lsn("FF/0")))
    with pytest.raises(NotFound, match="does not reach"):
        await plan_restore(archive, Target(point="elsewhere"))
    with pytest.raises(NotFound, match="no base backup"):
        await plan_restore(archive, Target(lsn=1))


async def test_a_gap_is_refused_by_the_name_of_the_segment(world: World, history: History) -> None:
    archive = world.archive
    whole = await plan_restore(archive, Target(point="here"))
    assert lsn_text(whole.stop_lsn) == lsn_text(parse_lsn(history.here))
    lost = whole.wal[-1]
    key = f"wal/{archive.cluster}/{lost[:8]}/{lost}"
    record = await world.vault.place.read(key)
    await world.vault.place.remove(key)
    try:
        assert [each.first for each in (await archive.files()).gaps] == [
            int(lost[8:16], 16) * 256 + int(lost[16:], 16)
        ]
        for target in (Target(point="here"), Target(lsn=whole.stop_lsn)):
            with pytest.raises(NotFound, match="gap") as caught:
                await plan_restore(archive, target)
            assert lost in caught.value.hint
    finally:
        await world.vault.place.put(key, record)
    assert await plan_restore(archive, Target(point="here")) == whole


async def test_marks_are_those_that_pg_waldump_shows(
    world: World, history: History, tmp_path: Path
) -> None:
    plan = await plan_restore(world.archive, Target(point="here"))
    found, shown = [], ""
    for name in plan.wal:
        content = await world.archive.fetch(name)
        file = tmp_path / name
        await asyncio.to_thread(file.write_bytes, content)
        done = await asyncio.to_thread(
            subprocess.run,
            [str(world.cluster.bin_dir / "pg_waldump"), str(file)],
            capture_output=True,
            text=True,
            check=False,
            env={"TZ": "UTC", "PATH": os.defpath},
        )
        shown += done.stdout
        found += list(scan.marks(content))
    ends = [line for line in shown.splitlines() if "desc: COMMIT" in line or "desc: ABORT" in line]
    ours = [mark for mark in found if mark.point is None]
    assert len(ours) == len(ends) > 0
    for mark, line in zip(ours, ends, strict=True):
        assert f"lsn: {mark.lsn >> 32:X}/{mark.lsn & 0xFFFFFFFF:08X}," in line
        assert mark.time.strftime("%Y-%m-%d %H:%M:%S.%f") in line
    points = [mark for mark in found if mark.point == "here"]
    assert [lsn_text(mark.end_lsn) for mark in points] == [lsn_text(parse_lsn(history.here))]


async def test_a_directory_that_is_there_is_left_alone(world: World, history: History) -> None:
    path = world.folder / "taken"
    await asyncio.to_thread(path.mkdir)
    with pytest.raises(AlreadyExists):
        await restored(world, Target(), "taken")
    assert await asyncio.to_thread(os.listdir, path) == []


async def test_backups_say_what_they_are_and_share_chunks(world: World, history: History) -> None:
    made = {each.snapshot: each for each in await backups_of(world.vault, world.cluster.name)}
    full, incremental = made[history.full], made[history.incremental]
    assert (full.method, full.base) == (Method.FULL, None)
    assert (incremental.method, incremental.base) == (Method.INCREMENTAL, history.full)
    assert full.stop_lsn < incremental.start_lsn < parse_lsn(history.lsn1)
    assert str(full.system_identifier) == str((await world.archive.system())[0])
    sizes = {}
    for name in (history.full, history.incremental):
        tree = tree_of(await world.vault.snapshot(name), world.cluster.name)
        sizes[name] = tree.size_bytes
        entries = await read_entries(world.vault, await world.vault.index(), tree)
        assert MANIFEST in {entry.key for entry in entries}
    assert sizes[history.incremental] < sizes[history.full] / 4
    before = await world.vault.packs()
    await back_up(world.archive, world.cluster)  # another full one stores what changed only
    grown = sum(p.size_bytes for p in await world.vault.packs()) - sum(p.size_bytes for p in before)
    assert grown < sizes[history.full] / 4


async def test_a_dump_comes_out_again(world: World, history: History, tmp_path: Path) -> None:
    world.sql("CREATE TABLE dumped AS SELECT generate_series(1, 100) AS n")
    with pytest.raises(InvalidInput, match="no database"):
        await dump(world.vault, world.cluster, ["nothing"])
    name = await dump(world.vault, world.cluster, ["postgres"])
    path = tmp_path / "postgres.dump"
    await extract(world.archive, name, "postgres.dump", path)
    shown = [str(world.cluster.bin_dir / "pg_restore"), "--file=-", "--table=dumped", str(path)]
    async with streaming(shown, world.cluster.env()) as stream:
        text = (await asyncio.to_thread(stream.read)).decode()
    assert "COPY public.dumped (n) FROM stdin;\n1\n2\n" in text
    await extract(world.archive, name, "globals.sql", tmp_path / "globals.sql")
    with pytest.raises(NotFound):
        await extract(world.archive, name, "other.dump", tmp_path / "other")


async def test_a_backup_that_could_not_be_restored_is_not_made(
    world: World, history: History
) -> None:
    other = type(world.archive)(world.vault, "other")
    with pytest.raises(NotFound, match="no WAL of this cluster"):
        await back_up(other, world.cluster)
    with pytest.raises(InvalidInput, match="no base backup"):
        await back_up(world.archive, world.cluster, base=await _dump_of(world))
    wrong = replace(world.cluster, conninfo=world.cluster.conninfo + "?sslmode=require")
    with pytest.raises(Unavailable):
        await back_up(world.archive, wrong)
    # What pg_basebackup itself says is shown.
    with pytest.raises(SetupError, match=r"(?s)pg_basebackup failed.*manifest"):
        options = ("--pgdata=-", "--format=tar", "--wal-method=none", "--incremental=/dev/null")
        command = world.cluster.command("pg_basebackup", *options)
        async with streaming(command, world.cluster.env()) as stream:
            await asyncio.to_thread(stream.read)


async def _dump_of(world: World) -> str:
    found = await backups_of(world.vault, world.cluster.name)
    return next(each.snapshot for each in found if each.method is Method.DUMP)


@pytest.mark.nightly
async def test_a_store_that_is_away_costs_no_segment(minio_a: MinioServer, open_dir: Path) -> None:
    """Postgres keeps what could not be stored, and it is there in the end, each segment once."""
    host, _, port = minio_a.endpoint.removeprefix("http://").rpartition(":")
    async with BreakableProxy(host, int(port)) as proxy:
        through = MinioAt(proxy.endpoint, minio_a)
        async with world_of(through, open_dir) as world:  # type: ignore[arg-type]
            before = set(await world.archive.names())
            await proxy.refuse()
            world.sql("CREATE TABLE kept AS SELECT generate_series(1, 100)")
            name = world.sql("SELECT pg_walfile_name(pg_switch_wal())")

            async def failed() -> bool:
                return bool(world.sql("SELECT failed_count FROM pg_stat_archiver"))

            await until(failed)
            pending = await asyncio.to_thread(_ready, world)
            assert name in pending
            await proxy.heal()
            last = await switch_wal(world.cluster)  # which also wakes the archiver
            after = set(await world.archive.names())
            assert {name, last} <= after - before
            assert (await world.archive.files()).gaps == []


def _ready(world: World) -> set[str]:
    """Segments that Postgres still has to have archived."""
    status = world.server.data_dir / "postgres/cluster/pg_wal/archive_status"
    return {path.stem for path in status.glob("*.ready")}


@dataclass
class MinioAt:
    """A MinIO at another endpoint."""

    endpoint: str
    server: MinioServer

    @property
    def access_key(self) -> str:
        return self.server.access_key

    @property
    def secret_key(self) -> object:
        return self.server.secret_key


@pytest.mark.nightly
async def test_a_promoted_cluster_archives_on_and_is_restored_again(
    minio_a: MinioServer, open_dir: Path
) -> None:
    """The server that came back goes on as the cluster: its timeline is the newest then."""
    async with world_of(minio_a, open_dir) as world:
        world.sql("CREATE TABLE t AS SELECT 1 AS n")
        await back_up(world.archive, world.cluster)
        instant = world.sql("SELECT clock_timestamp()")
        world.sql("INSERT INTO t VALUES (2)")
        await create_point(world.cluster, "here")
        await asyncio.to_thread(world.server.stop)
        first = await restored(world, Target(time=instant), "second-life")
        async with started(first, world) as conninfo:
            again = replace(world.cluster, conninfo=conninfo)
            await archive_to(world.archive, again, world.commands.archive)
            rows(conninfo, "INSERT INTO t VALUES (9001) RETURNING n")
            await switch_wal(again)
        assert 2 in {segment.timeline for segment in (await world.archive.files()).segments}
        assert await looked(await restored(world, Target(), "third-life"), world) == [(2, 9001)]
        path = await restored(world, Target(point="here"), "first-line", timeline=1)
        assert await looked(path, world) == [(2, 2)]


@pytest.mark.nightly
async def test_random_instants_against_a_model(minio_a: MinioServer, open_dir: Path) -> None:
    """Two writers note when each row was begun and done; a restore to T agrees with their notes."""
    async with world_of(minio_a, open_dir) as world:
        world.sql("CREATE TABLE t (n int)")
        await back_up(world.archive, world.cluster)
        notes = await asyncio.gather(*(asyncio.to_thread(_write, world, n) for n in (0, 1)))
        await create_point(world.cluster, "end")
        model = sorted(notes[0] + notes[1])
        for share in (0.2, 0.55, 0.9):
            instant = model[int(share * len(model))][1]
            path = await restored(world, Target(time=instant), f"at-{share}")
            [(found,)] = await looked(path, world, "SELECT array_agg(n) FROM t")  # type: ignore[misc]
            must = {n for _, done, n in model if done < instant}
            may = {n for begun, _, n in model if begun <= instant}
            assert must <= set(found) <= may, json.dumps([str(instant), sorted(must ^ set(found))])


def _write(world: World, writer: int) -> list[tuple[datetime, datetime, int]]:
    import psycopg

    notes = []
    with psycopg.connect(world.cluster.conninfo, autocommit=True) as connection:

        def clock() -> datetime:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row
            found: datetime = row[0]
            return found

        for n in range(writer, 400, 2):
            begun = clock()
            connection.execute("INSERT INTO t VALUES (%s)", [n])
            notes.append((begun, clock(), n))
            if n % 100 == writer:
                connection.execute("SELECT pg_switch_wal()")
    return notes
