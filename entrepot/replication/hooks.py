"""Conflict hooks: functions of others that say who wins.

A hook is named by an entry point of the group ``entrepot.conflict_hooks``. It is called with the
key and the contenders (``conflicts.Contender``, by time) and answers with the place of the winner.
It must be pure: a sweep that is killed asks again, and every site must come to the same answer.
What raises, answers nonsense or takes longer than a second has no say; nor is it asked again by
that process after it took too long, since a thread cannot be ended from outside.
"""

import asyncio
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entrepot.replication.conflicts import Contender

GROUP = "entrepot.conflict_hooks"
TIMEOUT_S = 1.0

Hook = Callable[[str, Sequence["Contender"]], int]


def installed(name: str) -> Hook | None:
    """The hook of that name, if its package is installed."""
    for point in entry_points(group=GROUP, name=name):
        loaded: Any = point.load()
        return loaded if callable(loaded) else None
    return None


class Hooks:
    """Asks hooks, found by ``find``; one for each process."""

    def __init__(self, find: Callable[[str], Hook | None] = installed) -> None:
        self._find = find
        self._slow: set[str] = set()

    async def ask(
        self, name: str, key: str, contenders: Sequence["Contender"]
    ) -> tuple[int | None, str]:
        """The winner's place and a note; ``None`` where the hook gave no answer."""
        if name in self._slow:
            return None, f"hook {name} was too slow before"
        try:
            hook = await asyncio.to_thread(self._find, name)
            if hook is None:
                return None, f"there is no hook {name}"
            async with asyncio.timeout(TIMEOUT_S):
                answer = await asyncio.to_thread(hook, key, contenders)
        except TimeoutError:
            self._slow.add(name)
            return None, f"hook {name} took longer than {TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001 - it is not our code
            return None, f"hook {name} failed: {type(error).__name__}: {error}"
        if type(answer) is not int or not 0 <= answer < len(contenders):
            return None, f"hook {name} answered {answer!r}"
        return answer, f"hook {name} chose it"


HOOKS = Hooks()
