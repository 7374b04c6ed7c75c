"""What a delivery's body may say: values for declared parameters, nothing else.

Invariant: a value is a string, a number, a boolean, null or a short list of those. Objects are
refused because Prefect reads some as templates (``__prefect_kind``), and strings that look like
URLs because a payload never names a host. Prefect checks the result against the flow's schema.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from entrepot.errors import InvalidInput

STRING_MAX_CHARS: Final = 1024
"""An S3 key is at most 1,024 bytes; nothing that a parameter holds is longer."""
LIST_MAX: Final = 100
NUMBER_MAX: Final = 2**53
"""Beyond it JSON numbers lose precision in many senders."""

Scalar = str | int | float | bool | None


def parse_payload(body: bytes, *, allowed: Collection[str]) -> dict[str, Any]:
    """The parameters of a verified body; an empty body has none.

    Raises ``InvalidInput`` for anything but a JSON object of ``allowed`` keys and bounded values.
    """
    if not body.strip():
        return {}
    try:
        found = json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON") from error
    if not isinstance(found, Mapping):
        raise InvalidInput("the body is not a JSON object")
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise InvalidInput(
            f"not a parameter of this webhook: {', '.join(unknown)[:200]}",
            hint=f"allowed: {', '.join(sorted(allowed)) or 'none'}",
        )
    return {key: bounded(value, name=key) for key, value in found.items()}


def bounded(value: object, *, name: str) -> Scalar | list[Scalar]:
    """``value`` if it is a scalar or a short list of scalars within the limits."""
    if isinstance(value, list):
        if len(value) > LIST_MAX:
            raise InvalidInput(f"{name} has more than {LIST_MAX} values")
        return [_scalar(item, name=name) for item in value]
    return _scalar(value, name=name)


def _scalar(value: object, *, name: str) -> Scalar:
    if isinstance(value, str):
        if len(value) > STRING_MAX_CHARS:
            raise InvalidInput(f"{name} is longer than {STRING_MAX_CHARS} characters")
        # Neither survives Postgres: NUL, and half of a surrogate pair.
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
            raise InvalidInput(f"{name} holds characters that cannot be stored")
        if "://" in value:
            raise InvalidInput(f"{name} looks like a URL; a payload never names a host")
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if not abs(value) <= NUMBER_MAX:
            raise InvalidInput(f"{name} is out of range")
        return value
    raise InvalidInput(f"{name} must be a string, a number, a boolean, null or a list of those")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
