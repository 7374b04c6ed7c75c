"""Certificates: checked offline, refused when a single bit is not as it was signed."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.errors import IntegrityError, InvalidInput
from entrepot.replication.proof.certificate import (
    CERTIFIER,
    FORMAT,
    Signer,
    check,
    fingerprint,
    sign,
    signer,
    signers,
)

FACTS = {"rule": "photos", "identical": True, "sites": ["a", "ü"], "keys": 3, "digest": None}
BY = Signer(1, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer(1, Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_what_was_signed_is_read_back() -> None:
    document = sign(FACTS, BY)
    stated = check(document, public=BY.public)
    assert {name: stated[name] for name in FACTS} == FACTS
    assert (stated["format"], stated["key"]["public"]) == (FORMAT, BY.public)
    assert document == sign(dict(reversed(FACTS.items())), BY)


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    document = sign(FACTS, BY)
    for place in range(len(document)):
        for bit in range(8):
            flipped = bytearray(document)
            flipped[place] ^= 1 << bit
            with pytest.raises(IntegrityError):
                check(bytes(flipped))
        with pytest.raises(IntegrityError):
            check(document[:place])
    for more in (b"\n", b" ", b"{}"):
        with pytest.raises(IntegrityError):
            check(document + more)


def test_another_form_of_the_same_document_is_refused() -> None:
    stated = json.loads(sign(FACTS, BY))
    for form in (
        json.dumps(stated, indent=1),
        json.dumps(stated, separators=(",", ":")),
        json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=True) + "\n",
    ):
        with pytest.raises(IntegrityError):
            check(form.encode())


def test_a_document_that_somebody_else_signed_is_told_by_its_key() -> None:
    forged = sign({**FACTS, "keys": 4}, OTHER)
    assert check(forged)["keys"] == 4
    with pytest.raises(IntegrityError, match="another key"):
        check(forged, public=BY.public)
    swapped = json.loads(forged)
    swapped["key"]["public"] = BY.public
    text = json.dumps(swapped, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    with pytest.raises(IntegrityError, match="changed after"):
        check(text.encode() + b"\n")
    assert fingerprint(BY.public) != fingerprint(OTHER.public)
    assert len(fingerprint(BY.public)) == 19


@given(st.binary(max_size=200))
def test_what_is_no_certificate_is_refused(document: bytes) -> None:
    with pytest.raises(IntegrityError):
        check(document)


@pytest.mark.parametrize(
    "document",
    [
        b"[]\n",
        b"1\n",
        b"1.5\n",
        b"NaN\n",
        b"{}\n",
        b"[" * 100_000 + b"\n",
        b'{"format":"entrepot-certificate/1","key":1,"signature":""}\n',
        b'{"format":"x","key":{"algorithm":"Ed25519"},"signature":""}\n',
    ],
    ids=range(8),
)
def test_odd_documents_are_refused(document: bytes) -> None:
    with pytest.raises(IntegrityError):
        check(document)


@pytest.mark.parametrize("value", [1.5, b"x", {1: "x"}, "\ud800", object()])
def test_only_what_has_one_form_is_signed(value: Any) -> None:
    with pytest.raises(InvalidInput):
        sign({**FACTS, "more": value}, BY)


@pytest.mark.parametrize("public", ["", "x", "AA==", BY.public[:-1], BY.public + "="])
def test_what_is_no_public_key_is_said(public: str) -> None:
    with pytest.raises(InvalidInput):
        check(sign(FACTS, BY), public=public)


async def test_the_key_follows_from_the_ring_and_rotates_with_it(tmp_path: Path) -> None:
    root = LocalRoot.create_file(tmp_path / "root.key")
    ring = KeyRing(tmp_path / "ring", root)
    first = await signer(ring)
    assert (await signer(ring)).public == first.public
    document = sign(FACTS, first)
    await ring.rotate(CERTIFIER)
    second = await signer(ring)
    assert (first.number, second.number) == (1, 2)
    assert second.public != first.public
    assert check(document, public=first.public)["key"]["number"] == 1
    assert [each.public for each in await signers(ring)] == [first.public, second.public]
    await ring.close()
