"""The helper: holds the vault open and does what clients at a unix socket ask for WAL.

It exists for two reasons: a segment is stored in a fraction of the time that starting us takes, and
Postgres' own user needs no key. Who may open the socket can read and write WAL, nothing else.

Invariant: a client is answered ``status`` 0 only after ``WalArchive.push`` returned. A helper that
is killed leaves no answer, so Postgres keeps the segment and asks again.

    question = JSON line {"op": "push" | "fetch", "name", "size"}, then ``size`` bytes
    answer = JSON line {"status", "message", "size"}, then ``size`` bytes
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from entrepot.backup.postgres.archive import WalArchive
from entrepot.backup.postgres.client import ABSENT, FATAL
from entrepot.backup.postgres.wal import SEGMENT_BYTES_MAX
from entrepot.errors import BucketNotFound, EntrepotError, LimitExceeded, NotFound, SetupError

AT_ONCE: Final = 2
"""Files that are worked on at a time. Postgres archives one, recovery asks for one."""

QUESTION_S: Final = 60.0
PATH_MAX_BYTES: Final = 100
"""Of a socket's address on every system that we know."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def helping(
    archive: WalArchive, address: Path, *, owner: tuple[int, int] | None = None
) -> AsyncGenerator[None, None]:
    """Answer at ``address`` while the block runs; only its owner (uid, gid) and we may open it.

    ``SetupError`` where another helper answers there.
    """
    if len(os.fsencode(address)) > PATH_MAX_BYTES:
        raise SetupError("the socket's path is too long", hint="a shorter one", path=str(address))
    if await asyncio.to_thread(address.exists):
        await _clear(address)
    room = asyncio.Semaphore(AT_ONCE)
    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        try:
            async with room:
                head, content = await _answer(archive, reader)
                writer.write(json.dumps(head).encode() + b"\n" + content)
                await writer.drain()
        except (OSError, EOFError, TimeoutError, ValueError, KeyError, TypeError) as error:
            # Gone, or none of ours: it was told nothing, and Postgres asks again.
            _log.warning("a client of the WAL helper ended early: %r", error)
        finally:
            answering.discard(asyncio.current_task())
            writer.close()

    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(answer, address)
    finally:
        os.umask(before)
    if owner:
        os.chown(address, *owner)
    try:
        async with server:
            yield
    finally:
        for task in filter(None, answering):
            task.cancel()
        await asyncio.to_thread(address.unlink, missing_ok=True)


async def _clear(address: Path) -> None:
    """Remove the socket of a helper that was killed."""
    try:
        _, writer = await asyncio.open_unix_connection(address)
    except OSError:
        await asyncio.to_thread(address.unlink, missing_ok=True)
        return
    writer.close()
    raise SetupError("a helper answers there already", hint="end it first", path=str(address))


async def _answer(
    archive: WalArchive, reader: asyncio.StreamReader
) -> tuple[dict[str, Any], bytes]:
    """The head of an answer, and what follows it."""
    async with asyncio.timeout(QUESTION_S):
        question = json.loads(await reader.readline() or b"null")
        if question is None:
            raise EOFError
        size_bytes = int(question["size"])
        if not 0 <= size_bytes <= SEGMENT_BYTES_MAX:
            raise LimitExceeded("a file of WAL is too large", size_bytes=size_bytes)
        content = await reader.readexactly(size_bytes)
    name, is_push = str(question["name"]), question["op"] == "push"
    try:
        found = b""
        if is_push:
            await archive.push(name, content)
        else:
            found = await archive.fetch(name)
    except EntrepotError as error:
        is_absent = isinstance(error, NotFound) and not isinstance(error, BucketNotFound)
        if is_push or not is_absent:
            fields = {"op": question["op"], "file": name, "error": str(error)}
            _log.warning("a file of WAL could not be served", extra=fields)
        status = ABSENT if is_push or is_absent else FATAL
        return {"status": status, "message": f"{error}; {error.hint}", "size": 0}, b""
    return {"status": 0, "message": "", "size": len(found)}, found
