"""Keys from passphrases: scrypt (RFC 7914), with its cost stated and bounded."""

import unicodedata
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import SecretStr

from entrepot.codec.primitives import KEY_BYTES
from entrepot.errors import InvalidInput

MIN_CHARS: Final = 12
"""Below this no cost of scrypt helps against somebody who has the file."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """What trying one passphrase costs: ``1024 * 2**log2_n`` bytes of memory, ``p`` times.

    The default takes 128 MiB and some 0.4 s (OWASP recommends n 2^17, r 8, p 1). The
    bounds keep a file from asking for no work at all, or for more than 1 GiB.
    """

    log2_n: int = 17
    p: int = 1

    def __post_init__(self) -> None:
        if not (14 <= self.log2_n <= 20 and 1 <= self.p <= 4):
            raise InvalidInput("cost of scrypt is out of bounds: n 2^14 to 2^20, p 1 to 4")


USUAL_COST: Final = ScryptCost()


def stretch(passphrase: SecretStr, *, salt: bytes, cost: ScryptCost) -> bytes:
    """The key of ``passphrase``, for as much work as ``cost`` says.

    An accent counts alike whether the keyboard composes it or not (NFC).
    """
    text = unicodedata.normalize("NFC", passphrase.get_secret_value()).encode()
    return Scrypt(salt=salt, length=KEY_BYTES, n=1 << cost.log2_n, r=8, p=cost.p).derive(text)


def check_new(passphrase: SecretStr) -> None:
    """``InvalidInput`` where a passphrase is too short to seal anything with."""
    if len(passphrase.get_secret_value()) < MIN_CHARS:
        raise InvalidInput(
            f"passphrase has fewer than {MIN_CHARS} characters",
            hint="take five or more random words",
        )
