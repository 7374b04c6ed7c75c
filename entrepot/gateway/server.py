"""The HTTP server: uvicorn with every limit set.

Invariant: a client that is slow or silent holds a connection for a bounded time, and many clients
hold a bounded number of them. Memory is at most ``CONNECTIONS_MAX`` times the head (16 KiB), the
flow-control window (64 KiB) and the body limit of a route (64 KiB for webhooks): about 36 MiB.
"""

import asyncio
import socket
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from entrepot.errors import SetupError

CONNECTIONS_MAX: Final = 256
HEAD_MAX_BYTES: Final = 16 * 1024
"""Request line and headers together; S3 clients stay below 8 KiB."""
HEAD_TIMEOUT_S: Final = 10.0
KEEP_ALIVE_S: Final = 5
"""Also how long the rest of a refused body is read and thrown away, so that the answer arrives."""
GRACE_S: Final = 10
"""For requests in flight when the server stops."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose head, or answered body, does not end in time."""

    head_timeout_s = HEAD_TIMEOUT_S
    rest_timeout_s: float = KEEP_ALIVE_S
    _head_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()
        self._watch_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()
        if self._rest_timer is not None:
            self._rest_timer.cancel()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_late)

    def _watch_rest(self) -> None:
        """A body that was answered already ends in time, or its connection does.

        uvicorn counts its own time anew with each piece that arrives, so one that never ends
        would be read for ever.
        """
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self.conn.their_state is h11.SEND_BODY and self._rest_timer is None:
            self._rest_timer = self.loop.call_later(self.rest_timeout_s, self.transport.close)
        elif self._rest_timer is not None and self.conn.their_state is not h11.SEND_BODY:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.conn.their_state is h11.IDLE and not busy:
            self.transport.close()


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server to be run over sockets of ``listen``."""
    settings: dict[str, Any] = {
        "http": BoundedProtocol,
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,  # one line a delivery is logged by the route itself
        "server_header": False,
        "proxy_headers": False,  # nothing here decides by the client's address
        "limit_concurrency": CONNECTIONS_MAX,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": GRACE_S,
        "h11_max_incomplete_event_size": HEAD_MAX_BYTES,
    }
    return uvicorn.Server(uvicorn.Config(app, **settings))


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket, so that a port that is taken fails before anything starts.

    Raises ``SetupError``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        reason = (error.strerror or "unknown address").lower()
        raise SetupError(
            f"cannot listen: {reason}", hint="choose another with --port", host=host, port=port
        ) from error
