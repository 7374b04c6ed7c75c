"""``POST /webhooks/<name>``: one signed delivery starts one flow run.

Invariant: of a request that is not signed with the webhook's secret nothing but its head and at
most 64 KiB of its body is read, nothing is parsed and nothing is written. A delivery id starts at
most one run: Postgres remembers it, and where that memory was lost between starting the run and
writing it down, Prefect's idempotency key finds the same run again.

The order is: size, name, signing headers, body, signature, then the body's meaning. All refusals
of a signature look alike (401); which check it was is in the log.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from entrepot.catalog.connect import Catalog
from entrepot.catalog.webhooks import (
    Delivery,
    Webhook,
    begin_delivery,
    complete_delivery,
    fail_delivery,
    get_webhook,
    prune_deliveries,
)
from entrepot.clock import Clock
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
)
from entrepot.gateway.payload import parse_payload
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.registration import is_name
from entrepot.gateway.sealing import Grant, Sealer
from entrepot.gateway.signature import Signed, parse_headers, verify
from entrepot.metrics import Metrics

BODY_MAX_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
RETRY_AFTER_S: Final = 10
OTHER_S: Final = 5.0
"""How long a send waits for another send of its id; Prefect takes well under a second."""
OTHER_POLL_S: Final = 0.25
KEEP_DELIVERIES: Final = timedelta(days=30)
"""Senders give up within days; beyond this Prefect's idempotency key still knows the run."""
PRUNE_EVERY_S: Final = 3600.0

_log = logging.getLogger(__name__)


class _Answer(NamedTuple):
    status: int
    outcome: str
    message: str = ""  # "": the error's own, for those who have proved who they are


_Answers = Mapping[type[BaseException], _Answer]

_LATER: Final = _Answer(503, "unavailable", "send the same delivery again later")
_TOO_LONG: Final = _Answer(413, "too_large", f"the body is longer than {BODY_MAX_BYTES} bytes")
_TOO_LATE: Final = _Answer(408, "timeout", "the body did not arrive in time")

# One table a step. Errors outside of it are ours or Prefect's, whatever their type, not the
# sender's: a role that Postgres refuses is AccessDenied, too.
_FIND: Final[_Answers] = {
    LimitExceeded: _TOO_LONG,
    NotFound: _Answer(404, "not_found", "there is no such webhook"),
}
_AUTHENTICATE: Final[_Answers] = {
    LimitExceeded: _TOO_LONG,
    AccessDenied: _Answer(401, "unauthorized", "not signed with this webhook's secret just now"),
    TimeoutError: _TOO_LATE,
    ClientDisconnect: _TOO_LATE,
}
_START: Final[_Answers] = {
    PreconditionFailed: _Answer(409, "conflict", "this delivery id came with another body before"),
    InvalidInput: _Answer(422, "invalid"),
}


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The route and what it needs."""

    catalog: Catalog
    prefect: PrefectApi
    sealer: Sealer
    metrics: Metrics
    clock: Clock
    body_timeout_s: float = BODY_TIMEOUT_S

    async def deliver(self, request: Request) -> Response:
        """Answers 202 with the run, or a refusal, in JSON."""
        known, answers = "", _FIND  # the metric's label is never a name that somebody made up
        try:
            refuse_long(request)
            webhook = await self._find(str(request.path_params["name"]))
            known, answers = webhook.name, _AUTHENTICATE
            grant = self.sealer.open(webhook.secret_encrypted, webhook=known)
            signed, body = await self._authenticate(request, grant)
            answers = _START
            delivery, run_id = await self._start(webhook, grant, signed, body)
        except (EntrepotError, TimeoutError, ClientDisconnect) as error:
            return self._refuse(known, error, answers)
        outcome = "accepted" if delivery.new else "duplicate"
        self.metrics.deliveries.labels(known, outcome).inc()
        _log.info("webhook %s: %s, delivery %s, run %s", known, outcome, signed.delivery_id, run_id)
        answer = {
            "flow_run_id": run_id,
            "flow_run_url": self.prefect.run_url(run_id),
            "duplicate": not delivery.new,
        }
        return JSONResponse(answer, status_code=202)

    async def forget_old(self) -> None:
        """Prune the deliveries once an hour, until cancelled."""
        while True:
            try:
                forgotten = await prune_deliveries(self.catalog, older_than=KEEP_DELIVERIES)
                _log.info("forgot %d deliveries older than %s", forgotten, KEEP_DELIVERIES)
            except EntrepotError as error:
                _log.warning("cannot prune deliveries, will try again: %s", error)
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _find(self, name: str) -> Webhook:
        webhook = await get_webhook(self.catalog, name=name) if is_name(name) else None
        if webhook is None or not webhook.enabled:
            raise NotFound("there is no such webhook")
        return webhook

    async def _authenticate(self, request: Request, grant: Grant) -> tuple[Signed, bytes]:
        signed = parse_headers(request.headers.raw)
        async with asyncio.timeout(self.body_timeout_s):
            body = await read_body(request)
        verify(signed, body, secret=grant.secret, now_s=self.clock.now().timestamp())
        return signed, body

    async def _start(
        self, webhook: Webhook, grant: Grant, signed: Signed, body: bytes
    ) -> tuple[Delivery, str]:
        given = parse_payload(body, allowed=webhook.allowed_parameters)
        delivery = await self._begin(webhook.name, signed.delivery_id, body)
        if delivery.flow_run_id is not None:
            return delivery, delivery.flow_run_id
        try:
            run = await self.prefect.start(
                webhook.deployment,
                parameters={"request": {**grant.fixed_parameters, **given}},
                idempotency_key=f"webhook:{webhook.name}:{signed.delivery_id}",
                tags=(f"webhook:{webhook.name}",),
            )
        except EntrepotError:
            with suppress(EntrepotError):  # what is raised below says more than this could
                await fail_delivery(
                    self.catalog, webhook=webhook.name, delivery_id=signed.delivery_id
                )
            raise
        await complete_delivery(
            self.catalog,
            webhook=webhook.name,
            delivery_id=signed.delivery_id,
            flow_run_id=run.id,
        )
        return delivery, run.id

    async def _begin(self, webhook: str, delivery_id: str, body: bytes) -> Delivery:
        """Ours to start, or another's that did; after ``OTHER_S`` one whose starter may be dead.

        Starting that one again is safe: Prefect finds the run by its idempotency key.
        """
        deadline = self.clock.monotonic() + OTHER_S
        digest = hashlib.sha256(body).hexdigest()
        while True:
            delivery = await begin_delivery(
                self.catalog, webhook=webhook, delivery_id=delivery_id, body_sha256=digest
            )
            settled = delivery.new or delivery.flow_run_id is not None
            if settled or self.clock.monotonic() >= deadline:
                return delivery
            await asyncio.sleep(OTHER_POLL_S)

    def _refuse(self, known: str, error: Exception, answers: _Answers) -> Response:
        answer = next((answers[kind] for kind in type(error).__mro__ if kind in answers), _LATER)
        self.metrics.deliveries.labels(known, answer.outcome).inc()
        self.metrics.errors.labels(type(error).__name__).inc()
        # As a literal: a payload's words must not look like lines of the log.
        _log.warning("webhook %s: %s: %r", known or "(unknown)", answer.outcome, str(error))
        body = {"error": answer.outcome, "message": answer.message or str(error)}
        if not answer.message and isinstance(error, EntrepotError) and error.hint:
            body["hint"] = error.hint
        headers = {}
        if answer is _LATER:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        if answer.status == 408:
            headers["Connection"] = "close"
        return JSONResponse(body, status_code=answer.status, headers=headers)


def refuse_long(request: Request) -> None:
    """``LimitExceeded`` where the head says that the body is longer than ``BODY_MAX_BYTES``."""
    length = request.headers.get("content-length", "0")  # the server lets digits through only
    if int(length) > BODY_MAX_BYTES:
        raise LimitExceeded("the body is too long")


async def read_body(request: Request) -> bytes:
    """The body; ``LimitExceeded`` past ``BODY_MAX_BYTES``."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MAX_BYTES:
            raise LimitExceeded("the body is too long")
    return bytes(body)
