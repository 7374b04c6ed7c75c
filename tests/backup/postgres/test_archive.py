"""WAL in a vault on a real store: what is the same, what is refused, and pushes that are killed."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from entrepot.backup.postgres.archive import WalArchive
from entrepot.embedded.minio import MinioServer
from entrepot.errors import AlreadyExists, IntegrityError, InvalidInput, NotFound
from entrepot.vault.records import Kind
from tests.backup.postgres.worlds import segment, small_segment
from tests.objects.worlds import s3_store

ONE = segment(1)


async def test_the_same_again_is_fine_and_another_is_not(archive: WalArchive) -> None:
    content = small_segment(ONE, filler=b"as written")
    assert await archive.push(ONE, content)
    assert not await archive.push(ONE, content)
    with pytest.raises(AlreadyExists, match="another file"):
        await archive.push(ONE, small_segment(ONE, filler=b"otherwise"))
    assert await archive.fetch(ONE) == content
    assert await archive.names() == [ONE]


async def test_every_kind_of_file_comes_back(archive: WalArchive) -> None:
    kept = {
        ONE: small_segment(ONE),
        segment(2) + ".partial": small_segment(segment(2)),
        ONE + ".00000028.backup": b"START WAL LOCATION: 0/28 (file 000000010000000000000001)\n",
        "00000002.history": b"1\t0/200060\tno recovery target specified\n",
    }
    for name, content in kept.items():
        assert await archive.push(name, content)
    assert {name: await archive.fetch(name) for name in await archive.names()} == kept
    files = await archive.files()
    assert [tuple(each) for each in files.segments] == [(1, 1)]
    assert files.histories[2][0].lsn == 0x200060
    with pytest.raises(NotFound):
        await archive.fetch(segment(9))


async def test_wal_of_another_cluster_is_refused(archive: WalArchive) -> None:
    await archive.push(ONE, small_segment(ONE, system=1))
    with pytest.raises(InvalidInput, match="another cluster"):
        await archive.push(segment(2), small_segment(segment(2), system=2))
    other = WalArchive(archive.vault, "other")
    assert await other.push(segment(2), small_segment(segment(2), system=2))
    assert (await archive.system(), await other.system()) == ((1, 1 << 20), (2, 1 << 20))


@pytest.mark.parametrize("cut", [0, 30, 4096, -1])
async def test_what_is_no_whole_segment_is_refused(archive: WalArchive, cut: int) -> None:
    with pytest.raises(IntegrityError):
        await archive.push(ONE, small_segment(ONE)[:cut])
    assert await archive.names() == []


async def test_a_segment_under_another_name_is_refused(archive: WalArchive) -> None:
    with pytest.raises(IntegrityError, match="not the one of its name"):
        await archive.push(segment(2), small_segment(ONE))
    with pytest.raises(IntegrityError, match="later timeline"):
        await archive.push(ONE, small_segment(segment(1, timeline=2)))


async def test_two_pushers_at_once_agree(archive: WalArchive) -> None:
    """As when Postgres gave up on one and started another."""
    twin = WalArchive(archive.vault, archive.cluster)
    content = small_segment(ONE)
    new = await asyncio.gather(archive.push(ONE, content), twin.push(ONE, content))
    assert sorted(new) == [False, True]


async def test_damage_and_moved_records_are_found(archive: WalArchive) -> None:
    await archive.push(ONE, small_segment(ONE, filler=b"x" * 5000))
    place = archive.vault.place
    path = f"wal/{archive.cluster}/00000001/{ONE}"
    record = await place.read(path)
    for at in (0, 4, 10, len(record) // 2, len(record) - 1):
        damaged = bytearray(record)
        damaged[at] ^= 1
        await place.store.put(place.bucket, place.prefix + path, bytes(damaged))
        with pytest.raises(IntegrityError):
            await archive.fetch(ONE)
        with pytest.raises(IntegrityError):  # and a push does not take it for its own
            await archive.push(ONE, small_segment(ONE, filler=b"x" * 5000))
    moved = f"wal/{archive.cluster}/00000001/{segment(2)}"
    await place.put(moved, record)
    with pytest.raises(IntegrityError):
        await archive.fetch(segment(2))


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.nightly)])
async def test_a_push_killed_at_a_step_and_made_again(
    archive: WalArchive, minio_a: MinioServer, tmp_path: Path, every: bool
) -> None:
    """At the last two, round the write itself, or at every one."""
    where = {
        "endpoint": minio_a.endpoint,
        "access_key": minio_a.access_key,
        "secret_key": minio_a.secret_key.get_secret_value(),
        "bucket": archive.vault.place.bucket,
        "keys": str(tmp_path),
    }
    job = {"name": ONE}
    [whole] = await _pushes(where, [job | {"cluster": "whole", "at": None}])
    points = whole["points"]
    assert isinstance(points, list)
    assert points[-2:] == ["before put", "after put"]
    steps = range(1 if every else len(points) - 1, len(points) + 1)
    jobs = []
    for at in steps:
        jobs += [job | {"cluster": f"c{at}", "at": at}, job | {"cluster": f"c{at}", "at": None}]
    answers = await _pushes(where, jobs)
    assert all(killed == {"killed": True} for killed in answers[::2])
    assert {again["new"] for again in answers[1::2]} == {True, False}
    store = s3_store(minio_a)
    try:
        async for page in store.versions(where["bucket"], prefix="wal/"):
            keys = [version.key for version in page.versions]
            assert len(keys) == len(set(keys)) == 2 * (len(steps) + 1)  # nothing was written twice
    finally:
        await store.close()
    for at in steps:
        assert await WalArchive(archive.vault, f"c{at}").fetch(ONE) == small_segment(ONE)


async def _pushes(where: dict[str, str], jobs: list[dict[str, object]]) -> list[dict[str, object]]:
    lines = "\n".join(map(json.dumps, [where, *jobs]))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.backup.postgres.killable"],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "name",
    [
        "main/00000001/../../vault",
        "main/00000002/000000010000000000000001",
        "main/00000001/000000010000000000000001.zst",
        "../x/system",
        "Main/system",
        "main/",
    ],
)
async def test_no_name_of_a_record_leads_elsewhere(archive: WalArchive, name: str) -> None:
    with pytest.raises(InvalidInput):
        await archive.vault.read(Kind.WAL, name)
