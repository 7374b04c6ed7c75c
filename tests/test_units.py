"""Sizes and durations: known values, refusals, round trips."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from entrepot.errors import InvalidInput
from entrepot.units import (
    MAX_VALUE,
    DurationMs,
    Size,
    format_duration_ms,
    format_size,
    parse_duration_ms,
    parse_size,
)

NUMBERS = st.integers(0, MAX_VALUE)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512", 512),
        ("512B", 512),
        ("0", 0),
        ("1k", 1000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1Ki", 1024),
        ("1KiB", 1024),
        ("1MB", 1_000_000),
        ("1M", 1_000_000),
        ("50Gi", 50 * 1024**3),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("10Ti", 10 * 1024**4),
        ("2 Pi", 2 * 1024**5),
        (" 7E ", 7 * 1000**6),
        ("0.1Gi", 107_374_182),
        (512, 512),
    ],
)
def test_sizes(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "Gi", "-1", "+1", "1K", "1m", "1mb", "50Gb", "1Zi", "1e9", "0x10", "1,5G", "1 G i", "٣Gi"],
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(InvalidInput, match="50Gi"):
        parse_size(text)


@pytest.mark.parametrize("value", ["8Ei", "9223372036854775808", MAX_VALUE + 1, -1, True])
def test_sizes_out_of_range(value: str | int) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("100ms", 100),
        ("5s", 5000),
        ("1.5s", 1500),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        ("1h30m", 5_400_000),
        ("1m1ms", 60_001),
        ("0ms", 0),
        (250, 250),
    ],
)
def test_durations(text: str | int, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "30", "ms", "1M", "1H", "30m1h", "1s1s", "-1s", "1us", "1y"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(InvalidInput, match="100ms"):
        parse_duration_ms(text)


@pytest.mark.parametrize("value", ["9999999999999999999d", MAX_VALUE + 1, -1, False])
def test_durations_out_of_range(value: str | int) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        parse_duration_ms(value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0"), (512, "512"), (50 * 1024**3, "50Gi"), (1_000_000, "1MB"), (1_234_567, "1234567")],
)
def test_written_sizes(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0ms"), (100, "100ms"), (5_400_000, "1h30m"), (90_061_001, "1d1h1m1s1ms")],
)
def test_written_durations(duration_ms: int, text: str) -> None:
    assert format_duration_ms(duration_ms) == text


@given(NUMBERS)
def test_sizes_come_back(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.integers(0, 8191), st.integers(0, 5))
def test_round_sizes_come_back_short(count: int, power: int) -> None:
    text = format_size(count * 1024**power)
    assert parse_size(text) == count * 1024**power
    assert len(text) <= 6


@given(NUMBERS)
def test_durations_come_back(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration_ms(duration_ms)) == duration_ms


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for parse in (parse_size, parse_duration_ms):
        with suppress(InvalidInput):
            assert 0 <= parse(text) <= MAX_VALUE


class _Model(BaseModel):
    size: Size = Field(1024, ge=1, le=2**30)
    wait: DurationMs = Field(100, ge=1)


def test_fields_read_and_write_text() -> None:
    model = _Model.model_validate({"size": "1MiB", "wait": "1m30s"})
    assert (model.size, model.wait) == (2**20, 90_000)
    assert model.model_dump() == {"size": "1Mi", "wait": "1m30s"}
    assert _Model.model_validate(model.model_dump()) == model


@pytest.mark.parametrize(
    "values", [{"size": "0"}, {"size": "2Gi"}, {"size": 1.5}, {"wait": 30}, {"wait": "30"}]
)
def test_fields_refuse(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        _Model.model_validate(values)


def test_the_json_schema_describes_the_text() -> None:
    properties = _Model.model_json_schema()["properties"]
    assert properties["size"]["type"] == properties["wait"]["type"] == "string"
    assert "50Gi" in properties["size"]["examples"]
    assert "largest first" in properties["wait"]["description"]
