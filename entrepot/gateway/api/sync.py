"""``POST /api/v1/replication/force-sync``: one call starts one sweep.

Invariant: an idempotency key of a token names one run for ever; the same key with another request
is refused, since the caller would take the first one's run for that of the second.
"""

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from entrepot.catalog.connect import Catalog
from entrepot.catalog.rule import BucketName, Prefix
from entrepot.catalog.rules import get_rule
from entrepot.catalog.tokens import Token
from entrepot.errors import AccessDenied, NotFound, Paused, PreconditionFailed, Unavailable
from entrepot.gateway.prefect_api import FlowRun, PrefectApi
from entrepot.replication.hours import Wait, can_wait, may_run

DEPLOYMENT: Final = "replicate/nightly"


class SyncRequest(BaseModel):
    """What to sweep; rules say where, a request can only narrow them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    rule: str = Field(
        default="", max_length=63, description="The rule; empty for every one that may run"
    )
    buckets: list[BucketName] = Field(
        default=[], max_length=100, description="Only these of the rule's buckets; empty for all"
    )
    prefix: Prefix = Field(default="", description="Only keys that start with this")
    dry_run: bool = Field(default=False, strict=True, description="Plan and count, change nothing")


class SyncStarted(BaseModel):
    """The run that was started, now or by an earlier call with the same key."""

    flow_run_id: str = Field(description="The run in Prefect")
    flow_run_url: str = Field(description="Where a person looks at it")
    waits_until: datetime | None = Field(
        description="When it begins to copy, where the rule rests until then"
    )


async def force_sync(
    request: SyncRequest,
    *,
    control: Catalog,
    prefect: PrefectApi,
    token: Token,
    idempotency_key: str | None,
    now: datetime,
) -> SyncStarted:
    """Start the run. ``NotFound`` without the rule, ``Paused`` where nobody knows until when."""
    waits_until = await _rests_until(control, request, now) if request.rule else None
    wanted = request.model_dump(mode="json")
    try:
        run = await prefect.start(
            DEPLOYMENT,
            parameters={"request": wanted},
            idempotency_key=f"api:{token.id}:{idempotency_key}" if idempotency_key else None,
            tags=(f"api:{token.name}",),
        )
    except (NotFound, AccessDenied) as error:  # not the caller's fault
        raise Unavailable(error.message, hint=error.hint) from error
    if not _is_of(run, wanted):
        raise PreconditionFailed("this idempotency key came with another request before")
    return SyncStarted(flow_run_id=run.id, flow_run_url=run.url, waits_until=waits_until)


async def _rests_until(control: Catalog, request: SyncRequest, now: datetime) -> datetime | None:
    rule = await get_rule(control, name=request.rule)
    answer = may_run(rule, now)
    if request.dry_run or not isinstance(answer, Wait):
        return None
    if not can_wait(answer, now):
        raise Paused(f"not now: {answer.why}", hint="entrepot replicate rule show", rule=rule.name)
    return answer.until


def _is_of(run: FlowRun, wanted: dict[str, Any]) -> bool:
    given = run.parameters.get("request", {})
    return all(given.get(name) == value for name, value in wanted.items())
