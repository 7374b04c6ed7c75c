"""Building programs with cargo."""

from pathlib import Path

import pytest

from entrepot.embedded import binaries
from entrepot.errors import SetupError


def test_without_cargo_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ENTREPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENTREPOT_GARAGE", raising=False)
    with pytest.raises(SetupError, match="no cargo on PATH") as refused:
        binaries.garage()
    assert "ENTREPOT_GARAGE" in refused.value.hint


def test_cargo_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text("#!/bin/sh\necho 'error: no space for it' >&2\nexit 101\n")
    cargo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ENTREPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENTREPOT_GARAGE", raising=False)
    with pytest.raises(SetupError, match="error: no space for it"):
        binaries.garage()
    assert not list((tmp_path / "cache" / "bin").glob("garage-*[!k]"))
