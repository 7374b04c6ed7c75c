"""The key ring of the settings, section ``encryption``.

Invariant: a root key is made together with its ring and at no other time. A ring whose root key is
gone stays closed until it comes back or a recovery kit is used.
"""

from collections.abc import Mapping
from pathlib import Path

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.codec.keys.directory import RingDirectory
from entrepot.codec.keys.kms import KmsRoot
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.codec.keys.root import Root
from entrepot.codec.keys.vault import VaultRoot
from entrepot.config import Config, data_dir
from entrepot.errors import ConfigError

Env = Mapping[str, str] | None
"""Stands in for the environment of the process, where given."""


def ring_path(config: Config, *, env: Env = None) -> Path:
    """Where the ring lies: ``encryption.ring``, else ``keys`` in the data directory."""
    return config.encryption.ring or data_dir(env) / "keys"


def open_ring(
    config: Config, *, create: bool = False, env: Env = None, clock: Clock = SYSTEM_CLOCK
) -> KeyRing:
    """The ring with its root, not yet asked. Blocks for disk accesses, and for scrypt.

    With ``create``, a ring is made where its directory is missing or empty, and then also the file
    of a local root key where there is none. Raises ``SetupError`` where either is missing
    otherwise, ``AccessDenied`` where others can read them, ``ConfigError`` for a missing setting.
    """
    path = ring_path(config, env=env)
    if create:
        file = _local_file(config, env)
        if file and not file.exists() and not (path / "ring.json").exists():
            LocalRoot.create_file(file)
        RingDirectory.create(path, clock=clock)
    salt = RingDirectory(path).salt
    root = open_root(config, salt=salt, env=env)
    ttl_s = config.encryption.cache_ttl / 1000
    return KeyRing(path, root, ttl_s=ttl_s, create=False, clock=clock)


def open_root(config: Config, *, salt: bytes, env: Env = None) -> Root:
    """The root of ``encryption.key_management``; ``salt`` is the ring's, for a passphrase."""
    match config.encryption.key_management:
        case "local":
            return _local(config, salt, env)
        case "vault":
            return _vault(config)
        case "kms":
            return _kms(config)


def _local_file(config: Config, env: Env) -> Path | None:
    local = config.encryption.local
    if config.encryption.key_management != "local" or local.passphrase or local.credential:
        return None
    return local.path or data_dir(env) / "root.key"


def _local(config: Config, salt: bytes, env: Env) -> Root:
    local = config.encryption.local
    if local.passphrase:
        return LocalRoot.from_passphrase(local.passphrase, salt=salt)
    if local.credential:
        return LocalRoot.from_systemd_credential(local.credential, env=env)
    file = _local_file(config, env)
    assert file, "what is neither passphrase nor credential is a file"
    return LocalRoot.from_file(file)


def _vault(config: Config) -> Root:
    vault = config.encryption.vault
    token = vault.token or vault.token_file
    if vault.address is None or token is None:
        raise _missing("encryption.vault.address and encryption.vault.token (or token_file)")
    return VaultRoot(
        vault.address,
        token,
        vault.key_name,
        mount=vault.mount,
        namespace=vault.namespace,
        ca_file=vault.ca_file,
    )


def _kms(config: Config) -> Root:
    kms = config.encryption.kms
    if kms.endpoint is None or kms.key_id is None:
        raise _missing("encryption.kms.endpoint and encryption.kms.key_id")
    return KmsRoot(
        kms.endpoint,
        kms.key_id,
        region=kms.region or config.minio.region,
        access_key=kms.access_key,
        secret_key=kms.secret_key,
    )


def _missing(keys: str) -> ConfigError:
    return ConfigError("root key is not set up", hint=f"set {keys} in config.yaml")
