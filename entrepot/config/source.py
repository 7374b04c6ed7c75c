"""A YAML file as plain values that know the line they came from.

Values are dicts, lists, text and ``None``; every scalar stays the text that stands in the file, and
the settings model gives it its type. So ``1.3`` or ``no`` mean what the key makes of them, and a
value can never become a tag or a key. Anchors and aliases work within the limits below; tags, merge
keys and duplicate keys are refused.

Words: a *path* is the way to a value, ``("replication", "regions", 0, "name")``; its *mark* says
where it stands and how it is spelled there; a *problem* is one thing wrong, with its line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from entrepot.errors import ConfigError

MAX_BYTES: Final = 1024**2
MAX_DEPTH: Final = 16  # the deepest key of ours is at 5
MAX_VALUES: Final = 10_000  # counted after aliases are followed, so they cannot multiply

KeyPath: TypeAlias = tuple[str | int, ...]
Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | None"

# libyaml is six times faster; its composer recurses in C, hence the depth check over events before.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands: its line from 1, its raw text, its key as the file spells it.

    ``variables`` names the environment variables that went into the value.
    """

    line: int
    written: KeyPath
    raw: str | None = None
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a config file; line 0 is the file as a whole."""

    line: int
    key: str
    text: str


@dataclass(slots=True)
class Document:
    """A file while it is being read; problems gather so that all are shown together."""

    path: Path
    tree: dict[str, Tree] = field(default_factory=dict)
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, path: KeyPath) -> Mark:
        """The mark of ``path``, or of the nearest that holds it."""
        for end in range(len(path), 0, -1):
            if (found := self.marks.get(path[:end])) is not None:
                return replace(found, written=found.written + path[end:])
        return Mark(line=0, written=path)

    def report(self, path: KeyPath, text: str) -> None:
        """Note that ``path`` is wrong; one problem a path is enough."""
        mark = self.mark(path)
        key = dotted(mark.written)
        if not any(problem.key == key and problem.line == mark.line for problem in self.problems):
            self.problems.append(Problem(mark.line, key, text))

    def check(self) -> None:
        """Raise one ``ConfigError`` with every problem so far, in the order of the file."""
        if self.problems:
            raise refusal(self.path, self.problems)


def dotted(path: Iterable[str | int]) -> str:
    """``replication.regions[0].name`` for a path."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def refusal(path: Path, problems: Iterable[Problem]) -> ConfigError:
    """The error that shows ``problems``, one a line: file, line, key, what is wrong."""
    lines = []
    for problem in sorted(problems):
        place = f"{path}:{problem.line}" if problem.line else str(path)
        lines.append(": ".join(part for part in (place, problem.key, problem.text) if part))
    return ConfigError("\n".join(lines), hint="docs/settings.md lists every key")


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of ``path``; ``ConfigError`` when it is unreadable, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        problem = f"cannot be read, {(error.strerror or str(error)).lower()}"
        raise refusal(path, [Problem(0, "", problem)]) from error
    if len(raw) > max_bytes:
        raise refusal(path, [Problem(0, "", f"larger than {max_bytes} bytes")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise refusal(path, [Problem(line, "", "not UTF-8")]) from error


def parse(path: Path, text: str) -> Document:
    """Read ``text``, which came from ``path``.

    Broken YAML and passed limits raise ``ConfigError``; what is wrong with single keys is noted in
    the document's problems.
    """
    document = Document(path)
    try:
        _check_shape(path, text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise refusal(path, [_syntax_problem(error)]) from error
    if node is None:
        return document
    if not isinstance(node, yaml.MappingNode):
        raise refusal(path, [Problem(_line(node), "", "must be keys and values")])
    _Builder(document).mapping((), node)
    return document


def _check_shape(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise refusal(path, [Problem(_line(event), "", f"nested deeper than {MAX_DEPTH}")])


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "broken"
    return Problem(mark.line + 1 if mark else 0, "", f"not valid YAML, {what}")


def _line(part: yaml.Node | yaml.Event) -> int:
    return part.start_mark.line + 1 if part.start_mark else 0


class _Builder:
    """Turns nodes into a tree and marks, counting values as it goes."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def mapping(self, path: KeyPath, node: yaml.MappingNode) -> None:
        self.document.tree = self._mapping(path, node)

    def _mapping(self, path: KeyPath, node: yaml.MappingNode) -> dict[str, Tree]:
        tree: dict[str, Tree] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._note(path, key, "a key must be text")
                continue
            step = (*path, key.value)
            if key.value in tree:
                first = self.document.marks[step].line
                self._note(step, key, f"given twice, first on line {first}")
                continue
            raw = value.value if isinstance(value, yaml.ScalarNode) else None
            self.document.marks[step] = Mark(_line(key), step, raw)
            tree[key.value] = self._value(step, value)
        return tree

    def _value(self, path: KeyPath, node: yaml.Node) -> Tree:
        self.count += 1
        # Depth is checked again: an alias inside its own anchor is a loop.
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            problem = Problem(_line(node), "", "aliases unfold without end, or too many values")
            raise refusal(self.document.path, [problem])
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag[18:] not in _PLAIN_TAGS:
            self._note(path, node, "tags are not supported")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(path, node)
        if isinstance(node, yaml.SequenceNode):
            return [self._item((*path, n), item) for n, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        is_plain = not node.style  # "" from libyaml, None from PyYAML
        return None if is_plain and node.value in _NULLS else node.value

    def _item(self, path: KeyPath, node: yaml.Node) -> Tree:
        raw = node.value if isinstance(node, yaml.ScalarNode) else None
        self.document.marks[path] = Mark(_line(node), path, raw)
        return self._value(path, node)

    def _note(self, path: KeyPath, node: yaml.Node, text: str) -> None:
        self.document.problems.append(Problem(_line(node), dotted(path), text))


_PLAIN_TAGS: Final = frozenset({"str", "seq", "map"})
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
