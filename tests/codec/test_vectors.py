"""Published vectors through the very functions that the codec calls."""

import cryptography_vectors
import pytest

from entrepot.codec.primitives import Gcm, derive
from entrepot.errors import IntegrityError


def cases(path: str) -> list[dict[str, str]]:
    """``NAME = value`` by lower-case name; ``count`` begins a case, brackets hold for several."""
    headers: dict[str, str] = {}
    found: list[dict[str, str]] = []
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for line in file:
            name, _, value = (part.strip(" []\n") for part in line.lower().partition("="))
            if line.startswith("["):
                headers[name] = value
            elif name == "count":
                found.append(dict(headers))
            elif name and found:
                found[-1][name] = value
    return found


def gcm(path: str) -> list[dict[str, bytes | None]]:
    """Cases with a nonce of 96 bits and a tag of 128; no ``pt`` where it must fail."""
    found = []
    for case in cases(f"ciphers/AES/GCM/{path}256.rsp"):
        if (case["ivlen"], case["taglen"]) == ("96", "128"):
            names = ("key", "iv", "ct", "aad", "tag", "pt")
            values = {name: bytes.fromhex(case.get(name, "")) for name in names}
            found.append(values | ({"pt": None} if "fail" in case else {}))
    return found


@pytest.mark.parametrize("path", ["gcmEncryptExtIV", "gcmDecrypt"])
def test_gcm_of_nist(path: str) -> None:
    found = gcm(path)
    failing = 0
    for case in found:
        key, nonce, aad, stored = (case[name] or b"" for name in ("key", "iv", "aad", "ct"))
        stored += case["tag"] or b""
        room, sealed = bytearray(len(stored) - 16), bytearray(len(stored))
        if (plaintext := case["pt"]) is None:
            failing += 1
            with pytest.raises(IntegrityError):
                Gcm(key).open(stored, room, nonce=nonce, aad=aad)
            continue
        Gcm(key).open(stored, room, nonce=nonce, aad=aad)
        Gcm(key).seal(plaintext, sealed, nonce=nonce, aad=aad)
        assert (bytes(room), bytes(sealed)) == (plaintext, stored)
    assert len(found) == 375
    assert bool(failing) == (path == "gcmDecrypt")


def test_hkdf_of_rfc_5869() -> None:
    found = cases("KDF/rfc-5869-HKDF-SHA256.txt")
    for case in found:
        ikm, salt, info, okm = (
            bytes.fromhex(case[name]) for name in ("ikm", "salt", "info", "okm")
        )
        assert derive(ikm, salt=salt, info=info) == okm[:32]  # a shorter output begins a longer one
    assert len(found) == 3
