"""A stack through its life: start, kill, start again, stop; data and secrets kept."""

import io
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from minio import Minio
from pydantic import SecretStr

from entrepot.embedded import secrets, stack
from entrepot.embedded.process import leftovers
from entrepot.errors import SetupError

Running = tuple[stack.StackInfo, list[str]]


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Until it holds; fails after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def connect(dsn: SecretStr) -> psycopg.Connection:
    return psycopg.connect(dsn.get_secret_value().replace("+psycopg", ""), autocommit=True)


def client(site: stack.SiteEndpoint) -> Minio:
    return Minio(
        site.endpoint.removeprefix("http://"),
        access_key=site.access_key,
        secret_key=site.secret_key.get_secret_value(),
        secure=False,
    )


def put_data(info: stack.StackInfo) -> None:
    with connect(info.control_dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    client(info.sites[0]).make_bucket("kept")
    client(info.sites[0]).put_object("kept", "key", io.BytesIO(b"bytes"), 5)


def assert_data(info: stack.StackInfo) -> None:
    with connect(info.control_dsn) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    answer = client(info.sites[0]).get_object("kept", "key")
    assert answer.read() == b"bytes"
    answer.close()
    answer.release_conn()


def child(info: stack.StackInfo, name: str) -> stack.ChildStatus:
    return next(each for each in stack.status(info.data_dir).children if each.name == name)


def is_back(info: stack.StackInfo, name: str, killed: int) -> bool:
    seen = child(info, name)
    return seen.state == "running" and seen.pid not in (None, killed)


def test_killed_servers_come_back_with_their_data(running: Running) -> None:
    info, _ = running
    put_data(info)
    for name in ("postgres", "site-a"):
        pid = child(info, name).pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_for(partial(is_back, info, name, pid))
        assert child(info, name).restarts == 1
    assert_data(info)


def test_killed_supervisor_then_up_again_with_one_more_site(running: Running) -> None:
    info, _ = running
    put_data(info)
    before = stack.status(info.data_dir)
    assert before.healthy
    assert before.supervisor_pid
    os.kill(before.supervisor_pid, signal.SIGKILL)
    wait_for(lambda: stack.status(info.data_dir).phase == "crashed")
    assert {each.state for each in stack.status(info.data_dir).children} == {"orphaned"}

    lines: list[str] = []
    again = stack.up(info.data_dir, sites=2, prefect=False, progress=lines.append)
    assert "ending the servers that a killed supervisor left" in lines
    assert not {p.pid for p in leftovers(info.data_dir)} & {each.pid for each in before.children}
    assert again.sites[0] == info.sites[0]  # the same port and credentials
    assert [site.name for site in again.sites] == ["site-a", "site-b"]
    assert_data(again)
    with connect(again.sites[1].catalog_dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(SetupError, match="holds 2 sites, not 1"):
        stack.down(info.data_dir)
        stack.up(info.data_dir, sites=1, prefect=False)


def test_killed_supervisor_then_down(running: Running) -> None:
    info, _ = running
    supervisor = stack.status(info.data_dir).supervisor_pid
    assert supervisor
    os.kill(supervisor, signal.SIGKILL)
    stack.down(info.data_dir)
    assert leftovers(info.data_dir) == []
    stack.down(info.data_dir)  # nothing to stop is no error


def test_second_up_is_refused_and_harms_nothing(running: Running) -> None:
    info, _ = running
    before = stack.status(info.data_dir)
    with pytest.raises(SetupError, match=f"already running, pid {before.supervisor_pid}") as caught:
        stack.up(info.data_dir, prefect=False)
    assert "entrepot down" in caught.value.hint
    after = stack.status(info.data_dir)
    assert after.healthy
    assert [each.pid for each in after.children] == [each.pid for each in before.children]


def test_secrets_stay_in_their_file(running: Running) -> None:
    info, lines = running
    path = info.data_dir / "secrets.env"
    assert path.stat().st_mode & 0o777 == 0o600
    values = [line.split("=", 1)[1] for line in path.read_text().splitlines()]
    assert len(values) == len(set(values)) == 9
    files = [info.config_path, *info.data_dir.glob("*.json"), *info.data_dir.glob("logs/*")]
    shown = [*lines, repr(info), repr(stack.status(info.data_dir))]
    shown += [each.read_text() for each in files]
    for process in psutil.process_iter(["cmdline"]):
        shown += process.info["cmdline"] or []
    # The access key is a name, as a user name is: an SDK shows it in every signed request.
    hidden = [value for value in values if value != info.sites[0].access_key]
    assert not [value for value in hidden if any(value in text for text in shown)]


def test_older_secrets_get_a_token_of_notifications(running: Running) -> None:
    info, _ = running
    path = info.data_dir / "secrets.env"
    whole = path.read_text()
    older = "".join(re.findall(r"(?m)^(?!ENTREPOT_NOTIFY_TOKEN).*\n", whole))
    assert older != whole
    path.write_text(older)
    tokens = [secrets.load(path).notify_token.get_secret_value() for _ in range(2)]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 64
    assert path.read_text() == f"{older}ENTREPOT_NOTIFY_TOKEN={tokens[0]}\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_everything_listens_on_loopback_only(running: Running) -> None:
    info, _ = running
    for process in leftovers(info.data_dir):
        for connection in process.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1")


def test_config_changed_by_hand_is_kept(running: Running) -> None:
    info, _ = running
    stack.down(info.data_dir)
    mine = info.config_path.read_text() + "# mine\n"
    info.config_path.write_text(mine)
    lines: list[str] = []
    stack.up(info.data_dir, prefect=False, progress=lines.append)
    assert info.config_path.read_text() == mine
    assert (info.data_dir / "config.generated.yaml").exists()
    assert [line for line in lines if "changed by hand" in line]


def test_lost_secrets_are_not_replaced(running: Running) -> None:
    info, _ = running
    stack.down(info.data_dir)
    path = info.data_dir / "secrets.env"
    path.rename(path.with_suffix(".away"))
    with pytest.raises(SetupError, match="credentials of this data directory are gone"):
        stack.up(info.data_dir, prefect=False)
    assert not path.exists()


def test_prefect_demands_its_password_and_comes_back(open_dir: Path) -> None:
    info = stack.up(open_dir, sites=1, port_base=0)
    counting = f"{info.prefect_api_url}/flow_runs/count"
    pool = f"{info.prefect_api_url}/work_pools/entrepot"
    user, _, password = info.prefect_auth.get_secret_value().partition(":")
    try:
        assert httpx.get(f"{info.prefect_ui_url}/").status_code == 200
        settings = httpx.get(f"{info.prefect_ui_url}/ui-settings").json()
        assert settings["api_url"] == info.prefect_api_url
        assert httpx.post(counting, json={}).status_code == 401
        with httpx.Client(auth=(user, password), timeout=30) as http:
            assert http.post(counting, json={}).json() == 0
            assert http.get(pool).json()["type"] == "process"
            for name in ("worker", "prefect"):
                pid = child(info, name).pid
                assert pid
                os.kill(pid, signal.SIGKILL)
                wait_for(partial(is_back, info, name, pid), timeout_s=120)
            assert http.get(pool).is_success
    finally:
        stack.down(open_dir)
    assert leftovers(open_dir) == []
    logs = "".join(log.read_text() for log in open_dir.glob("logs/*"))
    for value in re.findall(r"=(\S+)", (open_dir / "secrets.env").read_text()):
        assert value not in logs
