"""Runs whose process is gone are noticed by their silence.

A worker reports a run that it saw die. When the worker dies as well, or its machine, nobody does:
the run would stay "Running" for ever and keep its deployment's one place for minutes. So every run
sends heartbeats, and an automation of Prefect's marks a silent one as crashed. Nothing is at risk
if it errs: Postgres decides who may write, not Prefect.
"""

from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

NAME = "entrepot: silent runs have crashed"
SILENCE = timedelta(seconds=120)
"""Four heartbeats; prefect.yaml sets the least time between them that Prefect allows, 30 s."""

_BEAT = "prefect.flow-run.heartbeat"
_ENDS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}


def watch_for_silence(client: SyncPrefectClient) -> None:
    """Register the automation, or bring the one that is there up to date.

    One that is as it should be is left alone: an update makes Prefect forget who was silent.
    """
    wanted = AutomationCore(
        name=NAME,
        description="A run that sent no heartbeat for two minutes has lost its process.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": "prefect.tag.entrepot"},
            after={_BEAT},
            expect={_BEAT} | _ENDS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="the run's process is gone; run the deployment again, it goes on from here",
            )
        ],
    )
    known = client.read_automations_by_name(NAME)
    if not known:
        client.create_automation(wanted)
    elif _meaning(known[0]) != _meaning(wanted):
        client.update_automation(known[0].id, wanted)


def _meaning(automation: AutomationCore) -> dict[str, Any]:
    fields = {"description", "enabled", "trigger", "actions"}
    return automation.model_dump(include=fields, exclude={"trigger": {"id"}})
