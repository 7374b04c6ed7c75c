"""Rings and kits that were written once must be read for ever, also by code that is not ours.

``golden`` holds a ring, its root key and its kit. The decoders here follow ``docs/keys.md`` and
share no code with ``entrepot``; a release that changes a format adds files and keeps these.
"""

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from entrepot.codec.keys.kit import kit_keys, recover
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import PermanentError
from tests.codec.keys.tools import PASSPHRASE, all_keys, copy_of

GOLDEN = Path(__file__).parent / "golden"
ROOT_KEY = bytes.fromhex((GOLDEN / "root.key.hex").read_text())
SECRETS = {
    (each["tenant"], each["number"]): bytes.fromhex(each["secret"])
    for each in json.loads((GOLDEN / "secrets.json").read_text())
}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy with the modes that git does not keep."""
    copy = copy_of(GOLDEN, tmp_path / "golden")
    (copy / "root.key").write_bytes(ROOT_KEY)
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return copy


async def test_our_own_reader(golden: Path) -> None:
    ring = KeyRing(golden / "ring", LocalRoot.from_file(golden / "root.key"), create=False)
    assert await all_keys(ring) == SECRETS
    for tenant, number in (("acme", 1), ("gone", 1)):
        with pytest.raises(PermanentError, match="was shredded"):
            await ring.get(tenant, number)
    secret_of = kit_keys((golden / "kit.txt").read_text(), passphrase=PASSPHRASE)
    assert {name: secret_of(*name) for name in SECRETS} == SECRETS


async def test_a_golden_kit_makes_a_ring(golden: Path) -> None:
    text, root = (golden / "kit.txt").read_text(), LocalRoot(bytes(32))
    await recover(golden / "new", text, passphrase=PASSPHRASE, root=root)
    assert await all_keys(KeyRing(golden / "new", root)) == SECRETS


# --- written from the docs


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256; 32 bytes of output need one round."""
    first = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(first, info + b"\x01", "sha256")


def unseal(key: bytes, sealed: bytes, info: bytes, aad: bytes) -> bytes:
    return AESGCM(hkdf(key, sealed[:16], info)).decrypt(bytes(12), sealed[16:], aad)


def lp(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def test_a_decoder_of_the_ring_from_the_docs() -> None:
    found = {}
    for path in (GOLDEN / "ring/tenants").glob("*/*.json"):
        values = json.loads(path.read_text())
        assert (values["format"], values["kind"]) == (1, "tenant key")
        tenant, number = path.parent.name, int(path.stem)
        context = f"entrepot/1 tenant key {number} of {tenant}".encode()
        wrapped = base64.b64decode(values["wrapped"])
        secret = unseal(ROOT_KEY, wrapped, b"entrepot/1 wrap", context)
        info = b"entrepot/1 key check" + lp(tenant) + number.to_bytes(4, "big")
        assert hkdf(secret, b"", info) == base64.b64decode(values["check"])
        assert values["root"] == "local:" + hkdf(ROOT_KEY, b"", b"entrepot/1 root name")[:4].hex()
        found[tenant, number] = secret
    assert found == SECRETS


def test_a_decoder_of_the_kit_from_the_docs() -> None:
    text = (GOLDEN / "kit.txt").read_text()
    whole, _, check = text.rpartition("check ")
    head = " ".join(text.partition("-----BEGIN")[0].split())
    sealed = b""
    for number, row, row_check in re.findall(r"^(\d+): ([A-Z2-7 ]+) /(\S+)$", text, re.MULTILINE):
        letters = row.replace(" ", "")
        piece = base64.b32decode(letters + "=" * (-len(letters) % 8))
        digest = hashlib.sha256(int(number).to_bytes(4, "big") + piece).digest()
        assert base64.b32encode(digest)[:4].decode() == row_check
        sealed += piece
    digest = hashlib.sha256(" ".join(whole.split()).encode()).digest()
    assert base64.b32encode(digest[:10]).decode() == check.strip()
    assert sealed[:4] == b"EPK1"
    key = hashlib.scrypt(
        PASSPHRASE.get_secret_value().encode(),
        salt=sealed[6:22],
        n=2 ** sealed[4],
        r=8,
        p=sealed[5],
        maxmem=2**28,
        dklen=32,
    )
    inner = json.loads(unseal(key, sealed[22:], b"entrepot/1 kit", sealed[:22] + head.encode()))
    found = {
        (each["tenant"], each["number"]): base64.b64decode(each["secret"]) for each in inner["keys"]
    }
    assert found == SECRETS
    assert {(each["tenant"], each["number"]) for each in inner["shredded"]} == {
        ("acme", 1),
        ("gone", 1),
        ("gone", None),
    }


def test_a_decoder_of_the_passphrase_root_from_the_docs() -> None:
    salt = base64.b64decode(json.loads((GOLDEN / "ring/ring.json").read_text())["salt"])
    root = LocalRoot.from_passphrase(PASSPHRASE, salt=salt)
    text = PASSPHRASE.get_secret_value().encode()
    key = hashlib.scrypt(text, salt=salt, n=2**17, r=8, p=1, maxmem=2**28, dklen=32)
    assert root.name == "passphrase:" + hkdf(key, b"", b"entrepot/1 root name")[:4].hex()
