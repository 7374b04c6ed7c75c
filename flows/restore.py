"""A bucket back to an instant: first a plan that changes nothing, then exactly that plan.

    plan → report              without ``plan`` and ``undo``
    apply → report             with one of them

What comes back is a new version, what was written since gets a delete marker, and nothing is
destroyed; ``undo`` brings back what there was before a plan was applied. Task runs: 1.
"""

from collections.abc import Mapping
from typing import Any, Self
from uuid import UUID

from prefect import flow, get_run_logger
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from entrepot.backup.apply import Applied
from entrepot.errors import IntegrityError
from flows import artifacts, hints
from tasks.restore import apply_saved, plan_bucket


class RestoreRequest(BaseModel):
    """What to plan, or which plan to carry out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: UUID | None = Field(
        default=None, description="Id of a saved plan: carry out that, and nothing else"
    )
    undo: UUID | None = Field(
        default=None, description="Id of a plan that was applied: bring back what was before"
    )
    vault: str = Field(default="", max_length=63, description="Plan from this vault")
    site: str = Field(default="", max_length=63, description="Where the bucket is")
    bucket: str = Field(default="", max_length=63, description="The bucket that was backed up")
    time: AwareDatetime | None = Field(
        default=None, description="The instant; left out, what the last snapshot has"
    )
    prefixes: tuple[str, ...] = Field(
        default=(), max_length=100, description="Only keys that start so; empty for all"
    )
    into: str = Field(
        default="", max_length=63, description="Another bucket there, which has none of the keys"
    )

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        asked = bool(self.plan) + bool(self.undo) + bool(self.vault or self.site or self.bucket)
        if asked != 1 or not (self.plan or self.undo or (self.vault and self.site and self.bucket)):
            raise ValueError("give a plan, or one to undo, or vault, site and bucket to plan")
        return self


class RestoreReport(BaseModel):
    """The plan that was made, or what came of one."""

    model_config = ConfigDict(frozen=True)

    plan_id: UUID
    counts: Mapping[str, int]


@flow(
    name="restore",
    flow_run_name="restore",
    description=__doc__,
    validate_parameters=True,
    persist_result=False,
)
def restore(request: RestoreRequest) -> RestoreReport:
    """Plan a restore, or carry out a plan.

    Args:
        request: The bucket and the instant to plan; or the plan to carry out, or to undo
    """
    with hints.shown():
        if plan_id := request.plan or request.undo:
            return _apply(plan_id, back=request.plan is None)
        return _plan(request)


def _plan(request: RestoreRequest) -> RestoreReport:
    plan = plan_bucket(
        request.vault,
        request.site,
        request.bucket,
        time=request.time,
        prefixes=request.prefixes,
        into=request.into,
    )
    names = ("add", "revert", "hide", "unchanged", "lost", "bytes", "seconds", "basis")
    row: dict[str, Any] = {"plan": str(plan.id), **{name: plan.totals[name] for name in names}}
    artifacts.table("restore-plan", [row], "What the plan would do; nothing was changed")
    get_run_logger().info("to carry it out: entrepot restore apply %s", plan.id)
    return RestoreReport(plan_id=plan.id, counts={name: plan.totals[name] for name in names[:6]})


def _apply(plan_id: UUID, *, back: bool) -> RestoreReport:
    bar = artifacts.Progress("restore-progress", "keys back to what they were")
    applied: Applied = apply_saved(plan_id, back=back)
    artifacts.table("restore-findings", applied.findings, "Keys that moved or failed")
    bar.close()
    if applied.failed:
        raise IntegrityError(
            f"{applied.failed} keys did not come back",
            hint="see the artifact restore-findings",
            plan=str(plan_id),
        )
    return RestoreReport(plan_id=plan_id, counts=applied.counts())
