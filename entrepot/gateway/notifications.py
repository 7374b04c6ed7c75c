"""``POST /webhooks/notifications/<site>``: MinIO's bucket notifications about adopted buckets.

Invariant: closed until a site has a token; who does not send it has nothing read but the head. What
is answered 200 is in the site's catalog, or of no use to it: MinIO sends an event again until it is
taken, and one after the other, so an event that nobody can use must not be refused. 503 keeps it in
the sender's queue. A managed bucket is never touched: its catalog decides, not its store.
"""

import asyncio
import hmac
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from entrepot.catalog.states import BucketMode
from entrepot.errors import (
    AccessDenied,
    BucketNotFound,
    EntrepotError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unsupported,
)
from entrepot.gateway.notices import Told, parse_notification
from entrepot.gateway.webhooks import BODY_TIMEOUT_S, RETRY_AFTER_S, read_body, refuse_long
from entrepot.gateway.within import within
from entrepot.metrics import Metrics
from entrepot.objects.ground import Ground
from entrepot.objects.notices import take

TAKE_TIMEOUT_S: Final = 20.0
"""A store or a catalog that is silent for longer counts as away."""

_log = logging.getLogger(__name__)

_LATE: Final = (408, "timeout", "the body did not arrive in time")
_REFUSALS: Final[Mapping[type[Exception], tuple[int, str, str]]] = {
    NotFound: (404, "not_found", "nobody takes notifications of such a site"),
    AccessDenied: (401, "unauthorized", "not the token of this site"),
    LimitExceeded: (413, "too_large", "the body is too long"),
    InvalidInput: (400, "invalid", "not a notification of MinIO"),
    TimeoutError: _LATE,
    ClientDisconnect: _LATE,
}
_LATER: Final = (503, "unavailable", "send the same notification again later")

OpenGround = Callable[[], AbstractAsyncContextManager[Ground]]


@dataclass(slots=True)
class Sender:
    """A site whose store may notify; its store and catalog are opened when it first does."""

    token: SecretStr
    open: OpenGround
    _ground: Ground | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def sent(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether a request's headers (names in lower case) hold the token."""
        given = [value for name, value in headers if name == b"authorization"]
        wanted = f"Bearer {self.token.get_secret_value()}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0], wanted)

    async def ground(self) -> Ground:
        """The site, ready for use; an error leaves nothing open."""
        async with self._opening:
            if self._ground is None:
                async with AsyncExitStack() as trying:
                    ground = await trying.enter_async_context(self.open())
                    await ground.start()
                    self._stack, self._ground = trying.pop_all(), ground
            return self._ground

    async def close(self) -> None:
        """Give back what was opened."""
        self._ground = None
        await self._stack.aclose()


@dataclass(frozen=True, slots=True)
class Notifications:
    """The route and what it needs."""

    senders: Mapping[str, Sender]
    metrics: Metrics
    body_timeout_s: float = BODY_TIMEOUT_S
    take_timeout_s: float = TAKE_TIMEOUT_S

    async def receive(self, request: Request) -> Response:
        """Answers 200 with how many records came to what, or a refusal, in JSON."""
        site, known = str(request.path_params["site"]), ""
        try:
            sender = self._authenticated(request, site)
            known = site
            refuse_long(request)
            async with asyncio.timeout(self.body_timeout_s):
                body = await read_body(request)
            told = parse_notification(body)
        except tuple(_REFUSALS) as error:
            answer = next(_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS)
            return self._refuse(known, error, answer)
        try:
            came_to = await within(self._take(sender, told), timeout_s=self.take_timeout_s)
        except (EntrepotError, TimeoutError) as error:  # whatever it is, the event is not to blame
            return self._refuse(known, error, _LATER)
        for outcome, count in came_to.items():
            self.metrics.notifications.labels(known, outcome).inc(count)
        return JSONResponse(dict(came_to))

    async def close(self) -> None:
        """Close what was opened for the sites."""
        for sender in self.senders.values():
            await sender.close()

    def _authenticated(self, request: Request, site: str) -> Sender:
        sender = self.senders.get(site)
        if sender is None:
            raise NotFound("no such site, or it has no notify_token")
        if not sender.sent(request.headers.raw):
            raise AccessDenied("wrong token, or none")
        return sender

    async def _take(self, sender: Sender, told: Sequence[Told | None]) -> Counter[str]:
        came_to: Counter[str] = Counter()
        for each in told:
            outcome = "ignored" if each is None else await self._one(sender, each)
            came_to[outcome] += 1
        return came_to

    async def _one(self, sender: Sender, told: Told) -> str:
        ground = await sender.ground()
        try:
            bucket = await ground.bucket(told.bucket)
            if bucket.mode is not BucketMode.ADOPTED:
                return "ignored"
            return await take(ground, bucket, told.notice)
        except BucketNotFound:
            return "ignored"
        except (InvalidInput, Unsupported) as error:
            _log.warning("a notification of %s is left to the sweep: %r", ground.site, str(error))
            return "left"

    def _refuse(self, known: str, error: Exception, answer: tuple[int, str, str]) -> Response:
        status, outcome, message = answer
        self.metrics.notifications.labels(known, outcome).inc()
        self.metrics.errors.labels(type(error).__name__).inc()
        # As a literal: a sender's words must not look like lines of the log.
        _log.warning("notification of %s: %s: %r", known or "(unknown)", outcome, str(error))
        headers = {503: {"Retry-After": str(RETRY_AFTER_S)}, 408: {"Connection": "close"}}
        body = {"error": outcome, "message": message}
        return JSONResponse(body, status_code=status, headers=headers.get(status))
