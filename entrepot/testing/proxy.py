"""A TCP proxy that breaks on cue, to stand before a real server.

    async with BreakableProxy("127.0.0.1", 9000) as proxy:
        store = S3Store(endpoint=proxy.endpoint, ...)
        proxy.reset_after(1000)

It knows nothing of what passes. Its port stays the same from start to close, also while it
refuses, so that clients can be seen to come back. Memory: 64 KiB a direction of a connection.

Words: *reset* a connection ended with RST, as by a crashed peer; *hang* bytes are neither taken
nor given, as behind a dead link.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

PIECE_BYTES = 64 * 1024
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST


class BreakableProxy:
    """Passes connections on to ``host:port`` until told otherwise; ``endpoint`` is its own URL."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flow = asyncio.Event()
        self._flow.set()
        self._budget_bytes: int | None = None
        self._delay_s = 0.0
        self.port = 0
        self.passed_bytes = 0
        """Bytes from the server that were passed on to clients."""
        self.taken = 0
        """Connections that were taken, of all time."""

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.refuse()
        if self._socket:
            self._socket.close()

    async def refuse(self) -> None:
        """Cut every connection and refuse new ones (ECONNREFUSED)."""
        if self._server:
            self._server.close()
            self._server = None
            self._hold()
        await self.cut()

    async def cut(self) -> None:
        """Reset every open connection; new ones work."""
        for writer in tuple(self._writers):
            _reset(writer)
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def hang(self) -> None:
        """Take connections, pass nothing, until ``heal`` or ``cut``."""
        self._flow.clear()

    def reset_after(self, n_bytes: int) -> None:
        """Once the server has answered ``n_bytes`` more in all, reset that connection; once."""
        self._budget_bytes = n_bytes

    def delay(self, seconds: float) -> None:
        """Hold each piece from the server back for so long."""
        self._delay_s = seconds

    async def heal(self) -> None:
        """Work again, without any fault."""
        self._flow.set()
        self._budget_bytes, self._delay_s = None, 0.0
        if not self._server:
            await self._listen()

    def _hold(self) -> None:
        """Keep the port without listening: whoever connects is refused."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))

    async def _listen(self) -> None:
        if not self._socket:
            self._hold()
        assert self._socket is not None
        self.port = self._socket.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=self._socket)
        self._socket = None  # the server closes it

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self.taken += 1
        self._links.add(link)
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._links.discard(link)
            self._writers.discard(writer)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        asking = asyncio.create_task(self._pass(reader, server_writer, answers=False))
        try:
            await self._pass(server_reader, writer, answers=True)
        finally:
            asking.cancel()
            server_writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(OSError), _ending(None if answers else writer):
            while piece := await reader.read(PIECE_BYTES):
                await self._flow.wait()
                if answers:
                    await asyncio.sleep(self._delay_s)
                    if self._budget_bytes is not None and len(piece) > self._budget_bytes:
                        await _send(writer, piece[: self._budget_bytes])
                        self._budget_bytes = None
                        _reset(writer)
                        return
                    self._budget_bytes = self._budget_bytes and self._budget_bytes - len(piece)
                    self.passed_bytes += len(piece)
                await _send(writer, piece)


@contextmanager
def _ending(writer: asyncio.StreamWriter | None) -> Iterator[None]:
    """Tell the server that the client is gone, however it went, so that it closes its side."""
    try:
        yield
    finally:
        if writer and not writer.is_closing():
            writer.write_eof()


async def _send(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(piece)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock and not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
