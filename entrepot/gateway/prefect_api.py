"""Prefect's REST API, as much of it as starting and watching a flow run takes.

Invariant: a call either returns what Prefect stored or raises from ``entrepot.errors``; nothing is
retried here, except that ``wait`` outlives a server that is away for a while. A run started with
an ``idempotency_key`` exists once, however often the call is made.

Words: a *deployment* is named ``flow/deployment``; *parameters* overlay the deployment's own one
level deep, so ``{"request": {"dry_run": True}}`` keeps the other defaults of ``request``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    NotFound,
    RetryableError,
    Throttled,
    Unavailable,
)

TIMEOUT_S: Final = 15.0
"""For one call; Prefect's own database timeout is 10 s, so its answer still arrives."""
CONNECTIONS_MAX: Final = 20
ARTIFACTS_MAX: Final = 200
"""Prefect's own page limit; a run of ours leaves a handful."""
POLL_MIN_S: Final = 0.25
POLL_MAX_S: Final = 2.0
DETAIL_MAX_CHARS: Final = 500

FINAL_STATES: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


@dataclass(frozen=True, slots=True)
class Deployment:
    """A registered deployment: its id, its default parameters and their JSON schema."""

    id: str
    name: str
    parameters: Mapping[str, Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A flow run; ``state`` is Prefect's state type (``SCHEDULED``, ``RUNNING``, ...)."""

    id: str
    name: str
    url: str
    state: str
    message: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a run left to be read; ``data`` is a string or JSON, as its ``type`` has it."""

    key: str
    type: str
    data: Any


class PrefectApi:
    """A client with one connection pool; use it as an async context manager.

    Args:
        api_url: ends in ``/api``, such as ``http://127.0.0.1:4200/api``.
        auth: the server's authentication string ``user:password``.
        ui_url: where people see the UI; ``api_url`` without ``/api`` by default.
    """

    def __init__(
        self,
        api_url: str,
        auth: SecretStr | None = None,
        *,
        ui_url: str | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base = api_url.rstrip("/")
        self._ui = (ui_url or self._base.removesuffix("/api")).rstrip("/")
        self._clock = clock
        user, _, password = auth.get_secret_value().partition(":") if auth else ("", "", "")
        self._client = httpx.AsyncClient(
            auth=httpx.BasicAuth(user, password) if auth else None,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            trust_env=False,  # a proxy of the environment must not see the credentials
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.aclose()

    async def ready(self) -> None:
        """Returns when the server and its database answer; raises ``Unavailable`` otherwise."""
        await self._call("GET", "/ready")

    async def deployment(self, name: str) -> Deployment:
        """The deployment ``flow/deployment``; ``NotFound`` where it is not registered."""
        flow, slash, deployment = name.partition("/")
        if not (flow and slash and deployment) or "/" in deployment:
            raise InvalidInput(
                "a deployment is named flow/deployment",
                hint="for example replicate/nightly",
                deployment=name,
            )
        path = f"/deployments/name/{quote(flow, safe='')}/{quote(deployment, safe='')}"
        try:
            found = await self._call("GET", path)
        except NotFound as error:
            raise NotFound(
                "there is no such deployment", hint="entrepot deploy", deployment=name
            ) from error
        return Deployment(
            id=str(found["id"]),
            name=name,
            parameters=found.get("parameters") or {},
            schema=found.get("parameter_openapi_schema") or {},
        )

    async def start(
        self,
        deployment: str,
        *,
        parameters: Mapping[str, Any],
        idempotency_key: str | None = None,
        tags: Sequence[str] = (),
    ) -> FlowRun:
        """Start a run; with an ``idempotency_key`` seen before, return that run instead.

        Raises ``InvalidInput`` where the parameters do not fit the deployment's schema.
        """
        found = await self.deployment(deployment)
        body: dict[str, Any] = {
            "parameters": overlay(found.parameters, parameters),
            "tags": list(tags),
            # Overrides the deployment's own switch: nothing unchecked starts through here.
            "enforce_parameter_schema": True,
        }
        if idempotency_key is not None:
            body["idempotency_key"] = idempotency_key
        return self._run(await self._call("POST", f"/deployments/{found.id}/create_flow_run", body))

    async def flow_run(self, flow_run_id: str) -> FlowRun:
        """The run as it stands."""
        return self._run(await self._call("GET", f"/flow_runs/{quote(flow_run_id, safe='')}"))

    async def wait(
        self,
        flow_run_id: str,
        *,
        timeout_s: float,
        on_change: Callable[[FlowRun], Awaitable[None] | None] | None = None,
    ) -> FlowRun:
        """Poll until the run has ended; ``Unavailable`` after ``timeout_s``.

        ``on_change`` gets the run whenever its state is another than before. While Prefect does
        not answer, polling goes on.
        """
        deadline = self._clock.monotonic() + timeout_s
        pause_s, seen = POLL_MIN_S, ""
        while True:
            try:
                run = await self.flow_run(flow_run_id)
            except RetryableError:
                if self._clock.monotonic() >= deadline:
                    raise
            else:
                if run.state != seen and on_change is not None:
                    answer = on_change(run)
                    if answer is not None:
                        await answer
                seen = run.state
                if run.is_final:
                    return run
            if self._clock.monotonic() >= deadline:
                raise Unavailable(
                    f"the flow run did not end within {timeout_s:g} s",
                    hint="is a worker running? entrepot status",
                    flow_run=flow_run_id,
                    state=seen,
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_MAX_S)

    async def artifacts(self, flow_run_id: str) -> list[Artifact]:
        """What the run left, latest first; at most 200."""
        found = await self._call(
            "POST",
            "/artifacts/filter",
            {
                "artifacts": {"flow_run_id": {"any_": [flow_run_id]}},
                "sort": "UPDATED_DESC",
                "limit": ARTIFACTS_MAX,
            },
        )
        return [
            Artifact(key=row.get("key") or "", type=row.get("type") or "", data=row.get("data"))
            for row in found
        ]

    def _run(self, found: Mapping[str, Any]) -> FlowRun:
        state = found.get("state") or {}
        return FlowRun(
            id=str(found["id"]),
            name=str(found["name"]),
            url=self.run_url(str(found["id"])),
            state=str(state.get("type") or found.get("state_type") or "PENDING"),
            message=str(state.get("message") or ""),
            parameters=found.get("parameters") or {},
        )

    def run_url(self, flow_run_id: str) -> str:
        """Where a person looks at the run."""
        return f"{self._ui}/runs/flow-run/{flow_run_id}"

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = await self._client.request(method, self._base + path, json=body)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"prefect does not answer: {type(error).__name__}",
                hint="entrepot status",
                url=self._base,
            ) from error
        if response.is_success:
            try:
                return response.json()
            except ValueError as error:
                raise IntegrityError(
                    "prefect did not answer in JSON",
                    hint="prefect.api_url must end in /api",
                    url=self._base,
                ) from error
        raise _error(response)


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top; where both hold a mapping, key by key, one level deep."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = {**below, **value}
        else:
            merged[key] = value
    return merged


def _error(response: httpx.Response) -> EntrepotError:
    """What an answer other than 2xx means here."""
    status = response.status_code
    detail = _detail(response)
    if status in {401, 403}:
        return AccessDenied(
            "prefect refuses the authentication string", hint="set prefect.auth_string"
        )
    if status == 404:
        return NotFound(f"prefect does not know this: {detail}")
    if status == 429:
        return Throttled("prefect asks to slow down")
    if status == 408 or status >= 500:
        return Unavailable(f"prefect answers {status}: {detail}", hint="entrepot status")
    return InvalidInput(f"prefect refuses: {detail}")


def _detail(response: httpx.Response) -> str:
    try:
        found = response.json()
    except ValueError:
        found = response.text
    if isinstance(found, Mapping):
        found = found.get("detail") or found.get("exception_detail") or found
    return str(found)[:DETAIL_MAX_CHARS]
