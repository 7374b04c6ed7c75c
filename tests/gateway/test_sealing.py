"""Secrets at rest: sealed under the newest key, opened by any."""

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from entrepot.errors import ConfigError, IntegrityError
from entrepot.gateway.sealing import Grant, Sealer

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
GRANT = Grant(b"secret", {"rule": "nightly"})


def test_a_key_can_be_rotated() -> None:
    sealed = Sealer(SecretStr(OLD)).seal(GRANT, webhook="w")
    both = Sealer(SecretStr(f"{NEW}, {OLD}"))
    assert b"nightly" not in sealed
    assert both.open(sealed, webhook="w") == GRANT
    assert Sealer(SecretStr(NEW)).open(both.seal(GRANT, webhook="w"), webhook="w") == GRANT


def test_a_seal_cannot_be_moved_to_another_webhook() -> None:
    sealer = Sealer(SecretStr(OLD))
    with pytest.raises(IntegrityError):
        sealer.open(sealer.seal(GRANT, webhook="mine"), webhook="yours")


@pytest.mark.parametrize("damage", [b"", b"x", b"gAAAAA"])
def test_what_no_key_opens_is_an_integrity_error(damage: bytes) -> None:
    with pytest.raises(IntegrityError):
        Sealer(SecretStr(NEW)).open(damage, webhook="w")
    with pytest.raises(IntegrityError):
        Sealer(SecretStr(NEW)).open(Sealer(SecretStr(OLD)).seal(GRANT, webhook="w"), webhook="w")


@pytest.mark.parametrize("keys", [None, SecretStr(""), SecretStr(","), SecretStr("short")])
def test_without_a_key_nothing_starts(keys: SecretStr | None) -> None:
    with pytest.raises(ConfigError):
        Sealer(keys)
