"""From settings to a ring: each way to keep the root key, and what is missing or contradicts."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from entrepot.clock import new_bytes
from entrepot.codec.keys.open import open_ring, ring_path
from entrepot.config import Config
from entrepot.errors import AccessDenied, ConfigError, EntrepotError, SetupError
from tests.codec.keys.servers import REGION, BaoServer, KmsServer


def config(**encryption: Any) -> Config:
    return Config.model_validate({"encryption": encryption})


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tls-key").write_bytes(new_bytes(32))
    (tmp_path / "tls-key").chmod(0o400)
    return {"ENTREPOT_DATA": str(tmp_path / "data"), "CREDENTIALS_DIRECTORY": str(tmp_path)}


async def expect_the_same_after_a_restart(settings: Config, env: dict[str, str]) -> str:
    first = open_ring(settings, create=True, env=env)
    key = await first.current("acme")
    await first.close()
    again = open_ring(settings, env=env)
    assert await again.current("acme") == key
    await again.close()
    return again.health.root


async def test_without_settings_all_lies_in_the_data_directory(env: dict[str, str]) -> None:
    name = await expect_the_same_after_a_restart(config(), env)
    assert name.startswith("local:")
    data = Path(env["ENTREPOT_DATA"])
    assert (data / "root.key").stat().st_size == 32
    assert ring_path(config(), env=env) == data / "keys"


async def test_a_root_key_and_a_ring_in_places_of_their_own(
    env: dict[str, str], tmp_path: Path
) -> None:
    places = {"ring": str(tmp_path / "ring"), "local": {"path": str(tmp_path / "safe/root.key")}}
    await expect_the_same_after_a_restart(config(**places), env)
    assert (tmp_path / "safe/root.key").exists()
    assert not (tmp_path / "data").exists()


async def test_a_passphrase(env: dict[str, str]) -> None:
    settings = config(local={"passphrase": "correct horse battery staple"})
    name = await expect_the_same_after_a_restart(settings, env)
    assert name.startswith("passphrase:")
    assert not (Path(env["ENTREPOT_DATA"]) / "root.key").exists()
    wrong = open_ring(config(local={"passphrase": "correct horse battery"}), env=env)
    with pytest.raises(AccessDenied, match="wrapped by passphrase:"):
        await wrong.current("acme")


async def test_a_credential(env: dict[str, str]) -> None:
    await expect_the_same_after_a_restart(config(local={"credential": "tls-key"}), env)


async def test_a_vault(env: dict[str, str], bao: BaoServer) -> None:
    key = bao.new_key()
    token = bao.token(key, "encrypt", "decrypt").get_secret_value()
    vault = {"address": bao.address, "token": token, "key_name": key}
    name = await expect_the_same_after_a_restart(
        config(enabled=True, key_management="vault", vault=vault), env
    )
    assert name == f"vault:transit/keys/{key}"


async def test_a_key_service(env: dict[str, str], kms: KmsServer) -> None:
    where = {
        "endpoint": kms.endpoint,
        "key_id": kms.new_key(),
        "region": REGION,
        **KmsServer.ACCESS,
    }
    name = await expect_the_same_after_a_restart(
        config(enabled=True, key_management="kms", kms=where), env
    )
    assert name == f"kms:{where['key_id']}"


def test_only_init_makes_a_ring(env: dict[str, str]) -> None:
    with pytest.raises(SetupError, match="no key ring"):
        open_ring(config(), env=env)
    assert not Path(env["ENTREPOT_DATA"]).exists()


def test_a_lost_root_key_is_not_replaced(env: dict[str, str]) -> None:
    open_ring(config(), create=True, env=env)
    root_key = Path(env["ENTREPOT_DATA"]) / "root.key"
    root_key.unlink()
    for create in (False, True):
        with pytest.raises(SetupError, match="no such secret"):
            open_ring(config(), create=create, env=env)
    assert not root_key.exists()


def test_an_init_that_was_killed_is_run_again(env: dict[str, str]) -> None:
    """Between the root key and the ring."""
    open_ring(config(), create=True, env=env)
    data = Path(env["ENTREPOT_DATA"])
    (data / "keys/ring.json").unlink()
    before = (data / "root.key").read_bytes()
    open_ring(config(), create=True, env=env)
    assert (data / "root.key").read_bytes() == before


def test_the_time_that_keys_are_held_is_the_settings(env: dict[str, str]) -> None:
    ring = open_ring(config(cache_ttl="90s"), create=True, env=env)
    assert ring._ttl_s == 90


@pytest.mark.parametrize(
    "encryption",
    [
        {"key_management": "vault"},
        {"key_management": "vault", "vault": {"address": "http://127.0.0.1:1"}},
        {"key_management": "kms"},
        {"key_management": "kms", "kms": {"key_id": "k"}},
    ],
    ids=str,
)
def test_a_root_that_is_not_set_up_says_which_setting(
    env: dict[str, str], encryption: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_ring(config(**encryption), create=True, env=env)
    assert f"encryption.{encryption['key_management']}." in caught.value.hint
    with pytest.raises(ValidationError, match="required"):
        config(enabled=True, **encryption)


@pytest.mark.parametrize(
    "encryption",
    [
        {"local": {"path": "/a", "passphrase": "correct horse battery"}},
        {"local": {"credential": "../a"}},
        {"local": {"credential": "a/b"}},
        {"vault": {"token": "t", "token_file": "/t"}},
        {"vault": {"mount": "../sys"}},
        {"vault": {"mount": "a//b"}},
        {"vault": {"key_name": "a/b"}},
        {"vault": {"address": "http://user@127.0.0.1"}},
        {"kms": {"access_key": "a"}},
        {"kms": {"secret_key": "a"}},
        {"cache_ttl": "0s"},
    ],
    ids=str,
)
def test_settings_that_contradict_or_leave_their_place_are_refused(
    encryption: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        config(**encryption)


def test_secrets_of_the_settings_are_masked(env: dict[str, str]) -> None:
    made = config(
        local={"passphrase": "the passphrase"}, vault={"token": "the token"}, kms=KmsServer.ACCESS
    )
    values = {secret.get_secret_value() for secret in made.secrets()}
    assert values == {"the passphrase", "the token", "in-a-test-only"}
    assert "the passphrase" not in repr(made) + str(made)
    with pytest.raises(EntrepotError) as caught:
        open_ring(config(local={"passphrase": "tooshort"}), create=True, env=env)
    assert "tooshort" not in str(caught.value) + caught.value.hint


def test_a_root_key_that_is_there_is_taken(env: dict[str, str]) -> None:
    data = Path(env["ENTREPOT_DATA"])
    data.mkdir()
    (data / "root.key").write_bytes(bytes(32))
    (data / "root.key").chmod(0o600)
    open_ring(config(), create=True, env=env)
    assert (data / "root.key").read_bytes() == bytes(32)
