"""Building programs through the Go module proxy, once, checked on every use."""

import json
import threading
import zipfile
from pathlib import Path

import pytest

from entrepot.embedded import binaries, golang
from entrepot.embedded.process import free_port
from entrepot.errors import IntegrityError, SetupError

HELLO = "example.com/hello"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENTREPOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def module_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module proxy in a directory that serves one tiny program."""
    versions = tmp_path / "proxy" / HELLO / "@v"
    versions.mkdir(parents=True)
    files = {
        "go.mod": f"module {HELLO}\n\ngo 1.24\n",
        "main.go": 'package main\n\nfunc main() { println("hello") }\n',
    }
    (versions / "list").write_text("v1.0.0\n")
    (versions / "v1.0.0.info").write_text(json.dumps({"Version": "v1.0.0"}))
    (versions / "v1.0.0.mod").write_text(files["go.mod"])
    with zipfile.ZipFile(versions / "v1.0.0.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{HELLO}@v1.0.0/{name}", text)
    monkeypatch.setenv("GOPROXY", (tmp_path / "proxy").as_uri())
    monkeypatch.setenv("GONOSUMDB", HELLO)
    monkeypatch.setenv("GOFLAGS", "-modcacherw")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))


def build_hello(**options: str) -> Path:
    return golang.build(f"{HELLO}@v1.0.0", program="hello", variable="ENTREPOT_HELLO")


@pytest.mark.usefixtures("module_proxy")
def test_two_builders_build_once_and_a_changed_program_is_refused(cache: Path) -> None:
    lines: list[str] = []
    found: list[Path] = []

    def one() -> None:
        found.append(golang.build(f"{HELLO}@v1.0.0", program="hello", progress=lines.append))

    builders = [threading.Thread(target=one) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert found == [cache / "bin" / "hello-v1.0.0"] * 2
    assert len([line for line in lines if line.startswith("building")]) == 1
    assert "waiting for another build of the same program" in lines
    left = {path.name for path in (cache / "bin").iterdir()}
    assert left == {"hello-v1.0.0", "hello-v1.0.0.sha256", "hello-v1.0.0.lock"}

    with found[0].open("ab") as program:
        program.write(b"!")
    with pytest.raises(IntegrityError, match="not the one that was built") as caught:
        build_hello()
    assert f"rm {found[0]}" in caught.value.hint
    found[0].unlink()
    assert build_hello() == found[0]


@pytest.mark.usefixtures("module_proxy")
def test_unreachable_module_proxy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("off", f"http://127.0.0.1:{free_port()}"):
        monkeypatch.setenv("GOPROXY", proxy)
        with pytest.raises(SetupError, match="module proxy cannot be reached") as caught:
            build_hello()
        assert "GOPROXY" in caught.value.hint
        assert "ENTREPOT_HELLO" in caught.value.hint
    assert [path.name for path in (cache / "bin").iterdir()] == ["hello-v1.0.0.lock"]


def test_wrong_program_in_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_MINIO", "/bin/true")
    with pytest.raises(SetupError, match="does not name a working minio"):
        binaries.minio()


@pytest.mark.usefixtures("cache", "module_proxy")
def test_midnight_commander_is_not_taken_for_mc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commander = tmp_path / "bin" / "mc"
    commander.parent.mkdir()
    commander.write_text("#!/bin/sh\necho GNU Midnight Commander 4.8.29\n")
    commander.chmod(0o755)
    monkeypatch.delenv("ENTREPOT_MC", raising=False)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(commander.parent), prepend=":")
        with pytest.raises(SetupError, match=r"cannot fetch|failed"):  # it goes on to build ours
            binaries.mc()
    commander.write_text("#!/bin/sh\necho mc version RELEASE.2025\n")
    monkeypatch.setenv("PATH", str(commander.parent), prepend=":")
    assert binaries.mc() == commander


def test_a_program_of_our_cache_may_be_named_in_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file name holds the version, and Go programs say their file name (found by a build)."""
    for find, name in ((binaries.minio, "ENTREPOT_MINIO"), (binaries.mc, "ENTREPOT_MC")):
        built = find()
        versioned = tmp_path / f"{name.removeprefix('ENTREPOT_').lower()}-v0.0.0-20260212"
        versioned.symlink_to(built)
        monkeypatch.setenv(name, str(versioned))
        assert find() == versioned
