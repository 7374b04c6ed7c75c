"""Keys from the command line, over a ring and a root key in files of their own."""

import asyncio
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from entrepot.cli import main
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.open import open_ring
from entrepot.config import load
from tests.cli.test_mistakes import said

PASSPHRASE = {"ENTREPOT_KIT_PASSPHRASE": "correct horse battery"}


def write_settings(folder: Path, *, root: str = "root.key") -> Path:
    """Settings with a ring in ``folder``, and servers that nobody runs."""
    path = folder / f"{root}.yaml"
    settings: dict[str, Any] = {
        "minio": {"endpoint": "http://127.0.0.1:1", "access_key": "a", "secret_key": "a-secret-b"},
        "database": {"host": "127.0.0.1", "port": 1, "password": "a-secret-c"},
        "encryption": {"ring": str(folder / "keys"), "local": {"path": str(folder / root)}},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose ring has keys 1 and 2 of acme and key 1 of beta."""
    path = write_settings(tmp_path)
    assert keys("init", config=path).stdout.startswith(f"key ring {tmp_path}/keys, root key local:")

    async def fill() -> None:
        ring = open_ring(load(path))
        await ring.current("acme")
        await ring.rotate("acme")
        await ring.current("beta")
        await ring.close()

    asyncio.run(fill())
    return path


def keys(*arguments: str, config: Path, env: Mapping[str, str] = {}, code: int = 0) -> Result:
    """Run a command of keys in this process, which is quicker; it must end with ``code``."""
    ours: dict[str, str | None] = {name: None for name in os.environ if "ENTREPOT" in name}
    typed = ["keys", *arguments, "--config", str(config)]
    with chdir(config.parent):
        done = CliRunner().invoke(main, typed, env=ours | dict(env))
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def rows(*arguments: str, config: Path, env: Mapping[str, str] = {}) -> Any:
    return yaml.safe_load(keys(*arguments, "--json", config=config, env=env).stdout)


def secret(config: Path, tenant: str, number: int) -> bytes:
    async def get() -> bytes:
        ring = open_ring(load(config))
        try:
            return (await ring.get(tenant, number)).secret
        finally:
            await ring.close()

    return asyncio.run(get())


def test_a_ring_is_made_once(tmp_path: Path) -> None:
    config = write_settings(tmp_path)
    error, hint = said(keys("list", config=config, code=1).stderr)
    assert "no key ring" in error and "entrepot keys init" in hint
    keys("init", config=config)
    assert (tmp_path / "root.key").stat().st_mode & 0o777 == 0o600
    assert keys("list", config=config).stdout.startswith("no key yet")
    error, hint = said(keys("init", config=config, code=1).stderr)
    assert "a key ring already" in error and hint == "entrepot keys list"


def test_keys_are_listed_shown_and_rotated(config: Path) -> None:
    assert rows("list", config=config) == [
        {"tenant": "acme", "active": 2, "shredded": 0, "damaged": 0, "current": 2},
        {"tenant": "beta", "active": 1, "shredded": 0, "damaged": 0, "current": 1},
    ]
    assert rows("rotate", "acme", config=config) == {"tenant": "acme", "number": 3}
    told = keys("rotate", "acme", config=config).stdout
    assert "get key 4" in told and "entrepot keys export" in told
    shown = rows("show", "acme", config=config)
    assert [(row["number"], row["state"]) for row in shown] == [(n, "active") for n in (1, 2, 3, 4)]
    assert all(row["root"].startswith("local:") for row in shown)
    text = keys("show", "acme", config=config).stdout
    assert secret(config, "acme", 1).hex() not in text


@pytest.mark.parametrize("command", ["show", "rotate"])
def test_a_tenant_without_keys_is_a_slip(config: Path, command: str) -> None:
    error, hint = said(keys(command, "acne", config=config, code=1).stderr)
    assert "no key of this tenant" in error and hint == "entrepot keys list"
    assert [row["tenant"] for row in rows("list", config=config)] == ["acme", "beta"]


def test_every_key_is_wrapped_by_another_root(config: Path, tmp_path: Path) -> None:
    before = secret(config, "acme", 1)
    new = write_settings(tmp_path, root="other.key")
    error, _ = said(keys("rewrap", "--to", str(new), config=config, code=1).stderr)
    assert "no such secret" in error
    LocalRoot.create_file(tmp_path / "other.key")
    assert rows("rewrap", "--to", str(new), config=config)["rewrapped"] == 3
    (tmp_path / "root.key").unlink()
    assert secret(new, "acme", 1) == before
    told = keys("rewrap", "--to", str(new), config=new).stdout
    assert told.startswith("0 keys are now wrapped by local:")


# The kit


def test_a_lost_ring_and_root_come_back_from_the_kit(config: Path, tmp_path: Path) -> None:
    before, kit = secret(config, "acme", 2), tmp_path / "kit"
    told = keys("export", str(kit), config=config, env=PASSPHRASE).stdout
    assert f"entrepot object decrypt --kit {kit}" in told
    assert kit.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(tmp_path / "keys")
    (tmp_path / "root.key").unlink()

    wrong = {"ENTREPOT_KIT_PASSPHRASE": "another passphrase"}
    error, _ = said(keys("recover", str(kit), config=config, env=wrong, code=1).stderr)
    assert "passphrase is not this kit's" in error
    assert not (tmp_path / "keys").exists() and not (tmp_path / "root.key").exists()

    done = keys("recover", str(kit), config=config, env=PASSPHRASE)
    assert done.stdout == "keys of the kit: 3 added, 0 kept, 0 repaired, 0 shredded\n"
    assert done.stderr == f"made a new root key: {tmp_path}/root.key\n"
    assert secret(config, "acme", 2) == before
    again = rows("recover", str(kit), config=config, env=PASSPHRASE)
    assert again == {"added": 0, "kept": 3, "repaired": 0, "shredded": 0}


def test_a_lost_root_alone_is_replaced(config: Path, tmp_path: Path) -> None:
    before, kit = secret(config, "beta", 1), tmp_path / "kit"
    keys("export", str(kit), config=config, env=PASSPHRASE)
    (tmp_path / "root.key").unlink()
    done = keys("recover", str(kit), config=config, env=PASSPHRASE)
    assert "3 repaired" in done.stdout
    assert secret(config, "beta", 1) == before


def test_slips_with_kits(config: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    for env, words in (
        ({}, "no passphrase was given"),
        ({"ENTREPOT_KIT_PASSPHRASE": "short"}, "fewer than 12 characters"),
    ):
        error, hint = said(keys("export", str(kit), config=config, env=env, code=2).stderr)
        assert words in error and hint
    kit.write_text("mine")
    error, hint = said(keys("export", str(kit), config=config, env=PASSPHRASE, code=1).stderr)
    assert error.startswith("the file exists") and hint == "kits are never replaced"
    assert kit.read_text() == "mine"
    error, _ = said(keys("recover", str(kit), config=config, env=PASSPHRASE, code=1).stderr)
    assert "recovery kit is damaged" in error
    kit.write_bytes(b"\xff")
    error, _ = said(keys("recover", str(kit), config=config, env=PASSPHRASE, code=1).stderr)
    assert "no recovery kit" in error
    missing = str(tmp_path / "none")
    error, _ = said(keys("recover", missing, config=config, env=PASSPHRASE, code=1).stderr)
    assert "no such file" in error
    nowhere = str(tmp_path / "none/kit")
    error, _ = said(keys("export", nowhere, config=config, env=PASSPHRASE, code=1).stderr)
    assert "no such file or directory" in error


def at_a_terminal(*arguments: str, config: Path, answers: Sequence[str]) -> tuple[int, str]:
    """Run a command with a person at it, who answers questions; exit status and what was seen."""
    person, side = pty.openpty()
    env = {name: value for name, value in os.environ.items() if "ENTREPOT" not in name}
    command = [sys.executable, "-m", "entrepot.cli", "keys", *arguments, "--config", str(config)]
    with subprocess.Popen(
        command, env=env, stdin=side, stdout=side, stderr=side, start_new_session=True
    ) as process:
        os.close(side)
        waiting, seen = list(answers), b""
        try:
            while piece := os.read(person, 4096):
                seen += piece
                if waiting and seen.endswith(b": "):
                    os.write(person, waiting.pop(0).encode() + b"\n")
        except OSError:  # how Linux says that the other side has closed
            pass
        os.close(person)
        return process.wait(60), seen.decode()


def test_a_new_passphrase_is_typed_twice(config: Path, tmp_path: Path) -> None:
    kit, passphrase = tmp_path / "kit", "correct horse battery"
    answers = [passphrase, "another one", passphrase, passphrase]
    code, seen = at_a_terminal("export", str(kit), config=config, answers=answers)
    assert code == 0, seen
    assert passphrase not in seen
    assert "3 kept" in keys("recover", str(kit), config=config, env=PASSPHRASE).stdout


# Shredding


def test_shredding_says_what_is_lost_and_asks(config: Path) -> None:
    error, hint = said_last(keys("shred", "acme", config=config, code=2))
    assert "nobody confirmed it" in error and "--yes" in hint
    code, seen = at_a_terminal("shred", "acme", config=config, answers=["acne"])
    assert (code, "nothing was done" in seen) == (2, True)
    assert "any key (left: 1, 2) of acme" in seen
    assert "unknown, as the catalog cannot be reached" in seen
    assert rows("list", config=config)[0]["active"] == 2
    code, seen = at_a_terminal("shred", "acme", "--number", "1", config=config, answers=["acme"])
    assert (code, "shredded for acme: key 1" in seen) == (0, True)
    shown = rows("show", "acme", config=config)
    assert [row["state"] for row in shown] == ["shredded", "active"]


def said_last(done: Result) -> tuple[str, str]:
    """The error and hint behind what else was said."""
    return said(done.stderr[done.stderr.index("error: ") :])


def test_a_tenant_is_shredded_for_ever(config: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    keys("export", str(kit), config=config, env=PASSPHRASE)
    gone = rows("shred", "acme", "--yes", config=config)
    assert gone == {"tenant": "acme", "shredded": [1, 2]}
    error, _ = said(keys("rotate", "acme", config=config, code=1).stderr)
    assert "shredded" in error
    assert "2 shredded" in keys("recover", str(kit), config=config, env=PASSPHRASE).stdout
    assert len(secret(config, "beta", 1)) == 32


@pytest.mark.parametrize("arguments", [("acne",), ("acme", "--number", "7")])
def test_what_is_not_there_is_not_shredded(config: Path, arguments: tuple[str, ...]) -> None:
    error, hint = said(keys("shred", *arguments, "--yes", config=config, code=1).stderr)
    assert "no such key to shred" in error and hint.startswith("entrepot keys list")
