"""How the demo is told: bars on a terminal, plain lines without one, a report at the end.

Everything goes to stderr, so that ``--json`` has stdout for itself.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Teller:
    """Speaks to the person who watches."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def chapter(self, title: str) -> None:
        """A new chapter."""
        self._console.print(f"\n[bold]{title}[/bold]")

    def line(self, text: str) -> None:
        """One line of a chapter."""
        self._console.print(f"  {text}", markup=False)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Count steps: a bar on a terminal, one line at the end without one."""
        if not self._console.is_terminal:
            yield lambda: None
            self.line(f"{what}: {total:,}")
            return
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A small table."""
        table = Table(title=title, title_justify="left", box=None, pad_edge=True)
        for number, name in enumerate(columns):
            table.add_column(name, justify="left" if number < 2 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
