"""The helper and its client: what Postgres is told, above all when something is wrong."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from entrepot.backup.postgres import client
from entrepot.backup.postgres.archive import WalArchive
from entrepot.backup.postgres.helper import helping
from entrepot.backup.postgres.switch import CLIENT_NAME, commands_at
from entrepot.errors import SetupError
from tests.backup.postgres.worlds import segment, small_segment

ONE = segment(1)


@pytest.fixture
async def address(archive: WalArchive, tmp_path: Path) -> AsyncGenerator[Path, None]:
    path = tmp_path / "wal"
    async with helping(archive, path):
        yield path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / ONE
    path.write_bytes(small_segment(ONE))
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another file of that name."""
    path = tmp_path / "elsewhere" / ONE
    path.parent.mkdir()
    path.write_bytes(small_segment(ONE, filler=b"other"))
    return path


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def asked(address: Path, *arguments: str | Path) -> tuple[int, str]:
    """Exit status and standard error of the client, as Postgres starts it."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", client.__file__, str(address), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


async def test_a_file_goes_there_and_comes_back(address: Path, file: Path, tmp_path: Path) -> None:
    back = tmp_path / "RECOVERYXLOG"
    assert await asked(address, "push", file) == (0, "")
    assert await asked(address, "push", file) == (0, "")
    assert await asked(address, "fetch", ONE, back) == (0, "")
    assert content_of(back) == small_segment(ONE)


async def test_what_is_not_there_ends_wal_quietly(address: Path, tmp_path: Path) -> None:
    assert await asked(address, "fetch", segment(7), tmp_path / "x") == (1, "")
    assert await asked(address, "fetch", "00000002.history", tmp_path / "x") == (1, "")
    assert content_of(tmp_path / "x") is None


async def test_another_file_of_that_name_is_told_and_not_taken(
    address: Path, file: Path, other: Path
) -> None:
    assert (await asked(address, "push", file))[0] == 0
    status, said = await asked(address, "push", other)
    assert status == 1
    assert "another file under that name" in said


async def test_damage_stops_recovery(
    archive: WalArchive, address: Path, file: Path, tmp_path: Path
) -> None:
    await asked(address, "push", file)
    place = archive.vault.place
    key = f"wal/{archive.cluster}/00000001/{ONE}"
    record = await place.read(key)
    await place.store.put(place.bucket, key, record[:-1] + bytes([record[-1] ^ 1]))
    status, said = await asked(address, "fetch", ONE, tmp_path / "x")
    assert status == client.FATAL > 125
    assert "does not verify" in said
    assert content_of(tmp_path / "x") is None


async def test_a_bucket_that_is_gone_is_not_the_end_of_wal(
    archive: WalArchive, address: Path, file: Path, tmp_path: Path
) -> None:
    archive.vault.place = replace(archive.vault.place, bucket="no-such-bucket")
    assert (await asked(address, "fetch", ONE, tmp_path / "x"))[0] == client.FATAL
    assert (await asked(address, "push", file))[0] == 1


async def test_without_a_helper_nothing_is_acknowledged(tmp_path: Path, file: Path) -> None:
    status, said = await asked(tmp_path / "nobody", "push", file)
    assert status == 1
    assert "wal serve" in said
    assert (await asked(tmp_path / "nobody", "fetch", ONE, tmp_path / "x"))[0] == client.FATAL
    assert (await asked(tmp_path / "nobody", "pull"))[0] == client.USAGE


async def test_a_restore_command_that_cannot_even_start_stops_recovery(
    address: Path, tmp_path: Path
) -> None:
    command = commands_at(address).restore.replace("%f", ONE).replace("%p", str(tmp_path / "x"))

    async def status() -> int:
        return (await asyncio.to_thread(subprocess.run, ["/bin/sh", "-c", command])).returncode

    assert await status() == 1
    script = address.parent / CLIENT_NAME
    await asyncio.to_thread(script.unlink)
    assert await status() == client.FATAL


async def test_a_client_that_ends_early_harms_nobody(
    archive: WalArchive, address: Path, file: Path
) -> None:
    for half in (b"", b"{", b'{"op": "push", "name": "%s", "size": 1048576}\nhalf' % ONE.encode()):
        _, writer = await asyncio.open_unix_connection(address)
        writer.write(half)
        writer.close()
        await writer.wait_closed()
    assert (await asked(address, "push", file))[0] == 0
    assert await archive.names() == [ONE]


async def test_one_helper_at_an_address_and_a_killed_ones_socket_is_taken_over(
    archive: WalArchive, address: Path, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match="answers there already"):
        async with helping(archive, address):
            pass
    assert mode_of(address) == 0o600
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(dead))
    async with helping(archive, dead):
        assert (await asked(dead, "fetch", ONE, tmp_path / "x"))[0] == 1
