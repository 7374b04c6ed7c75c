"""Logging of our own processes: one record a line, as JSON or as text.

What a call gives in ``extra={...}`` becomes fields. Invariant: no line holds one of the secrets
that ``setup`` was told, neither plain nor as Python, JSON or a URL writes it. Entrepot code raises
errors and does not log them on the way; the outermost layer logs each once.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO
from urllib.parse import quote

from pydantic import SecretStr

from entrepot.errors import EntrepotError

MASK: Final = "********"
SECRET_MIN_CHARS: Final = 6
"""Shorter secrets are not looked for: masking them would garble ordinary words."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(
    level: str = "info",
    *,
    as_json: bool = False,
    secrets: Iterable[SecretStr] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every record from ``level`` up to ``stream`` (standard error), once, masked.

    ``level`` is a value of ``monitoring.log_level``, ``secrets`` is ``Config.secrets()``.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(as_json=as_json, secrets=secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Formatter(logging.Formatter):
    """Writes a record as one line of JSON or text."""

    def __init__(self, *, as_json: bool = False, secrets: Iterable[SecretStr] = ()) -> None:
        super().__init__()
        self._as_json = as_json
        texts = {secret.get_secret_value() for secret in secrets}
        forms = {
            form
            for text in texts
            if len(text) >= SECRET_MIN_CHARS
            for form in (text, repr(text)[1:-1], _as_json(text)[1:-1], quote(text, safe=""))
        }
        self._masked = sorted(forms, key=len, reverse=True)  # a longer one may hold a shorter

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: self._mask(value) for name, value in self._fields(record).items()}
        return _as_json(fields) if self._as_json else _as_text(fields)

    def _mask(self, value: object) -> object:
        """``value`` in JSON's types, without secrets; before encoding, which would hide them."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {str(self._mask(name)): self._mask(item) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._mask(item) for item in value]
        text = str(value)
        for secret in self._masked:
            text = text.replace(secret, MASK)
        return text

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        when = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: v for name, v in vars(record).items() if name not in _STANDARD}
        if record.exc_info and (error := record.exc_info[1]):
            fields["error"] = type(error).__name__
            fields["reason"] = str(error)
            if isinstance(error, EntrepotError) and error.hint:
                fields["hint"] = error.hint
            fields["trace"] = self.formatException(record.exc_info)
        return fields


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_text(fields: Mapping[str, Any]) -> str:
    rest = dict(fields)
    trace = rest.pop("trace", "")
    head = " ".join(str(rest.pop(name)) for name in ("time", "level", "logger", "message"))
    tail = "".join(f" {name}={_as_json(value)}" for name, value in rest.items())
    # One record is one line: what a client sent must not be able to fake another record.
    return (head + tail).replace("\r", "\\r").replace("\n", "\\n") + (f"\n{trace}" if trace else "")
