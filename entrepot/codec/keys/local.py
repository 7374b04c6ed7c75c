"""A root key in this process: from a file, a passphrase or a credential of systemd.

A wrapped key is ``salt (16) ‖ GCM(HKDF(root key, salt, "entrepot/1 wrap"), 12 zero bytes, context,
secret)``. ``docs/keys.md`` says when a local root is good enough: who reads its file and
the ring reads every object.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import SecretStr

from entrepot.clock import new_bytes
from entrepot.codec.keys import files, passphrase
from entrepot.codec.keys.passphrase import USUAL_COST, ScryptCost
from entrepot.codec.keys.sealing import open_seal, seal
from entrepot.codec.primitives import KEY_BYTES, derive
from entrepot.config.paths import environment
from entrepot.errors import AlreadyExists, SetupError

_INFO: Final = b"entrepot/1 wrap"


class LocalRoot:
    """A ``Root`` whose key is held in memory; it has no outages."""

    def __init__(self, key: bytes, *, kind: str = "local") -> None:
        if len(key) != KEY_BYTES:
            raise SetupError(f"a root key has {KEY_BYTES} bytes, this has {len(key)}")
        self._key = key
        # Tells two roots of a kind apart; 32 bits of a hash say nothing of 256 random ones.
        fingerprint = derive(key, salt=b"", info=b"entrepot/1 root name")[:4].hex()
        self.name = f"{kind}:{fingerprint}"

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The 32 bytes of ``path``, which must be ours alone (0600).

        Raises ``SetupError`` where it is missing or of another size, ``AccessDenied`` where others
        can read it.
        """
        return cls(_of_size(path, files.load_secret(path)))

    @classmethod
    def create_file(cls, path: Path) -> Self:
        """A new random key in a new file; ``AlreadyExists`` where there is one."""
        with files.disk_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            files.publish(path, new_bytes(KEY_BYTES))
        except FileExistsError as error:
            raise AlreadyExists("there is a root key already", path=str(path)) from error
        return cls.from_file(path)

    @classmethod
    def from_passphrase(
        cls, text: SecretStr, *, salt: bytes, cost: ScryptCost = USUAL_COST
    ) -> Self:
        """The key that scrypt makes of ``text``; blocks for as long as ``cost`` says.

        ``salt`` is the ring's own. ``InvalidInput`` where the passphrase is too short.
        """
        passphrase.check_new(text)
        return cls(passphrase.stretch(text, salt=salt, cost=cost), kind="passphrase")

    @classmethod
    def from_systemd_credential(cls, name: str, *, env: Mapping[str, str] | None = None) -> Self:
        """The 32 bytes of the credential ``name`` that systemd handed this service.

        systemd.exec(5), ``LoadCredentialEncrypted=``: the file is root's, and an access list lets
        the service read it, which shows as the group's bits; only the others' bits are refused.
        """
        directory = environment(env).get("CREDENTIALS_DIRECTORY")
        if not directory or not name or Path(name).name != name:
            raise SetupError(
                "systemd gave this process no such credential",
                hint=f"add LoadCredentialEncrypted={name} to the unit",
                credential=name,
            )
        path = Path(directory) / name
        key = files.load_secret(path, foreign_bits=0o027, root_may_own=True)
        return cls(_of_size(path, key))

    async def wrap(self, secret: bytes, *, context: str) -> bytes:
        return seal(self._key, secret, info=_INFO, aad=context.encode())

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        return open_seal(self._key, wrapped, info=_INFO, aad=context.encode())

    async def close(self) -> None:
        """Nothing is open. Python keeps no promise to wipe memory, so none is made here."""


def _of_size(path: Path, key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise SetupError(
            f"a root key has {KEY_BYTES} bytes, this file has {len(key)}",
            hint="put the right file back; a new one: entrepot keys init",
            path=str(path),
        )
    return key
