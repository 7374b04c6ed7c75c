"""A root key in a service that speaks AWS KMS: ``Encrypt`` and ``Decrypt`` with a context.

The key never leaves the service. What a tenant key is bound to travels as ``EncryptionContext``,
which the service authenticates and writes to its audit log. Calls run on threads, because boto3
blocks; it is an extra (``entrepot[kms]``), and no other root needs it.

API: https://docs.aws.amazon.com/kms/latest/APIReference/
"""

import asyncio
import logging
from typing import Any, Final

from pydantic import SecretStr

from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    IntegrityError,
    SetupError,
    Throttled,
    Unavailable,
)

TIMEOUT_S: Final = 5.0
"""To connect, and to answer: KMS takes milliseconds, and a gateway's request waits for it."""

_KINDS: Final[dict[str, type[EntrepotError]]] = {
    "InvalidCiphertextException": IntegrityError,
    "IncorrectKeyException": IntegrityError,
    "AccessDenied": AccessDenied,
    "AccessDeniedException": AccessDenied,
    "UnrecognizedClientException": AccessDenied,
    "InvalidClientTokenId": AccessDenied,
    "InvalidSignatureException": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "IncompleteSignature": AccessDenied,
    "MissingAuthenticationToken": AccessDenied,
    "MissingAuthenticationTokenException": AccessDenied,
    "ExpiredTokenException": AccessDenied,
    "DisabledException": AccessDenied,
    "KMSInvalidStateException": AccessDenied,
    "ThrottlingException": Throttled,
    "LimitExceededException": Throttled,
    "KeyUnavailableException": Unavailable,
    "DependencyTimeoutException": Unavailable,
    "KMSInternalException": Unavailable,
}
"""Error codes of the service; of others, those with a status of 5xx are ``Unavailable``."""


class KmsRoot:
    """A ``Root`` in a key service.

    Args:
        endpoint: URL of the service.
        key_id: id, ARN or alias of a symmetric key there.
        access_key, secret_key: both, or neither for those that boto3 finds (environment, profile,
            role of the machine).
    """

    def __init__(
        self,
        endpoint: str,
        key_id: str,
        *,
        region: str,
        access_key: str | None = None,
        secret_key: SecretStr | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.name = f"kms:{key_id}"
        self._key_id = key_id
        self._sdk = _Sdk()
        self._client = self._sdk.client(
            endpoint_url=endpoint,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key.get_secret_value() if secret_key else None,
            timeout_s=timeout_s,
        )

    async def wrap(self, secret: bytes, *, context: str) -> bytes:
        return await self._call("encrypt", context, "CiphertextBlob", Plaintext=secret)

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        if not wrapped:  # which boto3 would refuse by itself
            raise IntegrityError("wrapped key is empty", root=self.name)
        return await self._call("decrypt", context, "Plaintext", CiphertextBlob=wrapped)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def _call(self, verb: str, context: str, field: str, **body: bytes) -> bytes:
        call = getattr(self._client, verb)
        try:
            answer = await asyncio.to_thread(
                call, KeyId=self._key_id, EncryptionContext={"entrepot": context}, **body
            )
            return bytes(answer[field])
        except self._sdk.errors as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> EntrepotError:
        if isinstance(error, self._sdk.refusal):
            return self._refusal(error)
        if isinstance(error, self._sdk.no_answer):
            return Unavailable(
                f"key service does not answer: {type(error).__name__}",
                hint="start it, or check encryption.kms.endpoint",
                root=self.name,
            )
        kind = AccessDenied if "Credentials" in type(error).__name__ else SetupError
        return kind(
            f"key service cannot be asked: {type(error).__name__}",
            hint="check the keys of encryption.kms",
            root=self.name,
        )

    def _refusal(self, error: Any) -> EntrepotError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        kind = _KINDS.get(code) or (Unavailable if status >= 500 else SetupError)
        hint = ""
        if kind is AccessDenied:
            hint = "check the credentials, the key's policy and that it is enabled"
        elif kind is SetupError:
            hint = "check encryption.kms.key_id and encryption.kms.region"
        return kind(f"key service answers {code or status}", hint=hint, root=self.name)


class _Sdk:
    """boto3, imported when a root needs it; ``SetupError`` where it is not installed."""

    def __init__(self) -> None:
        try:
            import boto3  # noqa: PLC0415 (an extra)
            from botocore import (  # type: ignore[import-untyped]  # noqa: PLC0415
                config,
                exceptions,
            )
        except ImportError as error:
            raise SetupError(
                "key service needs boto3, which is not installed",
                hint="pip install 'entrepot[kms]'",
            ) from error
        # At debug it would log what it sends and gets, and that is keys.
        logging.getLogger("botocore").setLevel(logging.INFO)
        self._boto3, self._config = boto3, config
        self.refusal = exceptions.ClientError
        self.no_answer = (exceptions.HTTPClientError, exceptions.ConnectionError)
        self.errors = (exceptions.BotoCoreError, exceptions.ClientError)

    def client(self, *, timeout_s: float, **where: str | None) -> Any:
        """A client that tries once: whoever holds a key asks again soon enough."""
        config = self._config.Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},
            proxies={},  # none of the environment
        )
        try:
            return self._boto3.session.Session().client("kms", config=config, **where)
        except (ValueError, *self.errors) as error:
            raise SetupError(
                f"key service cannot be set up: {type(error).__name__}",
                hint="check encryption.kms.endpoint and the credentials",
            ) from error
