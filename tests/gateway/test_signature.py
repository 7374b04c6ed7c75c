"""Nothing that differs in one byte from what was signed is ever accepted."""

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import AccessDenied, InvalidInput
from entrepot.gateway.signature import (
    WINDOW_S,
    format_secret,
    parse_headers,
    parse_secret,
    sign,
    verify,
)

SECRET = bytes(range(32))
NOW = 1_760_000_000
Headers = Sequence[tuple[bytes, bytes]]


def headers(id_: bytes, timestamp: bytes, body: bytes, *, secret: bytes = SECRET) -> Headers:
    signature = sign(b".".join((id_, timestamp, body)), secret=secret)
    return [
        (b"webhook-id", id_),
        (b"webhook-timestamp", timestamp),
        (b"webhook-signature", signature),
    ]


def accept(given: Headers, body: bytes, *, now_s: float = NOW) -> None:
    verify(parse_headers(given), body, secret=SECRET, now_s=now_s)


def test_reads_the_conventions_own_example() -> None:
    # From the Standard Webhooks specification, so that its libraries can send to us.
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    text = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    expected = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(text, secret=secret) == expected


@given(st.binary(max_size=200), st.from_regex(rb"[A-Za-z0-9_-]{1,128}", fullmatch=True))
def test_what_was_signed_is_accepted(body: bytes, id_: bytes) -> None:
    accept(headers(id_, str(NOW).encode(), body), body)


@given(
    body=st.binary(min_size=1, max_size=60),
    field=st.sampled_from(["id", "timestamp", "signature", "body"]),
    at=st.integers(0, 59),
    flip=st.integers(1, 255),
)
def test_a_changed_byte_is_refused(body: bytes, field: str, at: int, flip: int) -> None:
    given = dict(headers(b"msg_1", str(NOW).encode(), body))
    name = f"webhook-{field}".encode()
    value = bytearray(body if field == "body" else given[name])
    value[at % len(value)] ^= flip
    if field == "body":
        body = bytes(value)
    else:
        given[name] = bytes(value)
    with pytest.raises(AccessDenied):
        accept(list(given.items()), body)


@given(
    st.binary(max_size=40),
    st.binary(max_size=12),
    st.binary(max_size=80),
    st.binary(max_size=40),
)
def test_made_up_headers_are_refused(
    id_: bytes, timestamp: bytes, signature: bytes, body: bytes
) -> None:
    made_up = [
        (b"webhook-id", id_),
        (b"webhook-timestamp", timestamp),
        (b"webhook-signature", signature),
    ]
    with pytest.raises(AccessDenied):
        accept(made_up, body)


@given(st.lists(st.from_regex(rb"[0-9a-z{}]{0,9}", fullmatch=True), min_size=2, max_size=5))
def test_what_is_signed_cannot_be_cut_elsewhere(pieces: list[bytes]) -> None:
    """Moving a full stop from one signed field into its neighbour keeps the text only."""
    body = b".".join(pieces)
    signed = headers(b"msg-1", str(NOW).encode(), body)
    parts = [value for _, value in signed[:2]] + pieces
    for first in range(1, len(parts) - 1):
        for second in range(first + 1, len(parts)):
            if (first, second) == (1, 2):
                continue
            cut = [
                (b"webhook-id", b".".join(parts[:first])),
                (b"webhook-timestamp", b".".join(parts[first:second])),
                signed[2],
            ]
            with pytest.raises(AccessDenied):
                accept(cut, b".".join(parts[second:]))


@pytest.mark.parametrize("skew_s", [-WINDOW_S - 1, WINDOW_S + 1])
def test_outside_the_window_is_refused(skew_s: int) -> None:
    with pytest.raises(AccessDenied):
        accept(headers(b"msg_1", str(NOW + skew_s).encode(), b"{}"), b"{}")


@pytest.mark.parametrize("skew_s", [-WINDOW_S, 0, WINDOW_S])
def test_inside_the_window_is_accepted(skew_s: int) -> None:
    accept(headers(b"msg_1", str(NOW + skew_s).encode(), b"{}"), b"{}")


def test_any_of_several_signatures_will_do() -> None:
    good = list(headers(b"msg_1", str(NOW).encode(), b"{}"))
    name, value = good[2]
    accept([*good[:2], (name, b"v1,AAAA v1a,BBBB " + value)], b"{}")
    with pytest.raises(AccessDenied):
        accept([*good[:2], (name, b" ".join([b"v1,AAAA"] * 8 + [value]))], b"{}")


@pytest.mark.parametrize("position", range(3))
def test_missing_and_repeated_headers_are_refused(position: int) -> None:
    good = list(headers(b"msg_1", str(NOW).encode(), b"{}"))
    with pytest.raises(AccessDenied):
        parse_headers(good[:position] + good[position + 1 :])
    with pytest.raises(AccessDenied):
        parse_headers([*good, good[position]])


@pytest.mark.parametrize(
    "signature",
    [b"", b"v1", b"v1,", b"\xff\xfe", "v1,é".encode(), b"v1,\xc3", b"v2," + b"A" * 44],
)
def test_odd_signatures_are_refused_not_an_error(signature: bytes) -> None:
    good = list(headers(b"msg_1", str(NOW).encode(), b"{}"))
    with pytest.raises(AccessDenied):
        accept([*good[:2], (good[2][0], signature)], b"{}")


def test_spare_bits_of_base64_are_not_a_second_signature() -> None:
    good = list(headers(b"msg_1", str(NOW).encode(), b"{}"))
    name, value = good[2]
    for last in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
        other = value[:-2] + bytes([last]) + b"="
        if other != value:
            with pytest.raises(AccessDenied):
                accept([*good[:2], (name, other)], b"{}")


@given(st.binary(min_size=1, max_size=64))
def test_a_secret_survives_its_text(secret: bytes) -> None:
    assert parse_secret(format_secret(secret)) == secret


def test_a_secret_that_is_none() -> None:
    with pytest.raises(InvalidInput):
        parse_secret("whsec_not base64")
    assert base64.b64encode(SECRET).decode() in format_secret(SECRET)
