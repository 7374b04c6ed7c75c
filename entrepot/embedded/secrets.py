"""The credentials of one data directory: random, in one file of mode 0600, never printed.

Invariant: they are made once. A data directory whose file is gone is refused, because new
credentials would not open the data. The keys are the variables that ``config.yaml`` refers to; the
config loader reads the file from beside it. The token of notifications opens no data: an older file
gets it, made from another credential.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from entrepot.clock import new_bytes, new_token
from entrepot.codec.primitives import derive
from entrepot.embedded.paths import write_text
from entrepot.errors import SetupError


@dataclass(frozen=True)
class Secrets:
    """Each field is one variable ``ENTREPOT_<FIELD>`` of the file."""

    minio_access_key: SecretStr
    minio_secret_key: SecretStr
    db_password: SecretStr
    prefect_auth: SecretStr
    secrets_key: SecretStr
    postgres_superuser_password: SecretStr
    prefect_db_password: SecretStr
    prefect_encryption_key: SecretStr
    notify_token: SecretStr


_FIELDS = tuple(Secrets.__dataclass_fields__)


def create(path: Path) -> Secrets:
    """Make new credentials and write them to ``path``."""
    made = {
        "minio_access_key": new_token(12),
        "minio_secret_key": new_token(24),  # MinIO takes 8 to 40 characters
        "db_password": new_token(),
        "prefect_auth": f"entrepot:{new_token()}",
        "secrets_key": _fernet_key(),
        "postgres_superuser_password": new_token(),
        "prefect_db_password": new_token(),
        "prefect_encryption_key": _fernet_key(),
        "notify_token": new_token(),
    }
    lines = [f"{_variable(field)}={made[field]}\n" for field in _FIELDS]
    write_text(path, "".join(lines), mode=0o600)
    return load(path)


def load(path: Path) -> Secrets:
    """Read the file; closes it to others first if somebody opened it."""
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise SetupError(
            "the credentials of this data directory are gone, and its data needs them",
            hint="put the file back from a copy, or start afresh with --data DIR",
            path=str(path),
        ) from error
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    if _NOTIFY not in found and _variable("secrets_key") in found:
        found[_NOTIFY] = _notify_token(found[_variable("secrets_key")])
        text = "".join(f"{line}\n" for line in (*lines, f"{_NOTIFY}={found[_NOTIFY]}"))
        write_text(path, text, mode=0o600)
    missing = [_variable(field) for field in _FIELDS if _variable(field) not in found]
    if missing:
        raise SetupError(
            f"the credentials file lacks {', '.join(missing)}",
            hint="put the file back from a copy, or start afresh with --data DIR",
            path=str(path),
        )
    return Secrets(**{field: SecretStr(found[_variable(field)]) for field in _FIELDS})


def _variable(field: str) -> str:
    return f"ENTREPOT_{field.upper()}"


_NOTIFY = _variable("notify_token")


def _notify_token(secrets_key: str) -> str:
    """The same whoever asks, so two that complete an older file write the same."""
    return derive(secrets_key.encode(), salt=b"", info=b"entrepot/1 notifications").hex()


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(new_bytes(32)).decode()
