"""Work side by side, with one error where there are several."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from entrepot.errors import is_retryable

T = TypeVar("T")


async def side_by_side(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all of ``works`` at once and give their results in order.

    The first failure ends the others, and it is raised itself, not in a group, so that whoever asks
    ``is_retryable`` gets an answer; where several came together, one for which trying again is no
    help goes first.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        raise min(failed.exceptions, key=is_retryable) from None
    return [task.result() for task in tasks]
