"""Which Postgres is chosen, and that an unprivileged user can run it."""

import os
import shutil
from pathlib import Path

import pytest

from entrepot.embedded.pginstall import choose_install, service_account
from entrepot.errors import SetupError


def test_newest_is_chosen_and_supports_incremental_backups() -> None:
    chosen = choose_install(None)
    assert chosen.version >= (17, 0)
    assert (chosen.bin_dir / "pg_combinebackup").exists()


def test_a_cluster_demands_its_own_major() -> None:
    with pytest.raises(SetupError, match="no PostgreSQL 9, which made this cluster") as caught:
        choose_install(None, major=9)
    assert "ENTREPOT_POSTGRES" in caught.value.hint


def test_variable_decides_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_POSTGRES", str(tmp_path))
    with pytest.raises(SetupError, match="lacks postgres, initdb, pg_basebackup"):
        choose_install(None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_install_behind_a_closed_directory_is_copied(
    tmp_path: Path, open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "pg"
    shutil.copytree(choose_install(None).bin_dir.parent, closed, symlinks=True)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ENTREPOT_POSTGRES", str(closed / "bin"))
    monkeypatch.setenv("ENTREPOT_CACHE", str(open_dir))
    account = service_account(open_dir)
    assert account
    chosen = choose_install(account)
    assert chosen.bin_dir.is_relative_to(open_dir)
    assert choose_install(account) == chosen
    monkeypatch.setenv("ENTREPOT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SetupError, match="cannot enter the cache"):
        choose_install(account)
