"""The routes of ``/api/v1``, as a FastAPI application with its OpenAPI document.

Invariant: every route needs a scope, refuses fields that it does not know, and is in the document;
a test compares both. The application knows nothing of tokens' texts: ``Gate`` stands before it.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Body, Depends, FastAPI, Header, Path, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import Field
from starlette.exceptions import HTTPException

from entrepot.catalog.connect import Catalog
from entrepot.catalog.rule import RuleName, RuleSpec
from entrepot.catalog.rules import Rule, delete_rule, get_rule, list_rules, put_rule
from entrepot.catalog.sites import list_sites
from entrepot.catalog.tokens import Scope, Token
from entrepot.clock import Clock
from entrepot.errors import InvalidInput, NotFound
from entrepot.gateway.api.answers import REFUSALS, answer_errors
from entrepot.gateway.api.sync import SyncRequest, SyncStarted, force_sync
from entrepot.gateway.facts import Facts
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.metrics import Metrics
from entrepot.replication.promises import check_promises
from entrepot.replication.status import Status, read_status

API_PATH: Final = "/api/v1"
_BEARER: Final = HTTPBearer(auto_error=False, description="entrepot token add NAME")
Name = Annotated[RuleName, Path(description="The rule")]
Key = Annotated[
    str | None,
    Header(
        pattern=r"^[A-Za-z0-9_-]{1,128}$",
        description="The same key, the same run, however often it is sent",
    ),
]


class RuleBody(RuleSpec):
    """A rule as it is put."""

    enabled: bool = Field(default=True, strict=True, description="Whether it is switched on")


def needs(scope: Scope) -> Callable[..., Token]:
    """A dependency: the caller's token, which must be for ``scope``; else 403."""

    def check(
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    ) -> Token:
        token = request.state.token
        assert isinstance(token, Token)
        if scope not in token.scopes:
            raise HTTPException(403, f"this token is not for {scope}")
        return token

    return check


MayRead = Annotated[Token, Depends(needs(Scope.REPLICATION_READ))]
MayWrite = Annotated[Token, Depends(needs(Scope.REPLICATION_WRITE))]


def make_api(
    *, control: Catalog, facts: Facts, prefect: PrefectApi, metrics: Metrics, clock: Clock
) -> FastAPI:
    """The application; ``Gate`` must stand before it."""
    app = FastAPI(
        title="Entrepot",
        version="1",
        description="Rules, status and sweeps of replication. See docs/api.md.",
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
        redirect_slashes=False,
    )
    answer_errors(app, metrics)
    _add_replication(app, control=control, facts=facts, prefect=prefect, clock=clock)
    _add_rules(app, control=control)
    return app


def _add_replication(
    app: FastAPI, *, control: Catalog, facts: Facts, prefect: PrefectApi, clock: Clock
) -> None:
    @app.get("/replication/status")
    async def status(_: MayRead) -> Status:
        """How every rule stands."""
        return await read_status(control, lags=await facts.lags(), now=clock.now())

    @app.post("/replication/force-sync", status_code=202)
    async def sync(
        token: MayWrite,
        request: Annotated[SyncRequest, Body()] = SyncRequest(),  # noqa: B008 (frozen)
        idempotency_key: Key = None,
    ) -> SyncStarted:
        """Sweep a rule now, or every rule that may run."""
        return await force_sync(
            request,
            control=control,
            prefect=prefect,
            token=token,
            idempotency_key=idempotency_key,
            now=clock.now(),
        )


def _add_rules(app: FastAPI, *, control: Catalog) -> None:
    @app.get("/replication/rules")
    async def rules(_: MayRead) -> list[Rule]:
        """Every rule, by name."""
        return list(await list_rules(control))

    @app.get("/replication/rules/{name}")
    async def rule(_: MayRead, name: Name) -> Rule:
        """One rule."""
        return await get_rule(control, name=name)

    @app.put("/replication/rules/{name}")
    async def put(_: MayWrite, name: Name, body: RuleBody) -> Rule:
        """Add a rule, or say it anew; refused where a site cannot keep it."""
        spec = body.spec
        try:
            check_promises(spec, await _sites_of(control, spec))
            return await put_rule(control, name=name, spec=spec, enabled=body.enabled)
        except NotFound as error:
            raise InvalidInput(error.message, hint=error.hint, **error.fields) from error

    @app.delete("/replication/rules/{name}", status_code=204)
    async def remove(_: MayWrite, name: Name) -> Response:
        """Forget a rule; no object is touched."""
        await delete_rule(control, name=name)
        return Response(status_code=204)


async def _sites_of(control: Catalog, spec: RuleSpec) -> tuple[Any, ...]:
    sites = await list_sites(control)
    for name in sorted(set(spec.sites) - {site.name for site in sites}):
        raise NotFound("no such site", hint="entrepot site list", site=name)
    return sites
