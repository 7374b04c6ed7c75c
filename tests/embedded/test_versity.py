"""A server that is not MinIO, as the tests start it."""

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from entrepot.embedded import binaries
from entrepot.embedded.minio import MinioCredentials
from entrepot.embedded.versity import VersityServer
from entrepot.errors import SetupError

CREDENTIALS = MinioCredentials("accesskey", SecretStr("in-a-test-only"))


def test_it_starts_on_loopback_only_and_stops(open_dir: Path) -> None:
    server = VersityServer(open_dir, CREDENTIALS).start()
    try:
        assert server.endpoint.startswith("http://127.0.0.1:")
        assert httpx.get(server.endpoint, trust_env=False).status_code == 403
    finally:
        server.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(server.endpoint, trust_env=False)


def test_a_file_system_without_attributes_is_refused() -> None:
    """``/proc`` keeps none."""
    from entrepot.embedded.versity import _need_attributes

    with pytest.raises(SetupError) as refused:
        _need_attributes(Path("/proc/self"))
    assert "ext4" in refused.value.hint


def test_a_program_is_known_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENTREPOT_VERSITYGW", str(binaries.versitygw()))
    assert binaries.versitygw() == Path(binaries.versitygw())
    other = tmp_path / "versitygw"
    other.write_text("#!/bin/sh\necho versitygw version 9\n")
    other.chmod(0o755)
    monkeypatch.setenv("ENTREPOT_VERSITYGW", str(other))
    with pytest.raises(SetupError, match="does not name a working versitygw"):
        binaries.versitygw()
