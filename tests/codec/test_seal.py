"""Seals open with their key and in their place, and nowhere else."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.codec.seal import (
    DataKey,
    Flags,
    Seal,
    new_data_key,
    open_for_object,
    open_for_place,
    seal_for_object,
    seal_for_place,
)
from entrepot.errors import IntegrityError, InvalidInput, Unsupported
from tests.codec import independent
from tests.codec.making import TENANT_KEY

NAMES = st.text(min_size=1, max_size=60)
DATA_KEY = new_data_key(tenant="acme", key_number=3)
PLACE = {"bucket": "photos", "key": "a/b.jpg"}
SEAL = seal_for_place(
    DATA_KEY, tenant_key=TENANT_KEY, bucket="photos", key="a/b.jpg", compressed=True
)
WHOLE = SEAL.text()


@given(
    tenant=NAMES, number=st.integers(1, 2**32 - 1), bucket=NAMES, key=NAMES, packed=st.booleans()
)
def test_a_seal_opens_in_its_place(
    tenant: str, number: int, bucket: str, key: str, packed: bool
) -> None:
    data_key = new_data_key(tenant=tenant, key_number=number)
    seal = seal_for_place(
        data_key, tenant_key=TENANT_KEY, bucket=bucket, key=key, compressed=packed
    )
    entry = seal.text()
    assert len(entry) == 116 and Seal.parse(entry) == seal
    assert (seal.compressed, seal.encrypted) == (packed, True)
    found = open_for_place(seal, tenant=tenant, tenant_key=TENANT_KEY, bucket=bucket, key=key)
    assert found == data_key
    assert independent.open_entry(entry, tenant, TENANT_KEY, bucket, key) == data_key.secret


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"bucket": "photo"},
        {"key": "a/b.jpgx"},
        {"bucket": "photosa", "key": "/b.jpg"},
        {"tenant": "acm"},
        {"tenant_key": bytes(32)},
    ],
)
def test_a_seal_does_not_open_elsewhere(elsewhere: dict[str, object]) -> None:
    here = {"tenant": "acme", "tenant_key": TENANT_KEY, **PLACE}
    assert open_for_place(SEAL, **here) == DATA_KEY  # type: ignore[arg-type]
    with pytest.raises(IntegrityError) as caught:
        open_for_place(SEAL, **(here | elsewhere))  # type: ignore[arg-type]
    assert TENANT_KEY.hex() not in repr(caught.value)


@pytest.mark.parametrize(
    "changed", [{"key_number": 4}, {"data_id": bytes(16)}, {"sealed": b"short"}]
)
def test_a_seal_is_bound_to_what_is_beside_it(changed: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        open_for_place(
            replace(SEAL, **changed),  # type: ignore[arg-type]
            tenant="acme",
            tenant_key=TENANT_KEY,
            **PLACE,
        )


def test_the_seal_of_a_header_is_not_that_of_a_place() -> None:
    about = {"tenant": "acme", "key_number": 3, "data_id": DATA_KEY.data_id}
    sealed = seal_for_object(DATA_KEY, tenant_key=TENANT_KEY)
    assert open_for_object(sealed, tenant_key=TENANT_KEY, **about) == DATA_KEY  # type: ignore[arg-type]
    for wrong in (SEAL.sealed, sealed[:-1], bytes(64)):
        with pytest.raises(IntegrityError):
            open_for_object(wrong, tenant_key=TENANT_KEY, **about)  # type: ignore[arg-type]


def entry(**changed: int) -> str:
    """The text of ``SEAL``, bytes of it changed."""
    data = bytearray(base64.urlsafe_b64decode(SEAL.text()[2:] + "=="))
    for name, value in changed.items():
        data[{"flags": 0, "number": 20, "sealed": 84}[name]] = value
    return "1." + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_the_entry_of_what_is_only_compressed() -> None:
    seal = Seal(Flags.COMPRESSED, DATA_KEY.data_id)
    assert Seal.parse(seal.text()) == seal
    assert not seal.encrypted
    with pytest.raises(IntegrityError):
        open_for_place(seal, tenant="acme", tenant_key=TENANT_KEY, **PLACE)


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.", "x", "1.AAAA", "1. é", WHOLE[2:]),
        *(WHOLE[:-1], WHOLE + "A", WHOLE + "=", WHOLE[:-1] + "_", "1.\n" + WHOLE[2:]),
        *(entry(flags=0), entry(flags=1), entry(number=0)),
    ],
)
def test_a_malformed_entry_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        Seal.parse(text)


@pytest.mark.parametrize(
    "text", ["2." + SEAL.text()[2:], "10.AAAA", entry(flags=4), entry(flags=255)]
)
def test_what_a_later_version_wrote_is_said_to_be_unsupported(text: str) -> None:
    with pytest.raises(Unsupported):
        Seal.parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        *(("", 1, bytes(16), bytes(32)), ("t" * 256, 1, bytes(16), bytes(32))),
        *(("t", 0, bytes(16), bytes(32)), ("t", 2**32, bytes(16), bytes(32))),
        *(("t", 1, bytes(15), bytes(32)), ("t", 1, bytes(16), bytes(31))),
    ],
)
def test_a_data_key_without_meaning_is_refused(fields: tuple[str, int, bytes, bytes]) -> None:
    with pytest.raises(InvalidInput):
        DataKey(*fields)


def test_a_tenant_key_has_32_bytes() -> None:
    with pytest.raises(InvalidInput):
        seal_for_object(DATA_KEY, tenant_key=bytes(16))


def test_no_secret_is_in_a_repr() -> None:
    data_key = DataKey("acme", 1, bytes(16), b"s3cret-s3cret-s3cret-s3cret-s3cr")
    assert "s3cret" not in repr(data_key)


def test_two_seals_of_one_key_differ() -> None:
    two = {seal_for_object(DATA_KEY, tenant_key=TENANT_KEY) for _ in range(2)}
    assert len(two) == 2
