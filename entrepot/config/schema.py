"""The settings as a list: one entry a key, read off the models.

Words: a *key* is dotted, ``caching.l1.max_size``; the keys of a list's items hold ``[]``,
``replication.regions[].name``. A key has *landed* when some code reads it.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import annotated_types as bounds
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from entrepot.config.model import Config
from entrepot.config.source import KeyPath
from entrepot.units import Unit, format_duration_ms, format_size

OTHER_SPELLINGS: Final[dict[str, str]] = {
    "caching.l1_max_size": "caching.l1.max_size",
    "caching.l2_max_size": "caching.l2.max_size",
    "caching.l1_eviction_policy": "caching.l1.eviction_policy",
    "caching.compression_threshold": "caching.compression.min_size",
    "replication.active_active": "replication.mode",
}
"""Keys that are accepted beside ours, and the key that each stands for."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: what its value may be and what it does."""

    key: str
    field: FieldInfo
    is_landed: bool
    is_secret: bool

    def show(self, value: object) -> object:
        """``value`` as JSON has it, in its unit, masked if it is secret."""
        if value is None or isinstance(value, bool):
            return value
        if self.is_secret:
            return MASK
        if isinstance(value, int):
            return _in_unit(value, unit_of(self.field))
        if isinstance(value, tuple):
            return [self.show(item) for item in value]
        return str(value)


MASK: Final = "********"


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the models."""
    return tuple(_settings(Config, ""))


def find(path: KeyPath) -> FieldInfo | None:
    """The field at ``path``, a section or a value; ``None`` where there is none."""
    section: type[BaseModel] | None = Config
    found = None
    for step in path:
        if isinstance(step, int):
            continue
        found = section.model_fields.get(step) if section else None
        if found is None:
            return None
        section = submodel(found)
    return found


def keys_in(path: KeyPath) -> tuple[str, ...]:
    """The keys that the section at ``path`` takes."""
    field = find(path)
    section = submodel(field) if field else (Config if not path else None)
    return tuple(section.model_fields) if section else ()


def submodel(field: FieldInfo) -> type[BaseModel] | None:
    """The section, or the section of each item, that ``field`` holds."""
    for kind in _parts(field.annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def kind_of(field: FieldInfo) -> str:
    """What the values of ``field`` are, in words."""
    unit = unit_of(field)
    if unit:
        return unit.value
    kinds = list(_parts(field.annotation))
    names = {bool: "true or false", int: "integer", SecretStr: "secret"}
    choices = [repr(choice) for kind in kinds for choice in get_args(kind)]
    text = " or ".join(choices) or next((names[kind] for kind in kinds if kind in names), "text")
    text = "sections" if submodel(field) else text
    return f"list of {text}" if get_origin(field.annotation) is tuple else text


def limits_of(field: FieldInfo) -> tuple[object, object]:
    """Smallest and largest value of a number, or largest count of a list; ``None`` where none."""
    low: object = None
    high: object = None
    unit = unit_of(field)
    for item in field.metadata:
        if isinstance(item, bounds.Ge):
            low = _in_unit(cast("int", item.ge), unit)
        elif isinstance(item, bounds.Le):
            high = _in_unit(cast("int", item.le), unit)
        elif isinstance(item, bounds.MaxLen) and get_origin(field.annotation) is tuple:
            high = item.max_length
    return low, high


def _settings(section: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        inner = submodel(field)
        is_list = get_origin(field.annotation) is tuple
        if inner is None or is_list:
            extra = field.json_schema_extra
            yield Setting(
                key=prefix + name,
                field=field,
                is_landed=not (isinstance(extra, dict) and extra.get("landed") is False),
                is_secret=SecretStr in _parts(field.annotation),
            )
        if inner is not None:
            yield from _settings(inner, f"{prefix}{name}[]." if is_list else f"{prefix}{name}.")


def unit_of(field: FieldInfo) -> Unit | None:
    """What a number in ``field`` counts."""
    return next((item for item in field.metadata if isinstance(item, Unit)), None)


def _in_unit(number: int, unit: Unit | None) -> int | str:
    if unit is None:
        return number
    return format_size(number) if unit is Unit.SIZE else format_duration_ms(number)


def _parts(annotation: Any) -> Iterator[Any]:
    """The plain types in ``annotation``, through unions, tuples and ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple):
        for part in get_args(annotation):
            yield from _parts(part)
    elif origin is Literal or annotation not in (type(None), Ellipsis):
        yield annotation
