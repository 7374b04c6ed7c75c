"""A time limit that holds even where the work does not stop when told to.

``asyncio.timeout`` waits for the cancelled work to end; a database driver that first tells a
frozen server may take many seconds over that. Here the caller goes on at once.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_ending: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references


async def within(work: Coroutine[Any, Any, _T], *, timeout_s: float) -> _T:
    """The result of ``work``; ``TimeoutError`` after ``timeout_s``, while it is being cancelled."""
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if done:
            return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            _ending.add(task)
            task.add_done_callback(_forget)
            task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _ending.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain about it
