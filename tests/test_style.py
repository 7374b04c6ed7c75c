"""STYLE of the code, where a machine can hold it: sizes, docstrings, errors, words.

Each rule is a function from one source (or text) to the lines that break it; the first tests run
the rules over the repository, the last ones show each rule catching a small offender.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import pytest

from entrepot import errors
from tests.sources import LIBRARY, ROOT, Source, dotted, sources

FUNCTION_MAX_LINES = 70
FUNCTION_USUAL_LINES = 40
UNUSUAL_SHARE = 0.02
MODULE_MAX_LINES = 500
MODULE_MEDIAN_LINES = 200

CATCH_ALL_ALLOWED: dict[str, str] = {
    "entrepot/replication/hooks.py::ask": "it is others' code; the default policy decides instead",
    "entrepot/objects/lanes.py::_batch": "each caller gets the error; one left out waits for ever",
}
"""Functions (``path::name``) that may swallow every exception, each with its reason."""

PRINTERS = (
    "entrepot/cli/",
    "entrepot/backup/postgres/client.py",  # a program of its own; Postgres logs what it says
    "entrepot/embedded/supervisor.py",  # a process of its own; its standard error is its log
)

PROPER_NAMES = {"Chromium", "Docker", "Go", "Linux", "Postgres", "Prefect", "Python"}
ERROR_CLASSES = {name for name, value in vars(errors).items() if isinstance(value, type)}

REGISTRY_HOSTS = (r"pypi\.", r"pythonhosted\.", r"npmjs\.", r"proxy\.golang\.", r"crates\.")
FORBIDDEN = {
    # Spelled in pieces, so that this file does not break its own rule.
    "a machine's path": re.compile(r"(?<![\w.-])/(wo" + r"rk|ro" + r"ot)/(?!\.\.\.)"),
    "a workplace": re.compile("fa" + "rm-", re.IGNORECASE),
    "a registry's host": re.compile(r"\b(" + "|".join(REGISTRY_HOSTS) + r")(org|io|com)\b"),
    "unfinished work": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    "an excuse": re.compile(
        "simpl" + "ified for now|for now, (we|this)|in a real " + "system", re.I
    ),
}
NOT_OURS = {"uv.lock", "LICENSE"}

Problems = Iterator[tuple[int, str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef

CODE = sources(*LIBRARY)
ALL_CODE = CODE + sources("bench", "tests")


def functions(source: Source) -> Iterator[Function]:
    yield from (node for node in ast.walk(source.tree) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    """From ``def`` to the last line, docstring included, decorators not."""
    assert function.end_lineno
    return function.end_lineno - function.lineno + 1


def sizes(source: Source) -> Problems:
    """Functions and modules past their limits."""
    lines = source.text.count("\n")
    if lines > MODULE_MAX_LINES:
        yield 1, f"module has {lines} lines"
    for function in functions(source):
        if lines_of(function) > FUNCTION_MAX_LINES:
            yield function.lineno, f"{function.name} has {lines_of(function)} lines"


def share_unusual(code: Iterable[Source]) -> float:
    """The share of functions longer than usual."""
    lengths = [lines_of(function) for source in code for function in functions(source)]
    return sum(length > FUNCTION_USUAL_LINES for length in lengths) / len(lengths)


def public_definitions(
    source: Source,
) -> Iterator[tuple[Function | ast.ClassDef, ast.ClassDef | None]]:
    """Public classes and functions of a module, and methods of such classes with their class."""
    for node in source.tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, None
            if isinstance(node, ast.ClassDef):
                methods = (item for item in node.body if isinstance(item, Function))
                yield from ((item, node) for item in methods if not item.name.startswith("_"))


def documented_methods(code: Iterable[Source]) -> set[str]:
    """Names of methods that some class explains: same word, same role everywhere."""
    return {
        node.name
        for source in code
        for node, owner in public_definitions(source)
        if owner and ast.get_docstring(node)
    }


def docstrings(source: Source) -> Problems:
    """Modules and public names without a docstring.

    Methods may leave it to a protocol (or a class we inherit from); properties to their class.
    """
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield 1, "module has no docstring"
    for node, owner in public_definitions(source):
        explained = owner and (owner.bases or node.name in DOCUMENTED or is_like_a_field(node))
        if not ast.get_docstring(node) and not explained:
            yield node.lineno, f"{node.name} has no docstring"


def is_like_a_field(method: Function | ast.ClassDef) -> bool:
    marks = [dotted(mark) for mark in method.decorator_list]
    return any(mark.endswith(("property", "overload", ".setter")) for mark in marks)


def catch_alls(source: Source) -> Problems:
    """``except Exception`` and wider ones, unless they end by raising again."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and is_catch_all(node):
            last, owner = node.body[-1], innermost(source, node)
            raised = isinstance(last, ast.Raise) and last.exc is None
            if not raised and f"{source.path}::{owner}" not in CATCH_ALL_ALLOWED:
                yield node.lineno, f"{owner} catches everything"


def is_catch_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or dotted(kind) in ("Exception", "BaseException") for kind in caught)


def innermost(source: Source, node: ast.ExceptHandler) -> str:
    """The name of the smallest function around ``node``."""
    around = [f for f in functions(source) if f.lineno <= node.lineno <= (f.end_lineno or 0)]
    return min(around, key=lines_of).name if around else "<module>"


def messages(source: Source) -> Problems:
    """Messages of our errors that start with a capital or end with a full stop."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if dotted(node.func).split(".")[-1] not in ERROR_CLASSES:
            continue
        first, last = ends(node.args[0])
        word = re.match(r"[A-Z][a-z]+\b", first)
        if word and word[0] not in PROPER_NAMES:
            yield node.lineno, f"message starts with a capital: {first!r}"
        if last.endswith((".", "!")) and not last.endswith("..."):
            yield node.lineno, f"message ends with a full stop: {last!r}"


def ends(message: ast.expr) -> tuple[str, str]:
    """First and last literal pieces of a message; "" where it begins or ends with a value."""
    pieces = message.values if isinstance(message, ast.JoinedStr) else [message]
    texts = [p.value if isinstance(p, ast.Constant) and p.value else "" for p in pieces] or [""]
    return str(texts[0]), str(texts[-1])


def excuses(source: Source) -> Problems:
    """Tests marked as failing or skipped without a reason."""
    for node in ast.walk(source.tree):
        marks = node.decorator_list if isinstance(node, Function | ast.ClassDef) else []
        bare = [mark for mark in marks if not isinstance(mark, ast.Call)]
        for mark in bare:
            if dotted(mark).endswith(("mark.xfail", "mark.skip")):
                yield mark.lineno, f"{dotted(mark)} without a reason"
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            named = any(keyword.arg == "reason" for keyword in node.keywords)
            if called.endswith(("mark.xfail", "mark.skip", "mark.skipif")) and not named:
                yield node.lineno, f"{called} without a reason"
            if called in ("pytest.xfail", "pytest.skip") and not (node.args or named):
                yield node.lineno, f"{called} without a reason"


def prints(source: Source) -> Problems:
    """``print`` where output belongs to the commands."""
    if not source.path.startswith(PRINTERS):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and dotted(node.func) == "print":
                yield node.lineno, "prints"


def words(text: str) -> Problems:
    """What has no business in a published text."""
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in FORBIDDEN.items():
            if found := pattern.search(line):
                yield number, f"{what}: {found[0]}"


def published_paths() -> Iterator[Path]:
    """Every file that git tracks or would track; without git, all outside of hidden folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return (ROOT / name for name in listed.stdout.split("\0") if name)
    hidden = re.compile(r"(^|/)(\.(?!ci/)|__pycache__/)")
    return (path for path in ROOT.rglob("*") if not hidden.search(str(path.relative_to(ROOT))))


def published_texts() -> Iterator[tuple[str, str]]:
    """Path from the root, and text, of what is written by us."""
    for path in published_paths():
        name = path.relative_to(ROOT).as_posix()
        if name not in NOT_OURS and path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield name, data.decode()


DOCUMENTED = documented_methods(CODE)

Rule = Callable[[Source], Problems]
RULES: list[tuple[Rule, list[Source]]] = [
    (sizes, ALL_CODE),
    (docstrings, CODE),
    (catch_alls, CODE),
    (messages, CODE),
    (prints, CODE),
    (excuses, ALL_CODE),
]


@pytest.mark.parametrize(("rule", "code"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_code_keeps(rule: Rule, code: list[Source]) -> None:
    broken = {f"{source.path}:{line}: {what}" for source in code for line, what in rule(source)}
    assert not broken, "\n" + "\n".join(sorted(broken))


def test_modules_of_tests_open_with_a_docstring() -> None:
    silent = [s.path for s in ALL_CODE if s.text.strip() and not ast.get_docstring(s.tree)]
    assert not silent


def test_few_functions_are_long() -> None:
    longest = sorted(
        ((lines_of(f), s.path, f.name) for s in CODE for f in functions(s)), reverse=True
    )
    assert share_unusual(CODE) <= UNUSUAL_SHARE, longest[:12]


def test_median_module_is_small() -> None:
    assert median(source.text.count("\n") for source in CODE) <= MODULE_MEDIAN_LINES


def test_texts_are_publishable() -> None:
    texts = dict(published_texts())
    assert {"README.md", "Makefile", ".ci/run", "entrepot/errors.py"} <= set(texts)
    broken = [f"{path}:{at}: {what}" for path, text in texts.items() for at, what in words(text)]
    assert not broken, "\n" + "\n".join(broken)


def test_allow_list_names_what_exists() -> None:
    here = {f"{source.path}::{f.name}" for source in CODE for f in functions(source)}
    assert set(CATCH_ALL_ALLOWED) <= here


LONG = "def f():\n" + "    x = 1\n" * FUNCTION_MAX_LINES
OFFENDERS: list[tuple[Rule, str]] = [
    (sizes, LONG),
    (sizes, "\n" * (MODULE_MAX_LINES + 1)),
    (docstrings, "x = 1"),
    (docstrings, '"""M."""\ndef public(): ...'),
    (docstrings, '"""M."""\nclass Public: ...'),
    (docstrings, '"""M."""\nclass Public:\n    """C."""\n    def no_such_verb(self): ...'),
    (catch_alls, "try: f()\nexcept Exception: pass"),
    (catch_alls, "try: f()\nexcept: pass"),
    (catch_alls, "def f():\n    try: g()\n    except (ValueError, BaseException) as e: h(e)"),
    (messages, "raise NotFound('No such key')"),
    (messages, "raise errors.NotFound('no such key.')"),
    (messages, "raise NotFound(f'Key {k} is gone')"),
    (messages, "error = Busy(f'held by {k}.')"),
    (excuses, "@pytest.mark.xfail\ndef test(): ..."),
    (excuses, "@pytest.mark.skipif(True)\ndef test(): ..."),
    (excuses, "def test(): pytest.skip()"),
    (prints, "def f(): print(1)"),
]
KEEPERS: list[tuple[Rule, str]] = [
    (sizes, LONG.removesuffix("    x = 1\n")),
    (docstrings, ""),
    (docstrings, '"""M."""\ndef _private(): ...'),
    (docstrings, '"""M."""\nclass C:\n    """C."""\n    def monotonic(self): ...'),
    (catch_alls, "try: f()\nexcept BaseException:\n    g()\n    raise"),
    (catch_alls, "try: f()\nexcept ValueError: pass"),
    (messages, "raise NotFound('Postgres is gone')"),
    (messages, "raise NotFound(f'{name} is gone', hint='Type this.')"),
    (messages, "raise ValueError('Not ours.')"),
    (excuses, "@pytest.mark.xfail(reason='issue 7')\ndef test(): ..."),
]


@pytest.mark.parametrize(("rule", "text"), OFFENDERS)
def test_rule_catches(rule: Rule, text: str) -> None:
    assert list(rule(Source("entrepot/store/example.py", text)))


@pytest.mark.parametrize(("rule", "text"), KEEPERS)
def test_rule_lets_pass(rule: Rule, text: str) -> None:
    assert not list(rule(Source("entrepot/store/example.py", text)))


def test_share_of_long_functions_is_counted() -> None:
    long = "def f():\n" + "    x = 1\n" * FUNCTION_USUAL_LINES
    assert share_unusual([Source("a.py", long + "def g(): ...\n" * 3)]) == 0.25


@pytest.mark.parametrize(
    "text",
    [
        "see /wo" + "rk/notes",
        "fa" + "rm-3",
        "https://pypi" + ".org/simple",
        "GOPROXY=proxy." + "golang.org",
        "# TO" + "DO later",
        "simpl" + "ified for now",
    ],
)
def test_words_are_caught(text: str) -> None:
    assert list(words(text))


@pytest.mark.parametrize("text", ["https://go.dev/dl", "a framework/library", "toDOs", "./work/x"])
def test_words_pass(text: str) -> None:
    assert not list(words(text))
