"""The stream as a flow: always at work, followed when it dies, seen by those who look."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from entrepot.cli.replicate.status import _lags
from entrepot.clock import new_id
from entrepot.objects.check import check
from entrepot.objects.open import open_objects
from tests.running import Json, Running, wait_for


def at_each(stack: Running, work: Any, sites: tuple[str, ...] = ("site-a", "site-b")) -> None:
    """Do something with the objects of sites, one after the other."""

    async def do() -> None:
        for site in stack.config.sites():
            if site.name in sites:
                async with open_objects(stack.config, site) as objects:
                    await work(objects)

    asyncio.run(do())


@pytest.fixture
def streamed(stack: Running) -> Iterator[str]:
    """A managed, encrypted bucket at both sites, and a rule over it."""
    bucket = f"streamed-{new_id().hex[:12]}"

    async def create(objects: Any) -> None:
        await objects.create_bucket(bucket, tenant_id="acme", encrypted=True)

    at_each(stack, create)
    stack.entrepot("replicate", "rule", "add", bucket, "--bucket", bucket)
    yield bucket
    stack.sql("DELETE FROM rules WHERE name = %s RETURNING name", bucket)
    for site in ("site-a", "site-b"):
        stack.sql("DELETE FROM outbox_consumers RETURNING name", site=site)
        stack.sql("DELETE FROM dead_letters RETURNING id", site=site)
        stack.sql("DELETE FROM buckets WHERE name = %s RETURNING 1", bucket, site=site)


def put(stack: Running, bucket: str, key: str, body: bytes = b"x") -> None:
    async def write(objects: Any) -> None:
        await objects.put(bucket, key, body)

    at_each(stack, write, ("site-a",))


def keys_at_b(stack: Running, bucket: str) -> set[str]:
    query = "SELECT o.key FROM objects o JOIN buckets b ON b.id = o.bucket_id WHERE b.name = %s"
    return {row["key"] for row in stack.sql(query, bucket, site="site-b")}


def cancel(stack: Running, run_id: str) -> None:
    """Have a run end, unless it did."""
    if stack.run(run_id)["state_type"] == "RUNNING":
        path = f"/flow_runs/{run_id}/set_state"
        stack.api("POST", path, state={"type": "CANCELLING"})


def at_work(stack: Running, rule: str) -> Json | None:
    """The job of the rule's stream, once it ships."""
    query = "SELECT * FROM jobs WHERE kind = 'replicate_stream' AND subject = %s ORDER BY epoch"
    jobs = stack.sql(query, rule)
    return (
        jobs[-1]
        if jobs and follows(stack, rule, "site-a") and jobs[-1]["state"] == "running"
        else None
    )


def follows(stack: Running, rule: str, site: str) -> bool:
    """Whether what is written at the site is kept for the rule's stream from now on."""
    query = "SELECT 1 FROM outbox_consumers WHERE starts_with(name, %s)"
    return bool(stack.sql(query, f"{rule}>", site=site))


def worked_on(stack: Running, rule: str, run_id: str) -> bool:
    """Whether that run has had the rule's stream."""
    query = "SELECT 1 FROM jobs WHERE subject = %s AND flow_run_id = %s"
    return bool(stack.sql(query, rule, run_id))


@contextmanager
def told_of_runs(stack: Running) -> Iterator[None]:
    """A failure in the block says which streams there were, and what automations did."""
    try:
        yield
    except AssertionError as error:
        runs = stack.api(
            "POST",
            "/flow_runs/filter",
            flows={"name": {"any_": ["replicate_stream"]}},
            flow_runs={"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            sort="EXPECTED_START_TIME_ASC",
        )
        facts = ("name", "state_name", "created", "start_time", "end_time", "parameters")
        error.add_note("\n".join(str([run[fact] for fact in facts]) for run in runs))
        named = {"event": {"prefix": ["prefect.automation"]}}
        for each in stack.api("POST", "/events/filter", filter=named)["events"]:
            error.add_note(f"{each['occurred']} {each['event']} {each['payload']}"[:300])
        raise


@pytest.mark.timeout(600)
def test_what_is_written_is_brought_and_a_run_that_dies_is_followed(
    stack: Running, streamed: str
) -> None:
    started = stack.start("replicate_stream/always", {"rule": streamed, "for_s": 300})
    wait_for(lambda: at_work(stack, streamed))
    put(stack, streamed, "first/k")
    wait_for(lambda: keys_at_b(stack, streamed) == {"first/k"})
    wait_for(lambda: stack.json("replicate", "lag", streamed)[0]["waiting"] == 0)
    wait_for(lambda: stack.run(started)["state_type"] in ("RUNNING", "COMPLETED"))
    # Whose turn it is may have changed: every ten minutes a run for every rule takes over.
    job = wait_for(lambda: at_work(stack, streamed))
    run_id = job["flow_run_id"]
    process = stack.flow_process(run_id)
    assert process
    os.kill(process.pid, signal.SIGKILL)
    put(stack, streamed, "second/k")
    lags = stack.json("replicate", "lag", streamed)
    [behind] = [lag for lag in lags if lag["source"] == "site-a"]
    assert (behind["target"], behind["prefix"], behind["waiting"]) == ("site-b", "second/", 1)
    # The automation starts the next one, for every rule, once the worker has told of the crash.
    stack.ended(run_id, "CRASHED")
    with told_of_runs(stack):
        wait_for(lambda: "second/k" in keys_at_b(stack, streamed), timeout_s=300)
    follower = wait_for(lambda: at_work(stack, streamed))
    assert follower["flow_run_id"] != run_id and follower["epoch"] > job["epoch"]
    # A run that is started takes over, and the one before ends well.
    last = stack.start("replicate_stream/always", {"rule": streamed, "for_s": 15})
    with told_of_runs(stack):
        wait_for(lambda: worked_on(stack, streamed, last))
    put(stack, streamed, "third/k")
    wait_for(lambda: "third/k" in keys_at_b(stack, streamed))
    stack.ended(last)
    [row] = stack.table(last, "stream-report")
    assert (row["rule"], row["dead"]) == (streamed, 0)
    [chart] = [
        each["data"]
        for each in stack.of_run("artifacts", last)
        if each["key"] == f"stream-{streamed}"
    ]
    assert "Lag in the last hour" in chart


@pytest.mark.timeout(600)
def test_a_rule_that_was_handed_over_is_taken_back_when_nobody_works_on_it(
    stack: Running, streamed: str
) -> None:
    """A run for every rule goes on where a run of one rule ended, also if it has no other rule."""
    everything = stack.start("replicate_stream/always", {})
    wait_for(lambda: worked_on(stack, streamed, everything))
    short = stack.start("replicate_stream/always", {"rule": streamed, "for_s": 5})
    wait_for(lambda: worked_on(stack, streamed, short))
    stack.ended(short)
    with told_of_runs(stack):
        wait_for(lambda: at_work(stack, streamed))  # by it, or by one that took over from it
    put(stack, streamed, "k")
    wait_for(lambda: "k" in keys_at_b(stack, streamed))
    # The next run for every rule takes over from it, and then it ends.
    following = stack.start("replicate_stream/always", {})
    stack.ended(everything)
    wait_for(lambda: worked_on(stack, streamed, following))


def test_dead_letters_are_shown_and_sent_again(stack: Running, streamed: str) -> None:
    for site in ("site-a", "site-b"):
        stack.sql("DELETE FROM outbox_consumers RETURNING name", site=site)
    query = "UPDATE buckets SET tenant_id = %s WHERE name = %s RETURNING name"
    stack.sql(query, "another", streamed, site="site-b")
    run_id = stack.start("replicate_stream/always", {"rule": streamed, "for_s": 15})
    wait_for(lambda: at_work(stack, streamed))
    put(stack, streamed, "k")
    [letter] = wait_for(lambda: stack.json("replicate", "dead-letters"))
    assert (letter["bucket"], letter["key"], letter["target"]) == (streamed, "k", "site-b")
    assert "another tenant" in letter["reason"]
    stack.sql(query, "acme", streamed, site="site-b")
    said = stack.entrepot("replicate", "dead-letters", "retry", "site-a", code=2)
    assert "not the id of a dead letter" in said.stderr
    stack.entrepot("replicate", "dead-letters", "retry", letter["id"])
    wait_for(lambda: keys_at_b(stack, streamed) == {"k"})
    assert stack.json("replicate", "dead-letters") == []
    assert stack.entrepot("replicate", "dead-letters", "retry", "--all").stdout == "0 put back\n"
    stack.ended(run_id)


def test_what_is_written_to_an_adopted_bucket_is_brought(stack: Running) -> None:
    """By anybody, straight to the store: the stream has it tell, and the gateway hears it."""
    bucket = f"adopted-{new_id().hex[:12]}"
    a, b = stack.s3("site-a"), stack.s3("site-b")
    for user in (a, b):
        user.create_bucket(Bucket=bucket)
        on = {"Status": "Enabled"}
        user.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=on)
    stack.entrepot("tenant", "add", "told")
    stack.entrepot("bucket", "adopt", bucket, "--tenant", "told")
    stack.entrepot("replicate", "rule", "add", bucket, "--bucket", bucket)
    run_id = stack.start("replicate_stream/always", {"rule": bucket, "for_s": 120})
    for user in (a, b):
        ask = partial(user.get_bucket_notification_configuration, Bucket=bucket)
        wait_for(lambda ask=ask: ask().get("QueueConfigurations"))
    wait_for(lambda: at_work(stack, bucket))
    put = a.put_object(Bucket=bucket, Key="k", Body=b"one")
    back = b.put_object(Bucket=bucket, Key="back", Body=b"two")

    def versions(user: Any) -> set[tuple[str, str]]:
        found = user.list_object_versions(Bucket=bucket).get("Versions", [])
        return {(each["Key"], each["VersionId"]) for each in found}

    both = {("k", put["VersionId"]), ("back", back["VersionId"])}
    wait_for(lambda: versions(a) == versions(b) == both)
    assert stack.json("replicate", "dead-letters") == []
    cancel(stack, run_id)
    stack.sql("DELETE FROM rules WHERE name = %s RETURNING name", bucket)
    for site in ("site-a", "site-b"):
        stack.sql("DELETE FROM outbox_consumers RETURNING name", site=site)
        stack.sql("DELETE FROM buckets WHERE name = %s RETURNING 1", bucket, site=site)


def test_a_conflict_while_a_rule_rests_and_its_reversal(stack: Running, streamed: str) -> None:
    stack.entrepot("replicate", "rule", "pause", streamed)
    run_id = stack.start("replicate_stream/always", {"rule": streamed, "for_s": 300})
    # One that was at work before learns of the pause some seconds later; this one knows.
    wait_for(lambda: worked_on(stack, streamed, run_id))
    wait_for(lambda: all(follows(stack, streamed, site) for site in ("site-a", "site-b")))

    async def write(objects: Any) -> None:
        await objects.put(streamed, "k", objects.ground.site.encode())

    for site in ("site-b", "site-a"):
        at_each(stack, write, (site,))
    wait_for(lambda: status_of(stack, streamed)["last_window"])
    rule = status_of(stack, streamed)
    assert (rule["waits_for"], rule["streamed"]) == ("the rule is paused", True)
    for each in rule["directions"]:
        told = {"reachable": True, "waiting": 1, "dead_letters": 0, "shipped": 0, "errors": 0}
        assert each.items() >= told.items() and each["lag_s"] > 0
    shown = stack.entrepot("replicate", "status", streamed).stdout
    assert "paused" in shown and "1" in shown.split()
    assert stack.json("replicate", "conflicts", "--rule", streamed) == []
    stack.entrepot("replicate", "rule", "resume", streamed)
    [row] = wait_for(lambda: stack.json("replicate", "conflicts", "--rule", streamed))
    assert [one["site"] for one in row["contenders"]] == ["site-b", "site-a"]
    assert row["contenders"][row["served"]]["writer"].startswith("site-a/")
    stack.entrepot("replicate", "resolve", str(row["id"]), "--take", "loser")
    assert bodies(stack, streamed) == [b"site-b", b"site-b"]
    wait_for(lambda: not any(each["waiting"] for each in stack.json("replicate", "lag", streamed)))
    cancel(stack, run_id)
    stack.ended(stack.start("replicate/nightly", {"rule": streamed}))  # it finds nothing to do
    assert bodies(stack, streamed) == [b"site-b", b"site-b"]
    [again] = stack.json("replicate", "conflicts", "--rule", streamed)
    assert (again["id"], again["resolved_by"] is None) == (row["id"], False)


def status_of(stack: Running, rule: str) -> Json:
    [found] = stack.json("replicate", "status", rule)
    assert isinstance(found, dict)
    return found


def bodies(stack: Running, bucket: str) -> list[bytes]:
    """What readers of each site get."""
    found: list[bytes] = []

    async def read(objects: Any) -> None:
        checked = await check(objects.ground, await objects.ground.bucket(bucket))
        assert (checked.orphan_count, checked.missing_count) == (0, 0)
        async with objects.get(bucket, "k") as body:
            found.append(await body.read())

    at_each(stack, read)
    return found


def test_a_site_that_does_not_answer_is_unreachable_not_idle(stack: Running, streamed: str) -> None:
    away, other = stack.config.sites()
    nowhere = SecretStr("postgresql+psycopg://u:p@127.0.0.1:1/x")
    assert asyncio.run(_lags(replace(away, database_url=nowhere))) is None
    assert asyncio.run(_lags(other)) is not None
