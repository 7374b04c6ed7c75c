"""Killed in the middle, run again, same end: the flow, the worker, Prefect's server, a site."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.running import FINAL, MANY, Json, Running, wait_for


@pytest.fixture
def filled(stack: Running, request: pytest.FixtureRequest) -> Iterator[str]:
    """A rule over 4,000 objects that are at site A only."""
    bucket = stack.bucket(request.node.originalname)
    stack.fill("site-a", bucket, MANY)
    yield bucket
    stack.sql("DELETE FROM rules WHERE name = %s RETURNING name", bucket)


def assert_same_end(stack: Running, bucket: str) -> None:
    """Both sites hold the same one version of each key."""
    a, b = (stack.history(site, bucket) for site in stack.sites)
    assert a == b
    assert len(a) == len({entry.key for entry in a}) == 4000


def kill(stack: Running, run_id: str) -> None:
    process = stack.flow_process(run_id)
    assert process
    process.send_signal(signal.SIGKILL)


def resumed(stack: Running, rule: str) -> Json:
    """Sweep again; the row of its report, which went on where the one before was."""
    run = stack.replicate(rule)
    [row] = stack.table(run["id"], "replicate-report")
    assert row["resumed"] is True
    # Of the job, over both runs; what was copied between the last checkpoint and the kill is not.
    assert 1000 <= row["copied"] <= 4000
    job = stack.job(rule)
    assert (job["epoch"], job["state"]) == (2, "completed")
    return run


def test_killed_flow_goes_on_where_it_was(stack: Running, filled: str) -> None:
    run_id = stack.in_the_middle(filled)
    kill(stack, run_id)
    assert "exited with status code: -9" in stack.ended(run_id, "CRASHED")["state"]["message"]
    cursors = stack.sql(
        "SELECT number, cursor FROM job_shards WHERE job_id = %s", stack.job(filled)["id"]
    )
    assert any(row["cursor"] for row in cursors)
    assert 0 < len(stack.history("site-b", filled)) < 4000
    run = resumed(stack, filled)
    assert_same_end(stack, filled)
    assert len(stack.of_run("task_runs", run["id"])) <= 40


@pytest.mark.nightly  # with the others more than five minutes; tests/embedded kills it by day
def test_killed_prefect_server_comes_back_and_the_end_is_the_same(
    stack: Running, filled: str
) -> None:
    run_id = stack.in_the_middle(filled)
    before = stack.child("prefect")
    assert before.pid
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: stack.child("prefect").restarts > before.restarts)
    wait_for(lambda: stack.child("prefect").state == "running")
    wait_for(lambda: stack.run(run_id)["state_type"] in FINAL)
    stack.replicate(filled)  # whatever became of the run: the next one ends it
    assert_same_end(stack, filled)


DIRECT = """
import sys
from flows.replicate import ReplicateRequest, replicate
print(replicate(ReplicateRequest(rule=sys.argv[1])).model_dump_json())
"""


def test_two_runs_at_once_never_both_write(stack: Running, filled: str) -> None:
    first = stack.in_the_middle(filled)
    queued = stack.start("replicate/nightly", {"rule": filled})
    # A plain call of the flow knows nothing of the deployment's limit: Postgres decides.
    with subprocess.Popen(
        [sys.executable, "-c", DIRECT, filled],
        env=stack.info.client_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as direct:
        wait_for(lambda: stack.run(queued)["state_name"] == "AwaitingConcurrencySlot")
        assert stack.run(first)["state_type"] == "RUNNING"
        stack.api("POST", f"/flow_runs/{queued}/set_state", state={"type": "CANCELLED"})
        stack.ended(first)
        report = json.loads(direct.communicate(timeout=120)[0])
    assert direct.returncode == 0
    assert [row["copied"] for row in report["buckets"]] == [0]
    earlier, later = stack.sql(
        "SELECT * FROM jobs WHERE subject = %s ORDER BY started_at", f"{filled}/{filled}/"
    )
    assert (earlier["state"], later["state"]) == ("completed", "completed")
    assert (earlier["epoch"], later["epoch"]) == (1, 2)
    assert earlier["finished_at"] <= later["started_at"]
    assert_same_end(stack, filled)


@pytest.mark.nightly  # two minutes of silence are waited for
def test_a_run_that_nobody_saw_die_is_noticed_and_taken_over(stack: Running, filled: str) -> None:
    run_id = stack.in_the_middle(filled)
    flow, before = stack.flow_process(run_id), stack.child("worker")
    assert flow and before.pid
    os.kill(before.pid, signal.SIGKILL)
    flow.send_signal(signal.SIGKILL)  # both at once, as when a machine loses power
    wait_for(lambda: stack.child("worker").restarts > before.restarts)
    wait_for(lambda: stack.child("worker").state == "running")
    # Nobody saw the flow die; its silence is noticed, and its place is free again.
    crashed = stack.ended(run_id, "CRASHED", timeout_s=240)
    assert "the run's process is gone" in crashed["state"]["message"]
    resumed(stack, filled)
    assert_same_end(stack, filled)
