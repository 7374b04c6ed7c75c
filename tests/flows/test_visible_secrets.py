"""No secret is seen in what Prefect stores and shows, in a log, or in a command line.

The last module by name, so that it looks at what all the runs before have left.
"""

import json
import re
import subprocess
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from tests.running import Running

EVERYTHING = {
    # What Prefect's UI can show, by the path that lists it.
    "flow runs": "/flow_runs/filter",
    "task runs": "/task_runs/filter",
    "logs": "/logs/filter",
    "artifacts": "/artifacts/filter",
    "deployments": "/deployments/filter",
    "block documents": "/block_documents/filter",
    "work pools": "/work_pools/filter",
    "automations": "/automations/filter",
    "variables": "/variables/filter",
    "events": "/events/filter",
}


@pytest.fixture(scope="module")
def used(stack: Running) -> Iterator[list[str]]:
    """The secrets, after a sweep that was started by a webhook used most of them."""
    path = stack.info.data_dir / "secrets.env"
    found = dict(line.split("=", 1) for line in path.read_text().splitlines())
    bucket = stack.bucket("secrets")
    stack.s3("site-a").put_object(Bucket=bucket, Key="key", Body=b"body")
    made = stack.json(
        *("webhook", "create", bucket, "--deployment", "replicate/nightly"),
        *("--set", f"rule={bucket}"),
    )
    sent = subprocess.run(
        ["sh", "-eu"], input=made["curl"], capture_output=True, text=True, check=True
    )
    stack.ended(json.loads(sent.stdout)["flow_run_id"])
    # The access key is a name, as a user name is: an SDK shows it in every signed request.
    secrets = [value for name, value in found.items() if not name.endswith("ACCESS_KEY")]
    _, _, password = found["ENTREPOT_PREFECT_AUTH"].partition(":")
    yield [*secrets, password, made["secret"], made["secret"].removeprefix("whsec_")]


def shown_by(secrets: list[str], text: str) -> list[int]:
    """Which secrets ``text`` holds, by number, so that a failure does not print them."""
    return [number for number, secret in enumerate(secrets) if secret in text]


@pytest.mark.parametrize("kind", EVERYTHING)
def test_prefect_shows_no_secret(stack: Running, used: list[str], kind: str) -> None:
    answer = stack.prefect.post(EVERYTHING[kind], json={})
    assert answer.is_success
    found = answer.json()
    assert found or kind == "variables"
    assert shown_by(used, answer.text) == []


def test_blocks_are_masked_and_encrypted(stack: Running, used: list[str]) -> None:
    shown = stack.api("POST", "/block_documents/filter")
    sites = [each["data"] for each in shown if "secret_key" in each["data"]]
    assert sites
    assert all(re.fullmatch(r"\*+", data["secret_key"]) for data in sites)
    clear = stack.prefect.post("/block_documents/filter", json={"include_secrets": True}).text
    assert stack.info.sites[0].secret_key.get_secret_value() in clear  # the check can see one
    assert shown_by(used, "".join(rows_of_prefect(stack))) == []


def rows_of_prefect(stack: Running) -> Iterator[str]:
    """Every row of Prefect's database, as text."""
    env = (stack.info.data_dir / "secrets.env").read_text()
    password = dict(line.split("=", 1) for line in env.splitlines())["ENTREPOT_PREFECT_DB_PASSWORD"]
    port = re.search(r":(\d+)/", stack.info.control_dsn.get_secret_value())
    assert port
    login = f"host=127.0.0.1 port={port[1]} dbname=prefect user=prefect password={password}"
    with psycopg.connect(login) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        for (name,) in names:
            yield from (
                str(row)
                for (row,) in connection.execute(f'SELECT t::text FROM "{name}" t').fetchall()  # type: ignore[arg-type]
            )


def test_our_catalogs_hold_no_secret(stack: Running, used: list[str]) -> None:
    for site in ("", *stack.sites):
        names = stack.sql(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
            site=site,
        )
        for name in names:
            rows = stack.sql(f'SELECT t::text AS row FROM "{name["table_name"]}" t', site=site)
            assert shown_by(used, "".join(row["row"] for row in rows)) == []


def test_files_hold_no_secret_beside_their_own(stack: Running, used: list[str]) -> None:
    folder = stack.info.data_dir
    files = [folder / "config.yaml", *folder.glob("*.json"), *folder.glob("logs/*")]
    files += [
        path for path in folder.glob("prefect/**/*") if path.is_file() and "/ui/" not in str(path)
    ]
    assert any(path.name == "worker.log" for path in files)
    seen = {str(path): shown_by(used, path.read_text(errors="replace")) for path in files}
    assert {path: found for path, found in seen.items() if found} == {}


def test_command_lines_hold_no_secret(stack: Running, used: list[str]) -> None:
    lines = []
    for process in psutil.process_iter(["cmdline"]):
        lines += process.info["cmdline"] or []
    assert any("prefect" in line for line in lines)
    assert shown_by(used, "\n".join(lines)) == []
