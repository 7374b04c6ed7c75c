"""Variables in values, and secrets.env."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.config import load
from entrepot.config.expand import expand
from entrepot.config.source import parse
from entrepot.errors import ConfigError

ENV = {"USER_NAME": "me", "EMPTY": "", "NESTED": "${USER_NAME}", "YAML": "a: b\n- c # d"}


def expanded(text: str, env: dict[str, str] = ENV) -> object:
    document = parse(Path("config.yaml"), f"key: '{text}'\n")
    expand(document, env)
    document.check()
    return document.tree["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${USER_NAME}", "me"),
        ("<${USER_NAME}@${USER_NAME}>", "<me@me>"),
        ("${NOPE:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${USER_NAME:-other}", "me"),
        ("x${NOPE:-}", "x"),
        ("${EMPTY}", None),
        ("${NOPE:-}", None),
        ("${NESTED}", "${USER_NAME}"),
        ("${NOPE:-a:-b}", "a:-b"),
        ("$$", "$"),
        ("$${USER_NAME}", "${USER_NAME}"),
        ("pa$word", "pa$word"),
        ("$USER_NAME", "$USER_NAME"),
        ("end$", "end$"),
        ("${YAML}", "a: b\n- c # d"),
    ],
)
def test_expansion(text: str, value: str | None) -> None:
    assert expanded(text) == value


@pytest.mark.parametrize("text", ["${}", "${1A}", "${A-b}", "${A", "${ A}", "${A:-b", "${É}"])
def test_malformed_references(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write \$\$"):
        expanded(text, {"A": "a"})


@given(st.text(min_size=1))
def test_a_variable_arrives_as_it_is(value: str) -> None:
    assert expanded("${V}", {"V": value}) == value


@given(st.text(st.characters(exclude_characters="'\n\r", categories=["L", "N", "P", "S"])))
def test_doubling_dollars_keeps_any_text(text: str) -> None:
    assert (expanded(text.replace("$", "$$"), {}) or "") == text


def test_keys_are_not_expanded() -> None:
    document = parse(Path("config.yaml"), "${USER_NAME}: x\n")
    expand(document, ENV)
    assert list(document.tree) == ["${USER_NAME}"]


def _files(tmp_path: Path, secrets: str, mode: int = 0o600) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("database: {user: '${U}', password: '${P}'}\n")
    (tmp_path / "secrets.env").write_text(secrets)
    (tmp_path / "secrets.env").chmod(mode)
    return path


def test_secrets_env_supplies_what_the_environment_lacks(tmp_path: Path) -> None:
    path = _files(tmp_path, "# ours\n\nU=from the file\nexport P='a=b # c '\n")
    config = load(path, env={"U": "from outside"})
    assert config.database.user == "from outside"
    assert config.database.password
    assert config.database.password.get_secret_value() == "a=b # c "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_secrets_env_must_be_ours_alone(tmp_path: Path, mode: int) -> None:
    path = _files(tmp_path, "U=u\nP=hunter22\n", mode)
    with pytest.raises(ConfigError, match="others than its owner") as caught:
        load(path, env={})
    assert caught.value.hint == f"chmod 600 {tmp_path / 'secrets.env'}"


def test_broken_lines_of_secrets_env_are_named_not_shown(tmp_path: Path) -> None:
    path = _files(tmp_path, "U=u\nhunter22\nP=x\nP=y\n")
    with pytest.raises(ConfigError) as caught:
        load(path, env={})
    secrets = tmp_path / "secrets.env"
    assert caught.value.message == f"{secrets}:2: not NAME=value\n{secrets}:4: P: given twice"
