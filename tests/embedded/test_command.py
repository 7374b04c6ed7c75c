"""The commands: what they print, and their exit status."""

import json
from pathlib import Path

from click.testing import CliRunner

from entrepot.cli.up import down_command, status_command, up_command


def test_up_status_down(open_dir: Path) -> None:
    run = CliRunner().invoke
    data = ["--data", str(open_dir)]
    try:
        up = run(up_command, [*data, "--sites", "1", "--port-base", "0", "--no-prefect"])
        assert up.exit_code == 0, up.output
        assert "http://127.0.0.1:" in up.stdout
        assert "postgres: running" in up.stderr
        status = run(status_command, [*data, "--json"])
        assert status.exit_code == 0
        seen = json.loads(status.stdout)
        assert seen["healthy"]
        assert [each["name"] for each in seen["children"]] == ["postgres", "site-a"]
    finally:
        down = run(down_command, data)
    assert down.exit_code == 0
    assert f"the data stays in {open_dir}" in down.stdout
    assert run(status_command, data).exit_code == 1
    secrets = (open_dir / "secrets.env").read_text()
    for value in [line.split("=", 1)[1] for line in secrets.splitlines()]:
        assert value not in up.output + status.output + down.output


def test_usage() -> None:
    run = CliRunner().invoke
    assert run(up_command, ["--sites", "0"]).exit_code == 2
    assert run(up_command, ["--port-base", "70000"]).exit_code == 2
    help_text = run(up_command, ["--help"]).stdout
    for option in ("--sites", "--data", "--port-base", "--no-prefect", "--gateway", "--json"):
        assert option in help_text
