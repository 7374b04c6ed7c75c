"""Four ways to start a run, one result: Prefect's form, the command, the schedule, a webhook."""

import json
import subprocess
from datetime import timedelta
from typing import Any

import pytest

from entrepot.clock import SYSTEM_CLOCK, new_id
from tests.flows.differences import EXPECTED, make_differ
from tests.running import Running, wait_for


def by_form(stack: Running, rule: str) -> str:
    return stack.start("replicate/nightly", {"rule": rule})


def by_command(stack: Running, rule: str) -> str:
    answer = stack.json("replicate", "run", rule)
    assert answer["state"] == "COMPLETED"
    assert answer["url"] == f"{stack.info.prefect_ui_url}/runs/flow-run/{answer['id']}"
    return str(answer["id"])


def by_schedule(stack: Running, rule: str) -> str:
    """The scheduler's own run: the deployment gets one more schedule, that is soon due once."""
    deployment = stack.deployment()
    soon = SYSTEM_CLOCK.now() + timedelta(seconds=12)
    schedule = {"interval": 24 * 3600, "anchor_date": soon.isoformat()}
    path = f"/deployments/{deployment['id']}/schedules"
    request = {"request": {"rule": rule}}
    body = [{"schedule": schedule, "active": True, "parameters": request}]
    [made] = stack.prefect.post(path, json=body).raise_for_status().json()
    # The scheduler looks at what changed every 5 s, at all the rest once a minute.
    stack.api("PATCH", f"/deployments/{deployment['id']}", description=deployment["description"])
    try:
        of_deployment = {"id": {"any_": [deployment["id"]]}}

        def started() -> Any:
            runs = stack.api("POST", "/flow_runs/filter", deployments=of_deployment, limit=200)
            return [run for run in runs if run["parameters"] == request and run["start_time"]]

        [run] = wait_for(started)
        assert run["auto_scheduled"]
        stack.ended(run["id"])
        return str(run["id"])
    finally:
        stack.api("DELETE", f"{path}/{made['id']}")


def by_webhook(stack: Running, rule: str) -> str:
    """The printed command, sent three times under one delivery id."""
    name = f"hook-{new_id().hex[:8]}"
    create = ("webhook", "create", name, "--deployment", "replicate/nightly")
    script = stack.entrepot(*create, "--set", f"rule={rule}").stdout
    sent = [
        subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    answers = [json.loads(one.stdout) for one in sent]
    assert [answer["duplicate"] for answer in answers] == [False, True, True]
    tagged = {"tags": {"all_": [f"webhook:{name}"]}}
    [run] = stack.api("POST", "/flow_runs/filter", flow_runs=tagged)
    assert {answer["flow_run_id"] for answer in answers} == {run["id"]}
    return str(run["id"])


@pytest.mark.parametrize("way", [by_form, by_command, by_schedule, by_webhook])
def test_every_way_of_starting_ends_in_the_same_state(stack: Running, way: Any) -> None:
    bucket = stack.bucket(way.__name__)
    make_differ(stack, bucket)
    run = stack.ended(way(stack, bucket))

    ends = [stack.view(site, bucket) for site in stack.sites]
    assert ends == [EXPECTED, EXPECTED]

    artifacts = stack.of_run("artifacts", run["id"])
    assert {each["type"]: each["data"] for each in artifacts}["progress"] == 100.0
    [row] = stack.table(run["id"], "replicate-report")
    assert (row["bucket"], row["failed"], row["resumed"]) == (bucket, 0, False)
    assert (row["copied"], row["marked"]) == (11, 1)
    assert len(stack.of_run("task_runs", run["id"])) <= 40
    assert run["name"] == f"replicate {bucket}"
    assert run["work_queue_name"] == "critical"
