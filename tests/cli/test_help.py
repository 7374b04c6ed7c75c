"""Every command explains itself, quickly, and every option says what it does."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from entrepot.cli import main

CPU_MAX_S = 1.5
"""A person waits without noticing; CPU time, because a busy machine is not our doing."""


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command below ``command``, groups included."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found, (*path, name)
            yield from commands(found, *path, name)


PATHS = list(commands(main))


def resolved(path: tuple[str, ...]) -> click.Command:
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found
        command = found
    return command


def test_all_commands_are_found() -> None:
    tops = {path[0] for path in PATHS if path}
    assert {"up", "down", "status", "demo", "deploy", "serve", "site", "tenant"} < tops
    assert len(PATHS) > 25


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_is_whole(path: tuple[str, ...]) -> None:
    command = resolved(path)
    assert command.help and command.help.split("\n")[0].rstrip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help.rstrip().endswith((".", ")")), parameter.name


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_is_quick(path: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "entrepot.cli", *path, "--help"],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_MAX_S
    assert done.stderr == ""
    assert done.stdout.startswith(f"Usage: entrepot {' '.join(path)}".rstrip())
    for parameter in resolved(path).params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[-1] in done.stdout


def test_the_list_of_commands_says_what_they_say() -> None:
    context = click.Context(main)
    shown = main.get_help(context)
    for path in PATHS:
        if len(path) == 1:
            assert resolved(path).get_short_help_str(limit=200)
            assert f"  {path[0]} " in shown


def test_version_and_usage() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "entrepot.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert run("--version").stdout.startswith("entrepot, version ")
    unknown = run("replicat")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "No such command 'replicat'" in unknown.stderr
