"""The protocol of what keeps a root key: a file, a passphrase, a Vault, a key service.

Invariant: a root wraps tenant keys and sees nothing else; no object and no data key passes it.
"""

from typing import Protocol


class Root(Protocol):
    """Wraps tenant keys; never sees data.

    ``name`` says which root key it is, ``vault:transit/keys/entrepot``; it is stored beside each
    wrapped key and shown in errors, and is no secret.
    """

    @property
    def name(self) -> str: ...

    async def wrap(self, secret: bytes, *, context: str) -> bytes:
        """``secret`` wrapped, bound to ``context``.

        Raises ``Unavailable`` or ``Throttled`` (an outage), ``AccessDenied`` (the root refuses us),
        ``SetupError`` (there is no such root key, or it cannot do this).
        """
        ...

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """What ``wrap`` was given; ``IntegrityError`` for damage, another context or root key.

        Raises what ``wrap`` raises too. Where the service tells root keys apart by what is wrapped,
        damage there, and another root key, can be ``AccessDenied``.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
