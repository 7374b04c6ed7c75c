"""``entrepot serve`` and ``entrepot webhook`` as processes; the printed command run by sh."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner
from cryptography.fernet import Fernet
from sqlalchemy.engine import make_url

from entrepot.cli.webhook import webhook as webhook_command
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.process import HOST, free_port
from tests.gateway.servers import PrefectServer

SERVE = "from entrepot.cli.serve import serve_command as run; run()"
WEBHOOK = "from entrepot.cli.webhook import webhook as run; run()"


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, control_dsn: str, prefect_server: PrefectServer
) -> Path:
    """A config file for the suite's servers and a free port."""
    dsn = make_url(control_dsn)
    settings = {
        "server": {"host": HOST, "port": free_port()},
        "minio": {"endpoint": f"http://{HOST}:1", "access_key": "a", "secret_key": "not-default"},
        "database": {
            "host": dsn.host,
            "port": dsn.port,
            "name": dsn.database,
            "user": dsn.username,
            "password": dsn.password,
        },
        "prefect": {
            "api_url": prefect_server.api_url,
            "auth_string": prefect_server.auth.get_secret_value(),
        },
        "security": {"secrets_key": Fernet.generate_key().decode()},
    }
    path = tmp_path_factory.mktemp("gateway") / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    path.chmod(0o600)
    return path


def run(program: str, *arguments: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def webhook(*arguments: str, config: Path) -> Any:
    done = run(WEBHOOK, *arguments, "--json", config=config)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-eu"], input=script, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def gateway(config: Path) -> Iterator[subprocess.Popen[str]]:
    """``entrepot serve`` for that config."""
    command = [sys.executable, "-c", SERVE, "--json", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        deadline = SYSTEM_CLOCK.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
                break
            except httpx.TransportError:
                assert SYSTEM_CLOCK.monotonic() < deadline
        yield process
        process.terminate()
        assert process.wait(30) in {0, -15, 143}


@pytest.mark.usefixtures("gateway")
def test_the_printed_command_sent_three_times_starts_one_run(
    config: Path, prefect_server: PrefectServer
) -> None:
    name = f"cli-{new_id().hex[:8]}"
    done = run(
        WEBHOOK,
        *("create", name, "--deployment", "sweep/nightly", "--allow", "prefix"),
        *("--set", "rule=photos", "--set", "shards=3"),
        config=config,
    )
    assert done.returncode == 0, done.stderr
    sent = [sh(done.stdout) for _ in range(3)]
    assert [one.returncode for one in sent] == [0] * 3, [one.stderr for one in sent]
    answers = [json.loads(one.stdout) for one in sent]
    assert [answer["duplicate"] for answer in answers] == [False, True, True]
    [made] = prefect_server.runs(tag=f"webhook:{name}")
    assert {answer["flow_run_id"] for answer in answers} == {made["id"]}
    assert made["parameters"] == {"request": {"dry_run": False, "rule": "photos", "shards": 3}}


@pytest.mark.usefixtures("gateway")
def test_the_json_form_has_the_same_command(config: Path, prefect_server: PrefectServer) -> None:
    name = f"cli-{new_id().hex[:8]}"
    made = webhook("create", name, "--deployment", "sweep/nightly", config=config)
    assert made["url"].endswith(f"/webhooks/{name}")
    curl = made["curl"].partition("\ncurl ")[2]
    assert curl and made["secret"] not in curl
    assert sh(made["curl"]).returncode == 0
    tampered = sh(made["curl"].replace("body='{}'", "body='{} '"))
    assert json.loads(tampered.stdout)["error"] == "conflict"  # same id, another body
    wrong = sh(made["curl"].replace(made["secret"], f"whsec_{'A' * 43}="))
    assert json.loads(wrong.stdout)["error"] == "unauthorized"
    assert len(prefect_server.runs(tag=f"webhook:{name}")) == 1


def test_list_and_delete(config: Path) -> None:
    name = f"cli-{new_id().hex[:8]}"
    made = webhook("create", name, "--deployment", "sweep/nightly", config=config)
    listed = run(WEBHOOK, "list", "--json", config=config).stdout
    assert made["secret"] not in listed
    assert name in {row["name"] for row in json.loads(listed)["webhooks"]}
    assert name in run(WEBHOOK, "list", config=config).stdout
    assert webhook("delete", name, config=config) == {"deleted": name}
    assert "NotFound" in run(WEBHOOK, "delete", name, config=config).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Upper", "--deployment", "sweep/nightly"), "InvalidInput"),
        (("a" * 64, "--deployment", "sweep/nightly"), "InvalidInput"),
        (("ok", "--deployment", "sweep/none"), "no such deployment"),
        (("ok", "--deployment", "sweep/nightly", "--allow", "nothing"), "not a parameter"),
        (("ok", "--deployment", "sweep/nightly", "--set", "nothing=1"), "not a parameter"),
        (("ok", "--deployment", "sweep/nightly", "--allow", "endpoint"), "never names a host"),
        (
            ("ok", "--deployment", "sweep/nightly", "--allow", "rule", "--set", "rule=x"),
            "either allowed or set",
        ),
        (("ok", "--deployment", "sweep/nightly", "--set", "rule"), "KEY=VALUE"),
        (("ok", "--deployment", "sweep/nightly", "--set", 'rule={"a": 1}'), "rule must be"),
    ],
    ids=str,
)
def test_what_cannot_be_created(config: Path, arguments: tuple[str, ...], words: str) -> None:
    # In this process, which is quicker; what click does not show is raised.
    done = CliRunner().invoke(webhook_command, ["create", *arguments, "--config", str(config)])
    assert done.exit_code != 0
    assert words in f"{done.output}{done.exception!r}"


def test_a_name_that_is_taken(config: Path) -> None:
    name = f"cli-{new_id().hex[:8]}"
    webhook("create", name, "--deployment", "sweep/nightly", config=config)
    done = run(WEBHOOK, "create", name, "--deployment", "sweep/nightly", config=config)
    assert "AlreadyExists" in done.stderr


@pytest.mark.usefixtures("gateway")
def test_a_second_gateway_on_the_port_says_so(config: Path) -> None:
    done = run(SERVE, config=config)
    assert done.returncode != 0
    assert "address already in use" in done.stderr
