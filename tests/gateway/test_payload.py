"""A payload fills declared parameters with small, plain values."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import InvalidInput
from entrepot.gateway.payload import LIST_MAX, NUMBER_MAX, STRING_MAX_CHARS, parse_payload

ALLOWED = ("rule", "prefix")


@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b" {} "])
def test_nothing_means_the_defaults(body: bytes) -> None:
    assert parse_payload(body, allowed=ALLOWED) == {}


@pytest.mark.parametrize("value", ["a", "", "ü/%2e", 1, -1.5, True, None, [], ["a", 2, None]])
def test_plain_values_pass(value: Any) -> None:
    body = json.dumps({"rule": value}).encode()
    assert parse_payload(body, allowed=ALLOWED) == {"rule": value}


@pytest.mark.parametrize(
    "value",
    [
        "x" * (STRING_MAX_CHARS + 1),
        ["x"] * (LIST_MAX + 1),
        NUMBER_MAX + 1,
        1e300,
        {"a": 1},
        [["nested"]],
        [{"a": 1}],
        "nul \0",
        "\ud800",
        "http://169.254.169.254/latest",
        ["s3://elsewhere"],
        {"__prefect_kind": "jinja", "template": "{{ 7 * 7 }}"},
        {"__prefect_kind": "workspace_variable", "variable_name": "secret"},
    ],
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_payload(json.dumps({"rule": value}).encode(), allowed=ALLOWED)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"1",
        b"{",
        b"\xff",
        b'{"rule": NaN}',
        b'{"rule": -Infinity}',
        b'{"rule": 1e999}',
        b'{"rule": "a", "rule": "b"}',
        b'{"rule": ' + b"9" * 5000 + b"}",
        b"[" * 30_000,
        b'{"rule":' * 10_000,
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_payload(body, allowed=ALLOWED)


def test_an_undeclared_parameter_is_refused_and_the_declared_ones_are_named() -> None:
    with pytest.raises(InvalidInput, match="endpoint") as caught:
        parse_payload(b'{"rule": "a", "endpoint": "evil"}', allowed=ALLOWED)
    assert caught.value.hint == "allowed: prefix, rule"


@given(st.binary(max_size=300))
def test_no_body_is_an_unexpected_error(body: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert set(parse_payload(body, allowed=ALLOWED)) <= set(ALLOWED)


words = st.text("ab:/{\0\ud800é", max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["rule", "prefix", "host"]), json_values))
def test_what_passes_is_plain(payload: dict[str, Any]) -> None:
    try:
        found = parse_payload(json.dumps(payload).encode(), allowed=ALLOWED)
    except InvalidInput:
        return
    for value in found.values():
        for item in value if isinstance(value, list) else [value]:
            assert item is None or isinstance(item, str | int | float)
    assert set(found) <= set(ALLOWED)
