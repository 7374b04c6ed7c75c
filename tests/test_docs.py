"""Docs that cannot drift: what a user can name is looked for in what a user can read.

Each kind of name is discovered from the code (commands, settings, metrics, blocks, flows,
deployments), so a new one without a line in the docs fails here.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import ModuleType

import click
import pytest
import yaml
from prefect import Flow
from prefect.blocks.core import Block
from pydantic import BaseModel

from entrepot.cli import main
from entrepot.config.schema import settings
from tests.sources import LIBRARY, ROOT, Source, dotted, sources

METRIC_MAKERS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "FactMetric"}

Pages = dict[str, str]
"""Text by path from the root."""


@cache
def pages() -> Pages:
    """The README and everything under ``docs``."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def missing(names: Iterable[str], texts: Pages) -> list[str]:
    """Names that no page holds as a whole word."""
    everything = "\n".join(texts.values())
    return [
        name
        for name in names
        if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", everything)
    ]


def missing_of(owner: str, names: Iterable[str], texts: Pages) -> list[str]:
    """Names that stand, as code, on no page that speaks of ``owner`` as code."""
    about = [text for text in texts.values() if re.search(rf"`{re.escape(owner)}\b", text)]
    return [f"{owner}: {name}" for name in names if not any(f"`{name}`" in text for text in about)]


def commands(group: click.Group, path: str = "entrepot") -> Iterator[str]:
    """Full names of all commands, groups included, hidden ones not."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command, name
        if not command.hidden:
            yield f"{path} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def metrics(code: Iterable[Source]) -> Iterator[str]:
    """Names given to the makers of metrics."""
    for source in code:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in METRIC_MAKERS:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value


def modules(folder: str) -> list[ModuleType]:
    return [importlib.import_module(".".join(source.parts)) for source in sources(folder)]


def blocks() -> dict[str, list[str]]:
    """Fields of every block, by the block's class."""
    return {
        kind.__name__: [name for name in kind.model_fields if not name.startswith("_")]
        for module in modules("blocks")
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Block) and kind.__module__ == module.__name__
    }


def flows() -> dict[str, Flow]:
    """Every flow by its name in Prefect."""
    found = [value for module in modules("flows") for value in vars(module).values()]
    return {value.name: value for value in found if isinstance(value, Flow)}


def parameters(function: Callable[..., object]) -> Iterator[str]:
    """Parameters of a flow; for a model, its fields as a person fills them in the form."""
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = parameter.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from kind.model_fields
        else:
            yield name


def deployments(text: str) -> list[str]:
    """``flow/deployment`` of every entry of a ``prefect.yaml``."""
    entries = yaml.safe_load(text).get("deployments", [])
    return [f"{flow_at(entry['entrypoint']).name}/{entry['name']}" for entry in entries]


def flow_at(entrypoint: str) -> Flow:
    """The flow that an entrypoint (``module.function`` or ``file:function``) names."""
    module, _, name = entrypoint.replace(".py:", ".").replace("/", ".").rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow), entrypoint
    return found


def first_code_block(text: str) -> list[str]:
    """The lines of a page's first fenced block."""
    found = re.search(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found[1].splitlines() if found else []


def broken_links(path: str, text: str) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of a page."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / path).parent / name
        if name and not file.exists():
            broken.append(f"{path}: {target}")
        elif anchor and (not name or file.suffix == ".md"):
            there = file.read_text() if name else text
            broken += [] if anchor in anchors(there) else [f"{path}: {target}"]
    return broken


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+\s+(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def expect_none(lines: list[str]) -> None:
    assert not lines, "not in the docs:\n" + "\n".join(lines)


def test_commands_are_documented() -> None:
    found = list(commands(main))
    assert "entrepot demo" in found
    expect_none(missing(found, pages()))


def test_settings_are_documented() -> None:
    found = [setting.key for setting in settings()]
    assert "server.port" in found
    expect_none(missing(found, pages()))


def test_metrics_are_documented() -> None:
    found = list(metrics(sources(*LIBRARY)))
    assert "minio_storage_used_bytes" in found
    expect_none(missing(found, pages()))


def test_blocks_are_documented() -> None:
    found = blocks()
    assert found
    expect_none([line for name in found for line in missing_of(name, found[name], pages())])


def test_flows_and_parameters_are_documented() -> None:
    found = flows()
    assert {"replicate", "account-usage"} <= {name.replace("_", "-") for name in found}
    named = {name: parameters(flow.fn) for name, flow in found.items()}
    expect_none([line for name in named for line in missing_of(name, named[name], pages())])


def test_deployments_are_documented() -> None:
    found = deployments((ROOT / "deployments/prefect.yaml").read_text())
    assert len(found) >= 2
    expect_none(missing(found, pages()))


def test_readme_opens_with_a_sentence_a_picture_and_the_two_commands() -> None:
    readme = pages()["README.md"]
    paragraphs = [part for part in readme.split("\n\n") if not part.startswith("#")]
    assert paragraphs[0].strip().count(". ") == 0
    assert paragraphs[0].strip().endswith(".")
    assert re.fullmatch(r"!\[.+\]\(docs/images/.+\.png\)", paragraphs[1].strip())
    typed = [line.split("#")[0].strip() for line in first_code_block(readme)]
    assert typed == ["make demo", "make test"]


def test_links_lead_somewhere() -> None:
    everywhere = pages() | {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for path in [ROOT / "CHANGELOG.md", *(ROOT / "changelog").rglob("*.md")]
    }
    expect_none([line for path, text in everywhere.items() for line in broken_links(path, text)])


TEXTS = {"a.md": "Type `entrepot up`. `Site` has `name`; server.port is a TCP port."}


def test_missing_names_are_caught() -> None:
    assert not missing(["entrepot up", "server.port", "port"], TEXTS)
    lacking = ["entrepot down", "entrepot u", "server.portal", "erver.port", "up`s"]
    assert missing(lacking, TEXTS) == lacking


def test_missing_fields_are_caught() -> None:
    texts = TEXTS | {"b.md": "`Rule` has a `prefix`."}
    assert missing_of("Site", ["name", "prefix"], texts) == ["Site: prefix"]
    assert missing_of("Nobody", ["name"], texts) == ["Nobody: name"]


def test_nested_commands_are_found() -> None:
    @click.group()
    def top() -> None: ...

    @top.group()
    def site() -> None: ...

    @site.command("add")
    def add() -> None: ...

    @top.command(hidden=True)
    def secret() -> None: ...

    assert sorted(commands(top, "x")) == ["x site", "x site add"]


def test_metrics_are_found() -> None:
    text = 'A = Counter("a_total", "A")\nB = prom.Gauge("b", "B")\nC = collections.Counter()'
    assert list(metrics([Source("x.py", text)])) == ["a_total", "b"]


def test_model_parameters_are_their_fields() -> None:
    class Options(BaseModel):
        batch: int
        dry_run: bool

    def flow(options: Options, *, rule: str) -> None: ...

    assert list(parameters(flow)) == ["batch", "dry_run", "rule"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("[a](README.md) ![b](LICENSE) [c](https://example.org/x) `[d](nowhere.md)`", 0),
        ("# The one\n[a](#the-one)", 0),
        ("[a](nowhere.md)", 1),
        ("# The one\n[a](#the-other)", 1),
        ("![b](docs/images/nowhere.png)", 1),
    ],
)
def test_broken_links_are_caught(text: str, count: int) -> None:
    assert len(broken_links("x.md", text)) == count


def test_first_code_block_is_read() -> None:
    assert first_code_block("a\n```sh\nmake demo\n```\n```\nb\n```\n") == ["make demo"]
    assert first_code_block("nothing") == []
