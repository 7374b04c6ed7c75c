"""Sizes and durations as people write them, and the integers they stand for.

A *size* is whole bytes: ``50Gi``, ``1MB``, ``1.5GiB``, ``512``. ``Ki Mi Gi Ti Pi Ei`` are powers
of 1,024 (IEC 80000-13), ``k M G T P E`` powers of 1,000 (SI, and Kubernetes quantities), each with
or without ``B``. A *duration* is whole milliseconds: ``100ms``, ``24h``, ``7d``, ``1h30m``, largest
unit first. Case matters, because ``M`` is mega and ``m`` is milli.

Invariant: parsing what ``format_size`` or ``format_duration_ms`` wrote gives the same integer.
``Size`` and ``DurationMs`` are the same two as field types for Pydantic.
"""

import re
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from entrepot.errors import InvalidInput

MAX_VALUE: Final = 2**63 - 1
"""Largest size and duration: what a Postgres ``bigint`` holds."""

_BINARY: Final = {f"{p}i": 1024**n for n, p in enumerate("KMGTPE", start=1)}
_DECIMAL: Final = {p: 1000**n for n, p in enumerate("kMGTPE", start=1)}
_SIZES: Final = {
    "": 1,
    "B": 1,
    "KB": 1000,  # common, though SI's kilo is a small k; a bare K could mean either and is refused
    **_BINARY,
    **_DECIMAL,
    **{f"{unit}B": factor for unit, factor in (_BINARY | _DECIMAL).items()},
}
_DURATIONS: Final = {
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
_NUMBER = r"([0-9]{1,19}(?:\.[0-9]{1,19})?)"
_SIZE = re.compile(rf"{_NUMBER} ?([A-Za-z]*)", re.ASCII)
_DURATION = re.compile("".join(rf"(?:{_NUMBER}{unit}(?![a-z]))?" for unit in _DURATIONS), re.ASCII)


class Unit(StrEnum):
    """What an integer field of a settings model counts."""

    SIZE = "size"
    DURATION = "duration"


def parse_size(value: str | int) -> int:
    """Bytes that ``value`` stands for; an integer is bytes already.

    A fraction of a byte is dropped. Raises ``InvalidInput``.
    """
    if not isinstance(value, str):
        return _checked(value, value=value)
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[2] not in _SIZES:
        raise InvalidInput("not a size, write it like 50Gi, 1MB or 512", value=value)
    return _checked(int(Fraction(match[1]) * _SIZES[match[2]]), value=value)


def parse_duration_ms(value: str | int) -> int:
    """Milliseconds that ``value`` stands for; an integer is milliseconds already.

    Text needs a unit. A fraction of a millisecond is dropped. Raises ``InvalidInput``.
    """
    if not isinstance(value, str):
        return _checked(value, value=value)
    match = _DURATION.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        raise InvalidInput("not a duration, write it like 100ms, 24h or 1h30m", value=value)
    parts = zip(match.groups(), _DURATIONS.values(), strict=True)
    return _checked(int(sum(Fraction(text) * ms for text, ms in parts if text)), value=value)


def format_size(size_bytes: int) -> str:
    """The shortest exact text of ``size_bytes``: ``50Gi``, ``1MB``, ``1234567``."""
    texts = [str(size_bytes)]
    for units, suffix in ((_BINARY, ""), (_DECIMAL, "B")):
        for unit, factor in units.items():
            if size_bytes and size_bytes % factor == 0:
                texts.append(f"{size_bytes // factor}{unit}{suffix}")
    return min(texts, key=len)


def format_duration_ms(duration_ms: int) -> str:
    """The exact text of ``duration_ms``, days to milliseconds: ``1d``, ``1h30m``, ``0ms``."""
    texts = []
    for unit, factor in list(_DURATIONS.items())[1:]:  # weeks are read, days are written
        count, duration_ms = divmod(duration_ms, factor)
        if count:
            texts.append(f"{count}{unit}")
    return "".join(texts) or "0ms"


def _checked(number: int, *, value: str | int) -> int:
    if isinstance(value, bool) or not 0 <= number <= MAX_VALUE:
        raise InvalidInput("out of range, 0 to 2^63 - 1", value=value)
    return number


def _size_field(value: object) -> int:
    if not isinstance(value, str | int):
        raise PydanticCustomError(Unit.SIZE, "not a size, write it like 50Gi, 1MB or 512")
    try:
        return parse_size(value)
    except InvalidInput as error:
        raise PydanticCustomError(Unit.SIZE, "{reason}", {"reason": error.message}) from None


def _duration_field(value: object) -> int:
    # A bare 30 in a file may be meant as seconds, so a field wants the unit, unlike the function.
    if not isinstance(value, str):
        raise PydanticCustomError(
            Unit.DURATION, "not a duration, write it with its unit, like 30s or 100ms"
        )
    try:
        return parse_duration_ms(value)
    except InvalidInput as error:
        raise PydanticCustomError(Unit.DURATION, "{reason}", {"reason": error.message}) from None


Size = Annotated[
    int,
    BeforeValidator(_size_field),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "size",
            "description": "a number and a unit: Ki Mi Gi Ti Pi Ei (powers of 1,024), "
            "k M G T P E (powers of 1,000), each with or without B; no unit means bytes",
            "examples": ["50Gi", "1MB", "512"],
        }
    ),
    Unit.SIZE,
]
"""Bytes; a field of this type reads and writes the text form."""

DurationMs = Annotated[
    int,
    BeforeValidator(_duration_field),
    PlainSerializer(format_duration_ms, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "duration",
            "description": "numbers with the units w d h m s ms, largest first",
            "examples": ["100ms", "24h", "1h30m"],
        }
    ),
    Unit.DURATION,
]
"""Milliseconds; a field of this type reads and writes the text form, always with a unit."""


def approximate_size(size_bytes: int) -> str:
    """``size_bytes`` for people to read, such as ``54.9 MB`` (decimal units)."""
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
