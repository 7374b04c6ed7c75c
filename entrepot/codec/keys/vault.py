"""A root key in HashiCorp Vault or OpenBao: ``encrypt`` and ``decrypt`` of a transit engine.

The key never leaves the server. What a tenant key is bound to travels as ``associated_data``, so
the transit key has to be of an AEAD type (``aes256-gcm96``, the default). A wrapped key is the
server's own text, ``vault:v1:...``; rotating the transit key there needs nothing here.

API: https://openbao.org/api-docs/secret/transit/
"""

import base64
import binascii
import ssl
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
from pydantic import SecretStr

from entrepot.codec.keys import files
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    IntegrityError,
    SetupError,
    Throttled,
    Unavailable,
)

TIMEOUT_S: Final = 5.0
"""For one call: transit answers in milliseconds, and a gateway's request waits for it."""

Token: TypeAlias = SecretStr | Path


class VaultRoot:
    """A ``Root`` in the transit engine at ``mount``.

    Args:
        address: ``http(s)://host:port`` of the server.
        token: the token, or the file that an agent keeps a current one in (read for each call).
        key_name: the transit key; it has to be there, nothing makes it.
        namespace: of the server, where it has namespaces.
        ca_file: PEM file of the authority that signed the server's certificate; ``None`` takes
            those of the system.
    """

    def __init__(
        self,
        address: str,
        token: Token,
        key_name: str,
        *,
        mount: str = "transit",
        namespace: str | None = None,
        ca_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        place = f"{mount.strip('/')}/keys/{key_name}"
        self.name = f"vault:{namespace.strip('/')}/{place}" if namespace else f"vault:{place}"
        self._token = token
        self._mount, self._key_name = mount.strip("/"), key_name
        self._client = httpx.AsyncClient(
            base_url=f"{address.rstrip('/')}/v1/",
            headers={"X-Vault-Namespace": namespace} if namespace else {},
            timeout=timeout_s,
            verify=_context(ca_file),
            trust_env=False,  # a proxy of the environment must not see the token
            follow_redirects=False,  # nor must another host; a standby forwards by itself
        )

    async def wrap(self, secret: bytes, *, context: str) -> bytes:
        answer = await self._call("encrypt", {"plaintext": _base64(secret)}, context)
        try:
            return str(answer["ciphertext"]).encode()
        except KeyError as error:
            raise _no_vault(self.name) from error

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        try:
            text = wrapped.decode("ascii")
        except UnicodeDecodeError as error:
            raise IntegrityError("wrapped key is damaged", root=self.name) from error
        answer = await self._call("decrypt", {"ciphertext": text}, context)
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise _no_vault(self.name) from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(self, verb: str, body: dict[str, str], context: str) -> dict[str, Any]:
        body = {**body, "associated_data": _base64(context.encode())}
        try:
            answer = await self._client.post(
                f"{self._mount}/{verb}/{self._key_name}",
                json=body,
                headers={"X-Vault-Token": self._current_token()},
            )
        except httpx.TransportError as error:
            raise Unavailable(
                f"vault does not answer: {str(error) or type(error).__name__}",
                hint="start it, or check encryption.vault.address",
                root=self.name,
            ) from error
        if answer.is_success:
            try:
                found = answer.json()["data"]
            except (ValueError, KeyError, TypeError) as error:
                raise _no_vault(self.name) from error
            if isinstance(found, dict):
                return found
            raise _no_vault(self.name)
        raise self._refusal(verb, answer)

    def _current_token(self) -> str:
        if isinstance(self._token, SecretStr):
            return self._token.get_secret_value()
        try:
            return files.load_secret(self._token).decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise AccessDenied("file holds no token", path=str(self._token)) from error

    def _refusal(self, verb: str, answer: httpx.Response) -> EntrepotError:
        """The error for an answer that is none; status codes as Vault's API documents them."""
        status, said = answer.status_code, _said(answer)
        if status == 403:
            return AccessDenied(
                f"vault refuses the token: {said}",
                hint="renew it; its policy needs update on encrypt/ and decrypt/ of the key",
                root=self.name,
            )
        if status == 429:
            return Throttled("vault asks to slow down", root=self.name)
        if status == 503 and "sealed" in said:
            return Unavailable("vault is sealed", hint="bao operator unseal", root=self.name)
        if status >= 500 or status in (307, 412, 472, 473):  # a standby, or a replica that lags
            return Unavailable(f"vault answers {status}: {said}", root=self.name)
        if status == 400 and verb == "decrypt" and "key not found" not in said:
            return IntegrityError(
                "vault cannot unwrap this: another key, another place or damage", root=self.name
            )
        return SetupError(
            f"vault answers {status}: {said}",
            hint=f"bao write -f {self._mount}/keys/{self._key_name}, of type aes256-gcm96",
            root=self.name,
        )


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise SetupError(
            "certificates of Vault's authority cannot be read",
            hint="check encryption.vault.ca_file",
            path=str(ca_file),
        ) from error


def _said(answer: httpx.Response) -> str:
    """The server's own words, which never repeat token or plaintext; at most 200 characters."""
    try:
        lines = answer.json()["errors"]
        text = "; ".join(str(line) for line in lines)
    except (ValueError, KeyError, TypeError):
        text = ""
    return " ".join(text.split())[:200] or "no reason given"


def _no_vault(root: str) -> SetupError:
    return SetupError("answer is not Vault's", hint="check encryption.vault.address", root=root)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
