"""The gateway's application: routes, and what they share for as long as the process runs.

Invariant: every answer is JSON (``/metrics`` excepted), names no version of anything, and no
request waits for longer than the limits of its route.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from entrepot.catalog.connect import Catalog
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import EntrepotError
from entrepot.gateway.api.app import API_PATH, make_api
from entrepot.gateway.api.gate import Gate
from entrepot.gateway.facts import Facts
from entrepot.gateway.notifications import Notifications, Sender
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.sealing import Sealer
from entrepot.gateway.webhooks import BODY_TIMEOUT_S, Webhooks
from entrepot.gateway.within import within
from entrepot.metrics import CONTENT_TYPE, Metrics

READY_TIMEOUT_S: Final = 3.0


def create_app(
    *,
    control: Catalog,
    sites: Mapping[str, Catalog],
    prefect: PrefectApi,
    sealer: Sealer,
    senders: Mapping[str, Sender] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    metrics: Metrics | None = None,
    serve_metrics: bool = True,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> Starlette:
    """The application; it closes the catalogs and the client when the server stops.

    Args:
        control: the control catalog.
        sites: the site catalogs by site, for usage and lag.
        prefect: the client of the Prefect server that runs the flows.
        sealer: opens the webhooks' secrets.
        senders: the sites whose stores may send bucket notifications.
    """
    metrics = metrics or Metrics()
    facts = Facts(control=control, sites=sites, clock=clock)
    api = make_api(control=control, facts=facts, prefect=prefect, metrics=metrics, clock=clock)
    webhooks = Webhooks(control, prefect, sealer, metrics, clock, body_timeout_s)
    notifications = Notifications(senders or {}, metrics, body_timeout_s)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        postgres, server = await asyncio.gather(_state(_ping(control)), _state(prefect.ready()))
        parts = {"postgres": postgres, "prefect": server}
        ready = set(parts.values()) == {"ok"}
        return JSONResponse(parts, status_code=200 if ready else 503)

    async def scrape(_: Request) -> Response:
        return Response(metrics.render(await facts.read()), media_type=CONTENT_TYPE)

    async def failed(_: Request, error: Exception) -> Response:
        metrics.errors.labels(type(error).__name__).inc()
        return JSONResponse({"error": "internal", "message": "see the log"}, status_code=500)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        pruning = asyncio.create_task(webhooks.forget_old())
        yield
        pruning.cancel()
        await notifications.close()
        await prefect.close()
        for catalog in (control, *sites.values()):
            await catalog.close()

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/webhooks/{name}", webhooks.deliver, methods=["POST"]),
        Route("/webhooks/notifications/{site}", notifications.receive, methods=["POST"]),
        Mount(API_PATH, app=Gate(api, control, metrics, clock, body_timeout_s)),
    ]
    if serve_metrics:
        routes.append(Route("/metrics", scrape, methods=["GET"]))
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: failed},
    )
    app.router.redirect_slashes = False
    return app


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "not_found", 405: "method_not_allowed"}
    body = {"error": words.get(error.status_code, "refused"), "message": error.detail}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _ping(catalog: Catalog) -> None:
    async with catalog.begin() as connection:
        await connection.exec_driver_sql("SELECT 1")


async def _state(check: Coroutine[Any, Any, None]) -> str:
    """``ok``, or in one word why not; never an address."""
    try:
        await within(check, timeout_s=READY_TIMEOUT_S)
    except TimeoutError:
        return "timeout"
    except EntrepotError as error:
        return type(error).__name__
    return "ok"
