"""The house itself: the two commands, what CI calls, the licence, the changelog, the scripts."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.sources import ROOT

# Of https://www.gnu.org/licenses/agpl-3.0.txt
AGPL_SHA256 = "0d96a4ff68ad6d4b6f1f30f713b18d5184912ba8dd389f86aa7710db079abcb0"
KINDS = ("Security", "Removed", "Changed", "Fixed", "Added")
SCRIPTS = ["scripts/bootstrap", "scripts/check", "scripts/install-chromium"]
SCRIPTS += ["scripts/install-servers", "scripts/look", ".ci/run"]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the repository with exactly this environment."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def entry_problem(name: str, text: str) -> str:
    """What is wrong with an entry of the changelog; "" if nothing is."""
    title, _, rest = text.partition("\n")
    if not re.fullmatch(r"\d+-[a-z0-9-]+\.md", name):
        return f"{name}: the name is not <issue>-<a-few-words>.md"
    if not re.fullmatch(rf"({'|'.join(KINDS)}): [^A-Z]?.*[^.]", title):
        return f"{name}: the first line is not <kind>: <title>"
    if not re.fullmatch(r"\n\S.*\n", rest, re.DOTALL):
        return f"{name}: no text after an empty line"
    return ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert run("sh", "-n", script, PATH=os.environ["PATH"]).returncode == 0


def test_no_script_is_forgotten_here() -> None:
    there = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert there == set(SCRIPTS) - {".ci/run"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"^make test\b", readme, re.MULTILINE)
    assert re.search(r"^ *make test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "target", ["demo", "test", "up", "down", "check", "test-nightly", "bench", "clean"]
)
def test_make_knows(target: str) -> None:
    planned = run("make", "--dry-run", target, PATH=os.environ["PATH"])
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.strip()


def test_licence_is_the_official_text() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == AGPL_SHA256
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "AGPL-3.0-only"


def test_lock_is_kept_and_caches_are_not(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    assert run("git", "init", "-q", str(tmp_path), **git).returncode == 0

    def ignored(path: str) -> bool:
        return run("git", "-C", str(tmp_path), "check-ignore", "-q", path, **git).returncode == 0

    assert not ignored("uv.lock")
    assert not ignored("docs/images/replicate-run.png")
    assert ignored(".venv/bin/python")
    assert ignored("entrepot/__pycache__/clock.pyc")


def test_changelog_entries_can_be_released() -> None:
    folder = ROOT / "changelog/unreleased"
    entries = [path for path in folder.iterdir() if path.name != "README.md"]
    problems = [entry_problem(path.name, path.read_text()) for path in entries]
    assert not list(filter(None, problems))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("webhooks.md", "Added: webhooks\n\nText.\n"),
        ("3-webhooks.md", "New: webhooks\n\nText.\n"),
        ("3-webhooks.md", "Added: webhooks.\n\nText.\n"),
        ("3-webhooks.md", "Added: webhooks\nText.\n"),
        ("3-webhooks.md", "Added: webhooks\n"),
    ],
)
def test_bad_changelog_entries_are_caught(name: str, text: str) -> None:
    assert entry_problem(name, text)


def test_bootstrap_without_a_python_says_what_to_type(tmp_path: Path) -> None:
    for tool in ("dirname", "id"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    sh = str(shutil.which("sh"))
    result = run(sh, "scripts/bootstrap", PATH=str(tmp_path), ENTREPOT_CACHE=str(tmp_path))
    assert result.returncode != 0
    assert "no Python from 3.11" in result.stderr
    assert "apt-get install python3" in result.stderr


def test_missing_chromium_fails_only_where_it_is_required(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)  # nobody in particular, so that nothing is installed
    sh = str(shutil.which("sh"))
    told = run(sh, "scripts/install-chromium", PATH=str(tmp_path))
    assert told.returncode == 0
    assert "will NOT run" in told.stderr
    required = {"PATH": str(tmp_path), "ENTREPOT_REQUIRE_BROWSER": "1"}
    assert run(sh, "scripts/install-chromium", **required).returncode != 0


def test_ci_ends_with_the_closing_line_and_the_code_of_the_tests(tmp_path: Path) -> None:
    """`make` stands in for the test command: what is tested here is the report about it."""
    for folder in (".ci", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    closing = "===== 3 failed, 40 passed in 61.20s (0:01:01) ====="
    make = tmp_path / "bin/make"
    make.write_text(f"#!/bin/sh\n[ $CI = true ] && echo '{closing}'; echo make: stops; exit 2\n")
    make.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    result = run(str(tmp_path / ".ci/run"), PATH=path)
    assert result.returncode == 2
    assert result.stdout.splitlines()[-1] == closing


@pytest.mark.nightly
def test_bootstrap_from_nothing_but_a_python(tmp_path: Path) -> None:
    """A copy of the source, an empty cache and no uv: pip brings uv, uv brings the rest."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__"))
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "dirname", "id", "mktemp", "mkdir", "rm", "mv", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    python = Path(sys.base_prefix) / "bin/python3"
    (tools / "python3").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    (tools / "python3").chmod(0o755)
    environment = dict(os.environ) | {"PATH": str(tools), "ENTREPOT_CACHE": str(tmp_path / "cache")}
    first = run(str(checkout / "scripts/bootstrap"), **environment)
    assert first.returncode == 0, first.stderr
    assert "installing uv" in first.stderr
    assert run(str(checkout / ".venv/bin/entrepot"), "--help", **environment).returncode == 0
    again = run(str(checkout / "scripts/bootstrap"), **environment)
    assert (again.returncode, again.stderr) == (0, "")
