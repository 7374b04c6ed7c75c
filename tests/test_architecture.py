"""The layers of the house, held: who may import whom, and who may read time, chance, environment.

Each rule is a function from one source to the lines that break it; the first tests run the rules
over the repository, the last ones show each rule catching a small offender.
"""

import ast
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.sources import LIBRARY, Source, dotted, sources

LAYERS = {
    0: (
        *("errors", "units", "clock", "stamp", "crc", "timetable", "terms"),
        *("config", "metrics", "log"),
    ),
    1: ("codec", "store", "catalog"),
    2: ("replication", "cache", "quota", "vault", "policy", "audit", "cost"),
    3: ("objects", "backup", "tenancy", "compliance"),
    4: ("gateway", "embedded", "testing"),
    5: ("blocks",),
    6: ("tasks",),
    7: ("flows",),
    9: ("cli",),
}
"""A module imports from lower layers or its own folder; layer 0 is one folder."""

LAYER_OF = {domain: layer for layer, domains in LAYERS.items() for domain in domains}
PREFECT_USERS = ("blocks", "tasks", "flows")
ENVIRONMENT_READERS = ("config", "embedded", "testing", "cli")
IMPURE = {"asyncio", "http", "multiprocessing", "shutil", "socket", "sqlite3", "subprocess"} | {
    "tempfile",
    "threading",
    "urllib",
}
"""Standard modules that do I/O: not for planners and policies."""

VALUES = {"pydantic"}
"""Libraries of frozen values, which planners and policies may use."""

TIME_AND_CHANCE = {
    *(f"time.{name}{ns}" for name in ("time", "monotonic", "perf_counter") for ns in ("", "_ns")),
    *(f"time.{name}" for name in ("process_time", "gmtime", "localtime", "ctime")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    *("datetime.date.today", "os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4"),
}
CHANCE_MODULES = ("random", "secrets")
NO_CHANCE = {"secrets.compare_digest"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
PATH_EDITS = {"append", "insert", "extend", "remove", "pop", "clear"}

CODE = sources(*LIBRARY)
MODULES = {source.parts for source in CODE}

Problems = Iterator[tuple[int, str]]


def domain_of(parts: tuple[str, ...]) -> str:
    """The row of the table that a module belongs to; "" for the package ``entrepot`` itself."""
    if parts[0] != "entrepot":
        return parts[0]
    return parts[1] if len(parts) > 1 else ""


def imports(source: Source) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and dotted name of all that a source imports: at the top, lazily, for types, by name."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = source.folder[: len(source.folder) - node.level + 1] + base
            yield from ((node.lineno, (*base, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = dotted(node.func)
            name = node.args[0].value
            if called.endswith(("import_module", "__import__")) and isinstance(name, str):
                yield node.lineno, tuple(name.split("."))


def names_used(source: Source) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of what a source uses of its imports, aliases undone."""
    full = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                full[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)
    for node in ast.walk(source.tree):
        first, _, rest = dotted(node).partition(".")
        if rest and first in full:
            yield node.lineno, f"{full[first]}.{rest}"


def layers(source: Source) -> Problems:
    """Imports that go up, sideways, or to what the table does not know."""
    own = domain_of(source.parts)
    if own and own not in LAYER_OF:
        yield 1, f"{own} is not in the table of layers"
        return
    for line, parts in imports(source):
        if parts[0] not in LIBRARY:
            continue
        other = domain_of(parts)
        if other not in LAYER_OF:
            # A name of the package itself, such as __version__, or a module not in the table.
            if parts[:2] in MODULES and len(parts) > 1:
                yield line, f"{other} is not in the table of layers"
            continue
        mine, theirs = LAYER_OF.get(own, 0), LAYER_OF[other]
        if other != own and (theirs > mine or theirs == mine > 0):
            yield line, f"layer {mine} {own} imports layer {theirs} {'.'.join(parts)}"


def prefect(source: Source) -> Problems:
    """Prefect outside blocks, tasks and flows."""
    if source.parts[0] not in PREFECT_USERS:
        for line, parts in imports(source):
            if parts[0] == "prefect":
                yield line, "imports prefect"


def purity(source: Source) -> Problems:
    """Planners and policies that import more than layer 0, their folder, and values."""
    if source.parts[-1] not in ("plan", "policy"):
        return
    for line, parts in imports(source):
        lowest = parts[0] == "entrepot" and LAYER_OF.get(domain_of(parts)) == 0
        own = len(source.folder) > 1 and parts[: len(source.folder)] == source.folder
        outside = parts[0] in (sys.stdlib_module_names | VALUES) - IMPURE
        if not (lowest or own or outside):
            yield line, f"a pure module imports {'.'.join(parts)}"


def standard_names(source: Source) -> Problems:
    """Modules that Prefect's loader could take for the standard library's."""
    if source.parts[0] in PREFECT_USERS:
        for part in source.parts[1:]:
            if part in sys.stdlib_module_names:
                yield 1, f"{part} is a module of the standard library"


def path_edits(source: Source) -> Problems:
    """Changes of ``sys.path``."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            target = node.value if isinstance(node, ast.Subscript) else node
            if dotted(target) == "sys.path":
                yield node.lineno, "assigns to sys.path"
    for line, name in names_used(source):
        stem, _, last = name.rpartition(".")
        if (stem == "sys.path" and last in PATH_EDITS) or name == "site.addsitedir":
            yield line, f"calls {name}"


def time_and_chance(source: Source) -> Problems:
    """Clocks and randomness outside ``clock.py``; a seeded ``random.Random`` is neither."""
    if source.path == "entrepot/clock.py":
        return
    for line, name in names_used(source):
        chance = name.split(".")[0] in CHANCE_MODULES and name not in NO_CHANCE
        if name in TIME_AND_CHANCE or (chance and name != "random.Random"):
            yield line, f"uses {name}"
    for node in ast.walk(source.tree):
        unseeded = isinstance(node, ast.Call) and not node.args
        if unseeded and dotted(node.func) in ("random.Random", "Random"):
            yield node.lineno, "makes an unseeded Random"


def environment(source: Source) -> Problems:
    """The environment read where it is not a setting's, a server's or a command's business."""
    if source.parts[0] == "entrepot" and domain_of(source.parts) in ENVIRONMENT_READERS:
        return
    for line, name in names_used(source):
        if name in ENVIRONMENT or name.startswith("os.environ."):
            yield line, f"uses {name}"


Rule = Callable[[Source], Problems]
RULES: list[Rule] = [layers, prefect, purity, standard_names, path_edits]
RULES += [time_and_chance, environment]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_code_keeps(rule: Rule) -> None:
    broken = [f"{source.path}:{at}: {what}" for source in CODE for at, what in rule(source)]
    assert not broken, "\n" + "\n".join(sorted(set(broken)))


def test_there_is_code_in_every_part_that_rules_speak_of() -> None:
    assert {source.parts[0] for source in CODE} == set(LIBRARY)


OFFENDERS: list[tuple[Rule, str, str]] = [
    (layers, "entrepot/units.py", "from entrepot.store import protocol"),
    (layers, "entrepot/units.py", "from entrepot import store"),
    (layers, "entrepot/store/s3.py", "from entrepot.catalog.tables import Site"),
    (layers, "entrepot/quota/ledger.py", "def f():\n    import entrepot.replication.plan"),
    (layers, "entrepot/quota/ledger.py", "from ..replication import plan"),
    (layers, "entrepot/quota/ledger.py", "importlib.import_module('entrepot.cli')"),
    (layers, "entrepot/quota/ledger.py", "if TYPE_CHECKING:\n    from entrepot.backup import x"),
    (layers, "entrepot/gateway/app.py", "from flows.replicate import replicate"),
    (layers, "entrepot/embedded/up.py", "from entrepot.testing import browser"),
    (layers, "tasks/copy_batch.py", "from flows.replicate import replicate"),
    (layers, "flows/replicate.py", "from entrepot.cli import main"),
    (layers, "entrepot/helpers/x.py", "pass"),
    (prefect, "entrepot/cli/demo.py", "def f():\n    from prefect import flow"),
    (prefect, "entrepot/gateway/hook.py", "import prefect.client"),
    (purity, "entrepot/replication/plan.py", "from entrepot.store import ObjectStore"),
    (purity, "entrepot/quota/policy.py", "import httpx"),
    (purity, "entrepot/quota/policy.py", "from urllib import request"),
    (standard_names, "flows/queue.py", "pass"),
    (standard_names, "tasks/email/send.py", "pass"),
    (path_edits, "flows/replicate.py", "import sys\nsys.path.insert(0, '.')"),
    (path_edits, "flows/replicate.py", "from sys import path\npath.append('.')"),
    (path_edits, "flows/replicate.py", "sys.path += ['.']"),
    (path_edits, "flows/replicate.py", "sys.path[:0] = ['.']"),
    (time_and_chance, "entrepot/store/s3.py", "import time as t\nt.time()"),
    (time_and_chance, "entrepot/store/s3.py", "from time import monotonic"),
    (time_and_chance, "entrepot/store/s3.py", "import datetime\ndatetime.datetime.now()"),
    (time_and_chance, "entrepot/store/s3.py", "from datetime import datetime\ndatetime.now()"),
    (time_and_chance, "entrepot/store/s3.py", "from uuid import uuid4"),
    (time_and_chance, "entrepot/store/s3.py", "import random\nrandom.random()"),
    (time_and_chance, "entrepot/store/s3.py", "import random\nrandom.Random()"),
    (time_and_chance, "entrepot/store/s3.py", "import secrets\nsecrets.token_hex()"),
    (environment, "entrepot/store/s3.py", "import os\nos.environ['A']"),
    (environment, "entrepot/store/s3.py", "import os\nos.environ.get('A')"),
    (environment, "flows/replicate.py", "from os import getenv"),
]

KEEPERS: list[tuple[Rule, str, str]] = [
    (layers, "entrepot/units.py", "from entrepot.errors import ConfigError"),
    (layers, "entrepot/quota/ledger.py", "from entrepot.quota.plan import Plan"),
    (layers, "entrepot/quota/ledger.py", "from .plan import Plan\nfrom ..store import protocol"),
    (layers, "entrepot/cli/demo.py", "def f():\n    from flows.replicate import replicate"),
    (layers, "entrepot/cli/demo.py", "from entrepot import __version__"),
    (prefect, "tasks/copy_batch.py", "from prefect import task"),
    (purity, "entrepot/replication/plan.py", "from entrepot.replication.merge import Entry"),
    (purity, "entrepot/replication/plan.py", "import enum\nfrom entrepot.errors import Busy"),
    (path_edits, "entrepot/cli/demo.py", "import sys\nfolders = list(sys.path)"),
    (time_and_chance, "entrepot/clock.py", "import time\ntime.time()"),
    (time_and_chance, "entrepot/store/s3.py", "import time\ntime.sleep(1)"),
    (time_and_chance, "entrepot/store/s3.py", "def f(secrets): return secrets.password"),
    (time_and_chance, "bench/data.py", "import random\nrandom.Random(7)"),
    (environment, "entrepot/embedded/children.py", "import os\nos.environ['PATH']"),
]


@pytest.mark.parametrize(("rule", "path", "text"), OFFENDERS)
def test_rule_catches(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), KEEPERS)
def test_rule_lets_pass(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))
