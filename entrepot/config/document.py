"""Writes ``docs/settings.md`` from the models: ``python -m entrepot.config.document [FILE]``.

A test checks that the file is current, so it is never edited by hand.
"""

import sys
from itertools import groupby
from pathlib import Path
from typing import Final

from entrepot.config.model import Config
from entrepot.config.schema import OTHER_SPELLINGS, Setting, kind_of, limits_of, settings

_OPENING: Final = """\
# Settings

`entrepot` reads one YAML file: the one that `--config` names, else `$ENTREPOT_CONFIG`, else
`./config.yaml`, else `config.yaml` in the data directory (`$ENTREPOT_DATA`, else
`/var/lib/entrepot` for root, else `~/.local/share/entrepot`). `entrepot config show` prints the
values in force and where each came from, with secrets masked.

- Every key is optional unless it says *required*. An unknown key, a bad unit, a value out of bounds
  or a variable that is not set is refused with its file and line, and the command exits 2.
- `${NAME}` in a value is the environment variable, `${NAME:-text}` falls back to `text` where it is
  unset or empty, `$$` is a dollar sign. What a variable holds is never read as YAML.
- `secrets.env` beside the file supplies variables that the environment lacks, as `NAME=value`
  lines; it must be readable by its owner only (`chmod 600 secrets.env`).
- A **size** is a number and a unit: `Ki Mi Gi Ti Pi Ei` are powers of 1,024, `k M G T P E` are
  powers of 1,000, each with or without `B` (`50Gi`, `1MB`, `1.5GiB`); no unit means bytes.
- A **duration** is one or more numbers with a unit of `w d h m s ms`, largest first (`100ms`,
  `24h`, `1h30m`).
- A **secret** is masked wherever it is shown. Well-known default secrets (`minioadmin`,
  `minioadmin123`, `password`) are refused unless a command is given `--insecure-demo`.
- *Not used yet* marks a key that is accepted and checked, but that no code reads so far.
- The file may have 1 MiB, 10,000 values and a depth of 16. Anchors and aliases work; tags, merge
  keys (`<<`) and duplicate keys are refused.

This page is generated: `python -m entrepot.config.document`.
"""


def render() -> str:
    """The text of the page."""
    parts = [_OPENING]
    for section, group in groupby(settings(), key=lambda setting: setting.key.partition(".")[0]):
        about = Config.model_fields[section].description or ""
        parts.append(f"\n## {section}\n\n{about}\n\n{_HEAD}")
        parts.extend(_row(setting) for setting in group)
    parts.append(
        "\n## Other spellings\n\nAccepted beside the keys above, one of the two at a time.\n"
    )
    parts.append("\n| key | stands for |\n|---|---|\n")
    for other, ours in OTHER_SPELLINGS.items():
        parts.append(f"| `{other}` | `{ours}` |\n")
    return "".join(parts)


_HEAD: Final = "| key | type | default | bounds | meaning |\n|---|---|---|---|---|\n"


def _row(setting: Setting) -> str:
    low, high = limits_of(setting.field)
    limits = f"{low} to {high}" if low is not None else f"at most {high} items" if high else ""
    meaning = setting.field.description or ""
    if not setting.is_landed:
        meaning += " *Not used yet.*"
    cells = (f"`{setting.key}`", kind_of(setting.field), _default(setting), limits, meaning)
    return f"| {' | '.join(cells)} |\n"


def _default(setting: Setting) -> str:
    if setting.field.is_required():
        return "*required*"
    value = setting.show(setting.field.default)
    if value is None or value == []:
        return "null" if value is None else "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/settings.md")
    page.write_text(render(), encoding="utf-8")
