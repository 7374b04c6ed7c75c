"""Stacks of real servers for the tests of ``entrepot.embedded``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.embedded import stack


@pytest.fixture
def running(open_dir: Path) -> Iterator[tuple[stack.StackInfo, list[str]]]:
    """A stack of Postgres and one site, with the lines that its start printed; ended afterwards."""
    lines: list[str] = []
    info = stack.up(open_dir, sites=1, port_base=0, prefect=False, progress=lines.append)
    yield info, lines
    stack.down(open_dir)
