"""Many callers, one statement: what waits while a batch is under way is the next batch.

A single caller's item goes at once. In a crowd, where two or more met in a batch, the next one
waits for others, but never longer than its ``patience_s``: a batch costs far more than an item, so
few large ones leave the machine to the callers. Memory: one item for each caller that waits, so
callers bound it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from entrepot.errors import PermanentError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lane(Generic[Item, Result]):
    """Runs batches one after the other, of at most ``most`` items.

    ``expected`` says how many items are worth no more patience; ``most`` by default.

    ``run`` gives a result, or an error to raise, for each item. Where it raises a permanent error
    for a batch, each item is run alone, so that one bad item does not take the others with it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        most: int = 128,
        patience_s: float = 0.0,
        expected: Callable[[], int] | None = None,
    ) -> None:
        self._run = run
        self._most = most
        self._is_idle = True
        self._patience_s = patience_s
        self._expected = expected or (lambda: most)
        self._were_many = False
        self._enough = asyncio.Event()
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """The result of this item, or its error."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._has_enough():
            self._enough.set()
        if self._is_idle:
            self._is_idle = False
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                count = min(len(self._waiting), self._most)
                self._were_many = count > 1
                await self._batch([self._waiting.popleft() for _ in range(count)])
        finally:
            self._is_idle = True

    async def _gather(self) -> None:
        """Wait for the others of a crowd, if there is one."""
        if not self._patience_s or not (self._were_many or len(self._waiting) > 1):
            return
        self._enough.clear()
        if not self._has_enough():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    await self._enough.wait()

    def _has_enough(self) -> bool:
        return len(self._waiting) >= min(self._most, self._expected())

    async def _batch(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except PermanentError as error:
            if len(batch) == 1:
                _answer(batch[0][1], error)
                return
            for one in batch:
                await self._batch([one])
        except Exception as error:  # noqa: BLE001 - every caller must hear of it, or it waits for ever
            for _, future in batch:
                _answer(future, error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                _answer(future, result)


def _answer(future: "asyncio.Future[Result]", result: Result | Exception) -> None:
    if future.done():  # the caller was cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
