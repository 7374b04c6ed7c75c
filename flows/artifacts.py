"""What a run leaves for a person to read in Prefect's UI: a bar while it works, tables after.

A key names a row of history: the same table of every run, newest first. Prefect allows small
letters, digits and dashes in it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

ROWS_MAX = 100


class Progress:
    """A progress bar that only moves forward; a move under one percent costs no call."""

    def __init__(self, key: str, description: str) -> None:
        self._id: UUID = create_progress_artifact(  # type: ignore[assignment] # sync here
            progress=0.0, key=_key(key), description=description
        )
        self._shown = 0.0

    def show(self, share: float) -> None:
        """Move to ``share`` (0 to 1)."""
        percent = round(100 * min(max(share, 0.0), 1.0), 1)
        if percent >= self._shown + 1.0 or (percent == 100.0 != self._shown):
            self._shown = percent
            update_progress_artifact(artifact_id=self._id, progress=percent)

    def close(self) -> None:
        """Show that all is done."""
        self.show(1.0)


class Living:
    """A text (Markdown) that is written anew while a run works: one row, whatever becomes of it."""

    def __init__(self, key: str, description: str) -> None:
        self._shown = "nothing yet"
        self._id: UUID = create_markdown_artifact(  # type: ignore[assignment] # sync here
            markdown=self._shown, key=_key(key), description=description
        )

    def show(self, text: str) -> None:
        """Write it anew; the same text costs no call."""
        if text != self._shown:
            self._shown = text
            with get_client(sync_client=True) as client:
                client.update_artifact(self._id, ArtifactUpdate(data=text))


def table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Leave a table of at most 100 rows."""
    shown = [dict(row) for row in rows[:ROWS_MAX]]
    create_table_artifact(key=_key(key), table=shown, description=description)


def markdown(key: str, text: str, description: str) -> None:
    """Leave a page of text."""
    create_markdown_artifact(key=_key(key), markdown=text, description=description)


def _key(text: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:100]
