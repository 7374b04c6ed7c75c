"""Every setting in force: its value with secrets masked, and where it came from.

An *origin* is ``default``, ``file``, or ``env`` where a variable went into the value.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from pydantic import BaseModel

from entrepot.config.load import Loaded
from entrepot.config.schema import Setting, settings
from entrepot.config.source import KeyPath, Mark, dotted


@dataclass(frozen=True, slots=True)
class Row:
    """One value in force; ``line`` is 0 for a default, ``is_landed`` says whether it is read."""

    key: str
    value: object
    origin: str
    line: int
    variables: tuple[str, ...]
    is_landed: bool

    def json(self) -> dict[str, object]:
        """As ``entrepot config show --json`` prints it."""
        row = asdict(self)
        row["landed"] = row.pop("is_landed")
        return row

    def text(self) -> tuple[str, str, str, str]:
        """As ``entrepot config show`` prints it: key, value, origin, note."""
        value = json.dumps(self.value, ensure_ascii=False)
        where = f"{self.origin}, line {self.line}" if self.line else self.origin
        names = f" ({', '.join(self.variables)})" if self.variables else ""
        return self.key, value, where + names, "" if self.is_landed else "not used yet"


def explain(loaded: Loaded) -> tuple[Row, ...]:
    """One row a setting, and one a setting of each item of a list of sections."""
    known = {setting.key: setting for setting in settings()}
    return tuple(_rows(loaded.config, (), known, loaded.marks))


def unused(loaded: Loaded) -> tuple[str, ...]:
    """Keys that the file sets although no code reads them yet."""
    return tuple(row.key for row in explain(loaded) if row.line and not row.is_landed)


def _rows(
    section: BaseModel,
    path: KeyPath,
    known: Mapping[str, Setting],
    marks: Mapping[KeyPath, Mark],
) -> Iterator[Row]:
    for name, value in section:
        here = (*path, name)
        if isinstance(value, BaseModel):
            yield from _rows(value, here, known, marks)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for n, item in enumerate(value):
                yield from _rows(item, (*here, n), known, marks)
        else:
            setting = known[re.sub(r"\[[0-9]+\]", "[]", dotted(here))]
            yield _row(here, value, setting, marks)


def _row(path: KeyPath, value: object, setting: Setting, marks: Mapping[KeyPath, Mark]) -> Row:
    below = [mark for place, mark in marks.items() if place[: len(path)] == path]
    variables = tuple(name for mark in below for name in mark.variables)
    return Row(
        key=dotted(path),
        value=setting.show(value),
        origin="env" if variables else "file" if below else "default",
        line=below[0].line if below else 0,
        variables=variables,
        is_landed=setting.is_landed,
    )
