"""A process that works on a ring: ``python -m tests.codec.keys.worker VERB ...``.

``rotate DIRECTORY ROOT TENANT COUNT`` and ``first DIRECTORY ROOT TENANT`` wait for a line on
standard input, so that several start together, and print numbers and secrets' hashes.

``killed VERB TEMPLATE OUT ROOT NEW_ROOT`` copies the ring TEMPLATE to OUT/1, OUT/2, ... and does
VERB to each in a child that is killed (SIGKILL) before its n-th change of the disk, until a child
lives to the end. Python's audit events are what is counted.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing, TenantKey
from tests.codec.keys.tools import copy_of

CHANGES = {"open", "os.link", "os.rename", "os.remove", "os.mkdir"}

VERBS: dict[str, Callable[[KeyRing, LocalRoot], Awaitable[object]]] = {
    "first": lambda ring, _: ring.current("new"),
    "rotate": lambda ring, _: ring.rotate("acme"),
    "rewrap": lambda ring, new_root: ring.rewrap(new_root),
    "shred-key": lambda ring, _: ring.shred("acme", number=1),
    "shred-tenant": lambda ring, _: ring.shred("acme"),
}


def shown(key: TenantKey) -> tuple[int, str]:
    return key.number, hashlib.sha256(key.secret).hexdigest()


async def rotate(directory: str, root: str, tenant: str, count: str) -> None:
    ring = KeyRing(Path(directory), LocalRoot.from_file(Path(root)))
    sys.stdin.readline()
    keys = [shown(await ring.rotate(tenant)) for _ in range(int(count))]
    sys.stdout.write(json.dumps(keys))


async def first(directory: str, root: str, tenant: str) -> None:
    ring = KeyRing(Path(directory), LocalRoot.from_file(Path(root)))
    sys.stdin.readline()
    sys.stdout.write(json.dumps(shown(await ring.current(tenant))))


def killed(verb: str, template: str, out: str, root: str, new_root: str) -> None:
    n = 0
    survived = False
    while not survived:
        n += 1
        copy = copy_of(Path(template), Path(out) / str(n))
        child = os.fork()
        if not child:
            _die_at(n, str(copy))
            ring = KeyRing(copy, LocalRoot.from_file(Path(root)))
            asyncio.run(_do(VERBS[verb](ring, LocalRoot.from_file(Path(new_root)))))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        survived = status == 0
        assert survived or os.WTERMSIG(status) == signal.SIGKILL, status
    sys.stdout.write(str(n))


async def _do(work: Awaitable[object]) -> None:
    await work


def _die_at(n: int, below: str) -> None:
    seen = 0

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in CHANGES and str(args[0]).startswith(below):
            seen += 1
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "killed":
        killed(*arguments)
    else:
        together: dict[str, Callable[..., Coroutine[None, None, None]]]
        together = {"rotate": rotate, "first": first}
        asyncio.run(together[verb](*arguments))
