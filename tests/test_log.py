"""Log lines: one a record, structured, without secrets."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from entrepot import log
from entrepot.errors import NotFound

MARK = "Zq9#"
SECRETS = st.text(min_size=4, max_size=40).map(lambda text: MARK + text)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger below the root, which gets its handlers and level back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield logging.getLogger("entrepot.some")
    root.handlers = handlers
    root.setLevel(level)


def test_a_record_is_one_json_object(logger: logging.Logger) -> None:
    stream = io.StringIO()
    log.setup("info", as_json=True, stream=stream)
    logger.debug("too fine")
    logger.info("copied %d", 3, extra={"bucket": "b\n", "seconds": 0.5})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "info",
        "logger": "entrepot.some",
        "message": "copied 3",
        "bucket": "b\n",
        "seconds": 0.5,
    }


def test_an_error_brings_its_hint(logger: logging.Logger) -> None:
    stream = io.StringIO()
    log.setup(as_json=True, stream=stream)
    try:
        raise NotFound("no such bucket", hint="entrepot site list", bucket="b")
    except NotFound:
        logger.exception("run failed")
    record = json.loads(stream.getvalue())
    assert (record["error"], record["hint"]) == ("NotFound", "entrepot site list")
    assert record["reason"] == "no such bucket (bucket 'b')"
    assert "Traceback" in record["trace"]


def test_text_cannot_fake_a_second_record(logger: logging.Logger) -> None:
    stream = io.StringIO()
    log.setup(stream=stream)
    logger.warning("key %s", "a\n2026-01-01 info entrepot all is well", extra={"n": 1})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"key a\n2026-01-01 info entrepot all is well n=1")


@given(SECRETS, st.booleans())
def test_no_line_holds_a_secret(secret: str, as_json: bool) -> None:
    formatter = log.Formatter(as_json=as_json, secrets=[SecretStr(secret)])
    try:
        raise ValueError(f"refused {secret}")
    except ValueError:
        caught = sys.exc_info()
    message = f"login as {secret}, postgresql://u:{quote(secret, safe='')}@h/d"
    record = logging.LogRecord("x", logging.INFO, "f", 1, message, None, caught)
    record.password = secret
    record.wrapped = {"inner": [SecretStr(secret), secret]}
    line = formatter.format(record)
    assert MARK not in line
    assert quote(MARK, safe="") not in line
    assert log.MASK in line


def test_short_secrets_do_not_garble() -> None:
    formatter = log.Formatter(secrets=[SecretStr("info")])
    record = logging.LogRecord("x", logging.INFO, "f", 1, "done", None, None)
    assert " info x done" in formatter.format(record)
