"""What every section of the settings is made of: the base class and the shared field types.

A section is frozen and refuses unknown keys. A field that no code reads yet is made with ``later``,
which marks it ``landed: False``.
"""

import re
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

SITE_NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$"  # entrepot_site_ + 48 < Postgres's 63


class Section(BaseModel):
    """One mapping of ``config.yaml``; an empty one means its defaults."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        return {} if data is None else data


def later(default: Any, *, description: str, **bounds: Any) -> Any:
    """A field whose feature has not landed: accepted and checked, read by nothing yet."""
    return Field(default, description=description, json_schema_extra={"landed": False}, **bounds)


def conflict(reason: str, *path: str | int) -> PydanticCustomError:
    """The error of a section's validator when the value at ``path`` contradicts another one."""
    return PydanticCustomError("combination", "{reason}", {"path": path, "reason": reason})


_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/[^\s?#@]*)?"
)


def _url(value: str) -> str:
    # A user or password in a URL would be shown unmasked, hence no @ anywhere.
    match = _URL.fullmatch(value)
    if match is None or not 0 < int(match[1] or 1) < 65_536:
        raise PydanticCustomError("url", "not a URL, write it like https://host:9000")
    return value.rstrip("/")


def _endpoint(value: str) -> str:
    if value.count("/") > 2:
        raise PydanticCustomError("url", "must end after host and port")
    return value


Url = Annotated[str, Field(max_length=2048), AfterValidator(_url)]
"""``http(s)://host[:port][/path]``, without a slash at the end."""

Endpoint = Annotated[Url, AfterValidator(_endpoint)]
"""``http(s)://host[:port]``, without a slash at the end."""

Text = Annotated[str, Field(min_length=1, max_length=255)]
"""One name or word."""

Secret = Annotated[SecretStr, Field(min_length=1, max_length=4096)]
"""Masked wherever it is shown."""


def _origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", value):
        raise PydanticCustomError("origin", "not an origin, write https://host or *")
    return value


WebOrigin = Annotated[str, Field(max_length=2048), AfterValidator(_origin)]
"""``scheme://host[:port]`` as browsers send it (RFC 6454), or ``*`` for any."""
