"""From a file to a ``Config``: find, parse, expand, validate, refuse.

Every problem of a file is gathered and shown in one ``ConfigError``, a line each: file, line, key,
what is wrong and the nearest key that would be right. A message quotes what stands in the file,
never what a variable held, and nothing at all of a secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from entrepot.config.expand import expand, with_secrets
from entrepot.config.model import Config
from entrepot.config.paths import SECRETS_NAME, environment, find_config
from entrepot.config.schema import (
    OTHER_SPELLINGS,
    find,
    keys_in,
    kind_of,
    limits_of,
    settings,
    submodel,
)
from entrepot.config.source import Document, KeyPath, Mark, Tree, dotted, parse, read_text

DEFAULT_SECRETS: Final = frozenset({"minioadmin", "minioadmin123", "password"})
"""Secrets that ship with servers and manuals, and are tried first by whoever looks for a way in."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config with the file it came from and the marks of the keys that the file gives."""

    config: Config
    path: Path
    marks: Mapping[KeyPath, Mark]


def load(
    path: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    insecure_demo: bool = False,
) -> Config:
    """The settings of ``path``, else of the file that ``find_config`` finds.

    ``env`` stands in for the environment. ``insecure_demo`` lets well-known default credentials
    pass. Raises ``ConfigError`` with everything that is wrong.
    """
    return load_marked(path, env=env, insecure_demo=insecure_demo).config


def load_marked(
    path: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    insecure_demo: bool = False,
) -> Loaded:
    """``load``, keeping where each value came from."""
    env = environment(env)
    path = find_config(path, env=env)
    document = parse(path, read_text(path))
    expand(document, with_secrets(path.parent / SECRETS_NAME, env))
    _rename_other_spellings(document)
    config = None
    try:
        config = Config.model_validate(document.tree)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _report(document, details)
    if config is not None and not insecure_demo:
        _refuse_default_secrets(document, config)
    document.check()
    assert config is not None, "a failed validation leaves problems"
    return Loaded(config, path, document.marks)


def _rename_other_spellings(document: Document) -> None:
    """Move values to the keys that we call them by; they keep the mark of the file's spelling."""
    for other, ours in OTHER_SPELLINGS.items():
        section, old = other.split(".")
        tree = document.tree.get(section)
        if not isinstance(tree, dict) or old not in tree:
            continue
        path: KeyPath = tuple(ours.split("."))
        value = tree.pop(old)
        mark = document.marks.pop((section, old))
        for step in path[1:-1]:
            inner = tree.get(str(step)) or {}
            tree[str(step)] = inner
            tree = inner if isinstance(inner, dict) else {}  # else refused as no section later
        if path in document.marks:
            document.marks[section, old] = mark
            document.report((section, old), f"is another spelling of {ours}, keep one of them")
            continue
        tree[str(path[-1])] = _mode(value) if old == "active_active" else value
        document.marks[path] = mark


def _mode(active_active: Tree) -> Tree:
    known = {"true": "active-active", "false": "active-passive"}
    return known.get(active_active, active_active) if isinstance(active_active, str) else None


def _report(document: Document, details: ErrorDetails) -> None:
    """Note one error of Pydantic's in our words."""
    context = details.get("ctx", {})
    path: KeyPath = (*details["loc"], *context.get("path", ()))
    mark = document.mark(path)
    field = find(path)
    kind = details["type"]
    if kind == "extra_forbidden":
        text = _unknown(path)
    elif kind == "missing":
        text = "is required"
    elif field is None or kind == "combination":
        text = details["msg"]
    elif kind in ("greater_than_equal", "less_than_equal", "too_long"):
        text = f"must be {_range(path)}"
    elif submodel(field):
        text = "must be a list" if kind == "tuple_type" else "must hold keys and values"
    elif kind.endswith(("_type", "_parsing", "literal_error")):
        text = f"expected {kind_of(field)}".replace("secret", "text")
    else:
        text = details["msg"][0].lower() + details["msg"][1:]
    document.report(path, f"{text}, not {mark.raw!r}" if _is_quotable(kind, field, mark) else text)


def _is_quotable(kind: str, field: FieldInfo | None, mark: Mark) -> bool:
    """Whether a message may show what stands in the file: never where a secret may have slipped."""
    if field is None or submodel(field) or kind_of(field) == "secret" or mark.raw is None:
        return False
    # A URL may carry a password; the other three are not about the value.
    return kind not in {"url", "origin", "extra_forbidden", "missing", "combination"}


def _unknown(path: KeyPath) -> str:
    name = str(path[-1])
    siblings = keys_in(path[:-1])
    near = get_close_matches(name, siblings, 1)
    if near:
        return f"unknown key, did you mean {dotted((*path[:-1], near[0]))}"
    everywhere: dict[str, str] = {}
    for setting in sorted(settings(), key=lambda setting: setting.key.split(".")[0] != path[0]):
        steps = setting.key.split(".")
        for n, step in enumerate(steps, start=1):
            everywhere.setdefault(step, ".".join(steps[:n]))  # first those of the same section
    near = get_close_matches(name, everywhere, 1, 0.8)
    if near:
        return f"unknown key, did you mean {everywhere[near[0]]}"
    return f"unknown key, known here are {', '.join(siblings)}"


def _range(path: KeyPath) -> str:
    field = find(path)
    assert field is not None
    low, high = limits_of(field)
    return f"from {low} to {high}" if low is not None else f"at most {high} items"


def _refuse_default_secrets(document: Document, config: Config) -> None:
    places = [
        (("minio", "secret_key"), config.minio.secret_key),
        (("database", "password"), config.database.password),
        (("prefect", "auth_string"), config.prefect.auth_string),
        *(
            (("replication", "regions", n, "secret_key"), region.secret_key)
            for n, region in enumerate(config.replication.regions)
        ),
        *(
            (("backup", "vaults", n, "secret_key"), vault.secret_key)
            for n, vault in enumerate(config.backup.vaults)
        ),
    ]
    for path, secret in places:
        text = secret.get_secret_value() if secret else ""
        if text in DEFAULT_SECRETS or text.rpartition(":")[2] in DEFAULT_SECRETS:
            document.report(path, "a well-known default, choose another or use --insecure-demo")
