"""``${NAME}`` in values, and the ``secrets.env`` beside a config file.

``${NAME}`` is the variable, ``${NAME:-text}`` falls back to ``text`` where it is unset or empty,
``$$`` is one dollar sign. Expansion runs once, over values of a file that was parsed already: what
a variable holds is never read as YAML and never expanded again. A value that expands to nothing is
null. ``secrets.env`` holds ``NAME=value`` lines; it supplies what the environment lacks, and is
refused when others than its owner can read it.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from entrepot.config.source import (
    Document,
    KeyPath,
    Problem,
    Tree,
    read_text,
    refusal,
)
from entrepot.errors import ConfigError

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$(?:(\$)|\{{(?:({_NAME})(:-([^}}]*))?\}})?)", re.ASCII)
_ASSIGNMENT = re.compile(rf"(?:export\s+)?({_NAME})=(.*)", re.ASCII)
_SECRETS_MAX_BYTES: Final = 65_536


def expand(document: Document, env: Mapping[str, str]) -> None:
    """Replace the references in every value of ``document``; notes unset variables as problems."""

    def walk(path: KeyPath, tree: Tree) -> Tree:
        if isinstance(tree, dict):
            return {key: walk((*path, key), value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [walk((*path, n), value) for n, value in enumerate(tree)]
        if tree is None or "$" not in tree:
            return tree
        return _expand_value(document, path, tree, env)

    document.tree = {key: walk((key,), value) for key, value in document.tree.items()}


def _expand_value(document: Document, path: KeyPath, text: str, env: Mapping[str, str]) -> Tree:
    used: list[str] = []

    def substitute(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name, has_fallback, fallback = match[2], match[3] is not None, match[4]
        if name is None:
            document.report(path, "'${' without a name and '}', write $$ for a dollar sign")
        elif env.get(name) or (name in env and not has_fallback):
            used.append(name)
            return env[name]
        elif has_fallback:
            return str(fallback)
        else:
            near = get_close_matches(name, env, 1)
            known = f", did you mean {near[0]}" if near else ""
            document.report(path, f"variable {name} is not set{known}")
        return match[0]

    result = _REFERENCE.sub(substitute, text)
    if used:
        document.marks[path] = replace(document.marks[path], variables=tuple(used))
    return result or None


def with_secrets(path: Path, env: Mapping[str, str]) -> Mapping[str, str]:
    """``env``, and below it what the ``secrets.env`` at ``path`` says, if there is one."""
    if not path.exists():
        return env
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError("cannot be read", path=str(path)) from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: readable by others than its owner", hint=f"chmod 600 {path}")
    return {**_parse_secrets(path, read_text(path, max_bytes=_SECRETS_MAX_BYTES)), **env}


def _parse_secrets(path: Path, text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(stripped)
        if match is None:
            problems.append(Problem(number, "", "not NAME=value"))  # the line may hold a secret
        elif match[1] in values:
            problems.append(Problem(number, match[1], "given twice"))
        else:
            values[match[1]] = _unquoted(match[2].strip())
    if problems:
        raise refusal(path, problems)
    return values


def _unquoted(text: str) -> str:
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text
