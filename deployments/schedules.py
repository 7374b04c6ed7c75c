"""What a person changed about a schedule in Prefect stays; what nobody touched follows the file.

A deployment that is registered again gets the schedules of prefect.yaml, which would undo a pause
or another hour. So each deploy keeps, in a variable of Prefect's, the schedules as it left them.
Where they are others by the next one, somebody changed them: that deployment is then registered
without schedules, which Prefect leaves as they are, and paused or not as it is. Put back as they
were, they follow again.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound

VARIABLE = "entrepot_schedules"

Plan = dict[str, Any]
"""Whether a deployment runs on its own, and when: as JSON, so that plans can be compared."""


def changed(client: SyncPrefectClient, path: Path) -> Mapping[str, Plan]:
    """Plans, by ``flow/name``, that are not as the last deploy left them."""
    left = _left(client)
    found = {}
    for name, given in _given(path).items():
        plan = _plan(client, name)
        if plan is not None and plan != left.get(name, _of_file(given)):
            found[name] = plan
    return found


def remember(client: SyncPrefectClient, path: Path, *, kept: Collection[str]) -> None:
    """Keep the plans as they are now; of what was ``kept`` goes on counting what we left."""
    left = _left(client)
    value: dict[str, Any] = {}
    for name, given in _given(path).items():
        if name in kept:
            value[name] = left.get(name, _of_file(given))
        else:
            value[name] = _plan(client, name)
    if client.read_variable_by_name(VARIABLE) is None:
        client.create_variable(VariableCreate(name=VARIABLE, value=value))
    else:
        client.update_variable(VariableUpdate(name=VARIABLE, value=value))


@contextmanager
def without(path: Path, kept: Mapping[str, Plan]) -> Iterator[Path]:
    """A file like this one that leaves these plans as they are; it is there for the body only."""
    whole = yaml.safe_load(path.read_text())
    for each in whole["deployments"]:
        if plan := kept.get(_name_of(each)):
            each.pop("schedules", None)
            each["paused"] = plan["paused"]
    with TemporaryDirectory(prefix="entrepot-deploy-") as directory:
        changed_file = Path(directory) / path.name
        changed_file.write_text(yaml.safe_dump(whole, sort_keys=False))
        yield changed_file


def _given(path: Path) -> Mapping[str, Mapping[str, Any]]:
    return {_name_of(each): each for each in yaml.safe_load(path.read_text())["deployments"]}


def _name_of(given: Mapping[str, Any]) -> str:
    flow = str(given["entrypoint"]).rpartition(".")[2]  # a flow has its function's name
    return f"{flow}/{given['name']}"


def _left(client: SyncPrefectClient) -> Mapping[str, Plan]:
    found = client.read_variable_by_name(VARIABLE)
    return found.value if found and isinstance(found.value, dict) else {}


def _of_file(given: Mapping[str, Any]) -> Plan:
    """The plan that the file gives; for a server that an earlier version deployed to."""
    schedules = [
        {
            "active": each.get("active", True),
            "schedule": CronSchedule(
                **{name: value for name, value in each.items() if name != "active"}
            ).model_dump(mode="json"),
        }
        for each in given.get("schedules", [])
    ]
    return {"paused": False, "schedules": schedules}


def _plan(client: SyncPrefectClient, name: str) -> Plan | None:
    try:
        found: DeploymentResponse = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None
    schedules = [
        {"active": bool(each.active), "schedule": each.schedule.model_dump(mode="json")}
        for each in found.schedules
    ]
    return {"paused": found.paused, "schedules": sorted(schedules, key=str)}
