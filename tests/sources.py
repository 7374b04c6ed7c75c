"""The Python files of this repository as syntax trees, for the tests that read the code.

Words: *source* one file: its path from the repository's root, its text and its tree.
"""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIBRARY = ("entrepot", "flows", "tasks", "blocks")


@dataclass(frozen=True)
class Source:
    """One file; ``path`` is relative to the root, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def parts(self) -> tuple[str, ...]:
        """The dotted name in pieces: ``entrepot/store/__init__.py`` is (entrepot, store)."""
        parts = self.path.removesuffix(".py").split("/")
        return tuple(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def folder(self) -> tuple[str, ...]:
        """The package that holds this module, or is it."""
        return tuple(self.path.split("/")[:-1])


def sources(*folders: str) -> list[Source]:
    """All Python files under ``folders``, by path."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in sorted(paths)]


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""
