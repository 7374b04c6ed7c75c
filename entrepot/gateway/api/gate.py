"""What stands before the API: no request passes without a valid token and a bounded body.

Invariant: of a request without a valid token nothing but its head is read, whatever its path and
method are, and every such refusal looks the same (401). The body of the others is read here, at
most ``BODY_MAX_BYTES`` of it and within a time limit, before any of it is parsed.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entrepot.catalog.connect import Catalog
from entrepot.catalog.tokens import Token, find_token
from entrepot.clock import Clock
from entrepot.errors import AccessDenied, EntrepotError, LimitExceeded
from entrepot.gateway.api.bearer import parse_header
from entrepot.metrics import Metrics

BODY_MAX_BYTES: Final = 64 * 1024
RETRY_AFTER_S: Final = 10
NOBODY: Final = "0" * 64
"""What an unknown token is compared with, so that it takes as long as a known one."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets through to ``app``; the token is then in ``request.state.token``."""

    app: ASGIApp
    catalog: Catalog
    metrics: Metrics
    clock: Clock
    body_timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            token = await self._token(request)
            async with asyncio.timeout(self.body_timeout_s):
                body = await _read(request)
        except (EntrepotError, TimeoutError, ClientDisconnect) as error:
            self.metrics.errors.labels(type(error).__name__).inc()
            await _refusal(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["token"] = token
        await self.app(scope, _Again(body, receive), send)

    async def _token(self, request: Request) -> Token:
        bearer = parse_header(request.headers.raw)
        try:
            token = await find_token(self.catalog, id=bearer.id)
        except AccessDenied as error:  # Postgres refuses us, not the caller
            raise EntrepotError(error.message) from error
        proved = bearer.is_the_one(token.token_sha256 if token else NOBODY)
        if token is None or not proved or not token.is_valid(self.clock.now()):
            raise AccessDenied("no valid token")
        return token


class _Again:
    """Hands on the body that was read, then what the server says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _read(request: Request) -> bytes:
    too_long = LimitExceeded(f"the body is longer than {BODY_MAX_BYTES} bytes")
    if int(request.headers.get("content-length", "0")) > BODY_MAX_BYTES:
        raise too_long
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MAX_BYTES:
            raise too_long
    return bytes(body)


def _refusal(error: Exception) -> Response:
    if isinstance(error, AccessDenied):
        body = {"error": "unauthorized", "message": "a valid bearer token is needed"}
        return JSONResponse(body, status_code=401, headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, LimitExceeded):
        return JSONResponse({"error": "too_large", "message": str(error)}, status_code=413)
    if isinstance(error, TimeoutError | ClientDisconnect):
        body = {"error": "timeout", "message": "the body did not arrive in time"}
        return JSONResponse(body, status_code=408, headers={"Connection": "close"})
    body = {"error": "unavailable", "message": "ask again later"}
    return JSONResponse(body, status_code=503, headers={"Retry-After": str(RETRY_AFTER_S)})
