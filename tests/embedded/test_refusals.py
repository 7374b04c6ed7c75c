"""What ``up`` refuses: the error names the cause, the hint what to type, and nothing is harmed."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.embedded import stack
from entrepot.embedded.plan import Plan
from entrepot.errors import SetupError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def refused(data_dir: Path, match: str, **options: int) -> SetupError:
    with pytest.raises(SetupError, match=match) as caught:
        stack.up(data_dir, sites=1, prefect=False, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def test_taken_port_is_named_with_its_owner(open_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if port + 80 > 65535:
            pytest.fail("the kernel gave a port at the very end; run again")
        error = refused(
            open_dir, f"port {port} for site-a is taken by .*pid {os.getpid()}", port_base=port
        )
    assert "--port-base" in error.hint
    assert not (open_dir / "postgres").exists()


def test_directory_with_other_files(open_dir: Path) -> None:
    (open_dir / "thesis.tex").write_text("years of work")
    refused(open_dir, "holds other files")
    assert [entry.name for entry in open_dir.iterdir()] == ["thesis.tex"]


def test_file_instead_of_a_directory(open_dir: Path) -> None:
    (open_dir / "file").write_text("mine")
    refused(open_dir / "file", "not a directory")
    assert (open_dir / "file").read_text() == "mine"


def test_directory_of_another_layout(open_dir: Path) -> None:
    text = '{"layout": 2, "sites": 1, "port_base": 0, "ports": {}}'
    (open_dir / "entrepot.json").write_text(text)
    refused(open_dir, "another version")
    assert (open_dir / "entrepot.json").read_text() == text


def test_fewer_sites_than_before(open_dir: Path) -> None:
    plan = Plan(sites=3, port_base=0, ports={})
    (open_dir / "entrepot.json").write_text(plan.model_dump_json())
    error = refused(open_dir, "holds 3 sites, not 1")
    assert "--sites 3" in error.hint


def test_status_and_down_of_no_stack(open_dir: Path) -> None:
    for command in (stack.status, stack.down, stack.info):
        with pytest.raises(SetupError, match="no stack in this directory"):
            command(open_dir)


def test_little_space(open_dir: Path) -> None:
    refused(open_dir, "MiB free on the disk", min_free_bytes=1 << 60)


@pytest.fixture
def small_disk(open_dir: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", open_dir], check=True)
    yield open_dir
    subprocess.run(["umount", open_dir], check=True)


@needs_root
def test_full_disk(small_disk: Path) -> None:
    refused(small_disk, r"only \d+ MiB free")
    # Past the check: the cluster does not fit, and Postgres' own words reach the reader.
    refused(small_disk, "No space left on device", min_free_bytes=0, port_base=0)
    assert not (small_disk / "postgres" / "cluster").exists()
    (small_disk / "filler").write_bytes(b"")
    with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(1 << 16))
            filler.flush()
    refused(small_disk, "the disk is full|No space left", min_free_bytes=0, port_base=0)


@needs_root
def test_unwritable_directory(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused(small_disk, "not writable")


@needs_root
def test_directory_that_postgres_may_not_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    error = refused(tmp_path / "inner", "cannot enter", port_base=0)
    assert "--data" in error.hint
