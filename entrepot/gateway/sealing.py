"""What a webhook keeps sealed in Postgres: its secret, and the parameters that no payload changes.

Invariant: the newest key of ``security.secrets_key`` (the first of the comma-separated ones)
seals, each of them opens, so a key is rotated by putting the new one in front. A seal names its
webhook, so whoever can write to Postgres can neither alter it nor move it to another row.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from entrepot.errors import ConfigError, IntegrityError


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of a webhook's secret is granted, apart from what Postgres shows."""

    secret: bytes = field(repr=False)
    fixed_parameters: Mapping[str, Any]


class Sealer:
    """Seals and opens grants.

    Args:
        keys: one Fernet key or several separated by commas, newest first. ``ConfigError`` where
            there is none or one is malformed.
    """

    def __init__(self, keys: SecretStr | None) -> None:
        texts = [key.strip() for key in (keys.get_secret_value() if keys else "").split(",")]
        try:
            self._fernet = MultiFernet([Fernet(key) for key in texts if key])
        except ValueError as error:  # malformed, or none at all
            raise ConfigError(
                "security.secrets_key must be one or more Fernet keys",
                hint='python -c "import cryptography.fernet as f;'
                ' print(f.Fernet.generate_key().decode())"',
            ) from error

    def seal(self, grant: Grant, *, webhook: str) -> bytes:
        """``grant`` under the newest key, authenticated, for the webhook of that name."""
        inner = {
            "webhook": webhook,
            "secret": base64.b64encode(grant.secret).decode(),
            "fixed": dict(grant.fixed_parameters),
        }
        return self._fernet.encrypt(json.dumps(inner).encode())

    def open(self, sealed: bytes, *, webhook: str) -> Grant:
        """The grant; ``IntegrityError`` where no key opens it or it is another webhook's."""
        try:
            inner = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise IntegrityError(
                "a webhook's secret cannot be opened",
                hint="put the key that sealed it back into security.secrets_key",
                webhook=webhook,
            ) from error
        if inner["webhook"] != webhook:
            raise IntegrityError("a webhook's row holds the secret of another", webhook=webhook)
        return Grant(base64.b64decode(inner["secret"]), inner["fixed"])
