"""``/api/v1``: what sweeps, rules and status come to."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from entrepot.catalog import jobs
from entrepot.catalog.buckets import manage_bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects import outbox
from entrepot.catalog.rules import pause, save_rule, set_enabled
from entrepot.catalog.sites import set_capabilities, upsert_site
from entrepot.catalog.states import JobState
from entrepot.catalog.streams import record_window
from entrepot.catalog.tokens import list_tokens
from entrepot.clock import SYSTEM_CLOCK
from entrepot.gateway.api.sync import SyncRequest, force_sync
from entrepot.gateway.prefect_api import PrefectApi
from tests.gateway.callers import ALL, RULES, STATUS, SYNC, WRITE, As, Caller, token
from tests.gateway.conftest import ShiftedClock
from tests.gateway.servers import PrefectServer

# --- Sweeps -----------------------------------------------------------------------------------


async def test_force_sync_starts_one_run_a_key(
    both: Caller, rule: str, prefect_server: PrefectServer, control: Catalog
) -> None:
    body = {"rule": rule, "buckets": ["photos"], "prefix": "in/", "dry_run": True}
    key = {"idempotency-key": "nightly-1"}
    first = await both("POST", SYNC, json=body, headers=key)
    assert first.status_code == 202
    again = await both("POST", SYNC, json=body, headers=key)
    assert again.json() == first.json()
    assert set(first.json()) == {"flow_run_id", "flow_run_url", "waits_until"}
    other = await both("POST", SYNC, json=body)
    assert other.json()["flow_run_id"] != first.json()["flow_run_id"]
    [mine] = [each for each in await list_tokens(control) if both.text and each.id in both.text]
    found = prefect_server.runs(tag=f"api:{mine.name}")
    assert {run["id"] for run in found} == {
        answer.json()["flow_run_id"] for answer in (first, other)
    }
    assert all(run["parameters"]["request"] == body for run in found)


async def test_a_key_with_another_request_is_a_conflict(both: Caller, rule: str) -> None:
    key = {"idempotency-key": "k"}
    await both("POST", SYNC, json={"rule": rule}, headers=key)
    status, said = await both.says("POST", SYNC, json={"rule": rule, "dry_run": True}, headers=key)
    assert (status, said["error"]) == (409, "conflict")


async def test_keys_of_two_tokens_do_not_meet(control: Catalog, caller: As, rule: str) -> None:
    answers = [
        await caller((await token(control, *WRITE)).text)(
            "POST", SYNC, json={"rule": rule}, headers={"idempotency-key": "same"}
        )
        for _ in range(2)
    ]
    assert answers[0].json()["flow_run_id"] != answers[1].json()["flow_run_id"]


async def test_without_a_body_every_rule_is_swept(
    both: Caller, prefect_server: PrefectServer, control: Catalog
) -> None:
    """As the guide's troubleshooting section calls it."""
    assert (await both("POST", SYNC)).status_code == 202
    [mine] = [each for each in await list_tokens(control) if both.text and each.id in both.text]
    [run] = prefect_server.runs(tag=f"api:{mine.name}")
    assert run["parameters"]["request"]["rule"] == ""


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "a/b"])
async def test_keys_that_are_none(both: Caller, rule: str, key: str) -> None:
    answer = await both("POST", SYNC, json={"rule": rule}, headers={"idempotency-key": key})
    assert answer.status_code == 422


async def test_unknown_rule(both: Caller) -> None:
    for method, path, body in (
        ("POST", SYNC, {"rule": "none"}),
        ("GET", f"{RULES}/none", None),
        ("DELETE", f"{RULES}/none", None),
    ):
        status, said = await both.says(method, path, json=body)
        assert (status, said["error"]) == (404, "not_found")
        assert said["hint"] == "entrepot replicate rule list"


async def test_a_rule_that_rests(both: Caller, rule: str, control: Catalog) -> None:
    await pause(control, name=rule)
    status, said = await both.says("POST", SYNC, json={"rule": rule})
    assert (status, said["error"]) == (409, "paused")
    assert (await both("POST", SYNC, json={"rule": rule, "dry_run": True})).status_code == 202
    until = SYSTEM_CLOCK.now() + timedelta(hours=1)
    await pause(control, name=rule, until=until)
    answer = await both("POST", SYNC, json={"rule": rule})
    assert (answer.status_code, answer.json()["waits_until"][:16]) == (
        202,
        f"{until:%Y-%m-%dT%H:%M}",
    )
    await set_enabled(control, name=rule, enabled=False)
    assert (await both.says("POST", SYNC, json={"rule": rule}))[0] == 409


async def test_prefect_away_is_not_the_caller_s_fault(control: Catalog, caller: As) -> None:
    bearer = await token(control, *WRITE)
    [mine] = [each for each in await list_tokens(control) if each.id == bearer.id]
    async with PrefectApi("http://127.0.0.1:1/api") as away:
        with pytest.raises(Exception, match="prefect does not answer"):
            await force_sync(
                SyncRequest(),
                control=control,
                prefect=away,
                token=mine,
                idempotency_key=None,
                now=SYSTEM_CLOCK.now(),
            )


# --- Rules ------------------------------------------------------------------------------------


async def test_rules_are_put_read_and_removed(both: Caller, rule: str) -> None:
    name = f"{rule}-2"
    body = {
        "buckets": ["photos", "logs"],
        "sites": ["site-b", "site-a"],
        "mode": "one-way",
        "source": "site-a",
        "conflict": {"logs/": "keep-both"},
        "bytes_per_s": "10MB",
        "maintenance": ["sun 02:00-04:00"],
    }
    status, put = await both.says("PUT", f"{RULES}/{name}", json=body)
    assert status == 200
    assert {field: put[field] for field in body} | {"conflict": 0} == body | {"conflict": 0}
    assert put["conflict"] == {"": "last-write-wins", "logs/": "keep-both"}
    assert put["enabled"] is True
    assert (await both.says("GET", f"{RULES}/{name}"))[1] == put
    status, off = await both.says(
        "PUT", f"{RULES}/{name}", json={**body, "enabled": False, "prefix": "in/"}
    )
    assert (off["enabled"], off["prefix"], off["created_at"]) == (False, "in/", put["created_at"])
    assert name in [each["name"] for each in (await both("GET", RULES)).json()]
    assert (await both("DELETE", f"{RULES}/{name}")).status_code == 204
    assert (await both("GET", f"{RULES}/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"sitez": ["a"]}, "body.sitez: unknown field"),
        ({"paused": True}, "body.paused: unknown field"),
        ({"name": "other"}, "body.name: unknown field"),
        ({"sites": ["site-a"]}, "body.sites: 2 or more"),
        ({"enabled": "no"}, "body.enabled: "),
        ({"timetable": ["x"]}, "body.timetable.0: not a limit of a week"),
        ({"source": "site-a"}, "body: source: the one site"),
    ],
)
async def test_a_wrong_rule(both: Caller, rule: str, more: dict[str, Any], named: str) -> None:
    body = {"buckets": ["photos"], "sites": ["site-a", "site-b"]} | more
    status, said = await both.says("PUT", f"{RULES}/{rule}", json=body)
    assert (status, said["error"]) == (422, "invalid")
    assert any(line.startswith(named) for line in said["fields"]), said


async def test_a_rule_that_a_site_cannot_keep(both: Caller, rule: str, control: Catalog) -> None:
    body = {"buckets": ["photos"], "sites": ["site-a", "site-c"]}
    status, said = await both.says("PUT", f"{RULES}/{rule}", json=body)
    assert (status, said["error"]) == (422, "invalid") and "no such site" in said["message"]
    await upsert_site(control, name="site-c", endpoint="http://c", region="", rank=7)
    status, said = await both.says("PUT", f"{RULES}/{rule}", json=body)
    assert (status, said["error"]) == (422, "unsupported")
    assert "site-c was not probed" in said["message"]
    lacking = ALL | {"lock": {"can": False, "saw": "it said 501"}}
    await set_capabilities(
        control, name="site-c", capabilities=lacking, probed_at=SYSTEM_CLOCK.now()
    )
    status, said = await both.says("PUT", f"{RULES}/{rule}", json=body)
    assert status == 422 and "so locks cannot travel: it said 501" in said["message"]
    without = body | {"travels": ["delete-markers", "metadata", "tags"]}
    assert (await both("PUT", f"{RULES}/{rule}", json=without)).status_code == 200


# --- Status -----------------------------------------------------------------------------------


async def mine(both: Caller, rule: str) -> dict[str, Any]:
    status, said = await both.says("GET", STATUS)
    assert status == 200
    [found] = [each for each in said["rules"] if each["name"] == rule]
    assert isinstance(found, dict)
    return found


async def test_status_tells_each_bucket_s_last_sweep_and_since_when_it_is_equal(
    both: Caller, rule: str, control: Catalog
) -> None:
    found = await mine(both, rule)
    assert (found["may_run"], found["rpo_met"]) == (True, None)
    assert found["buckets"] == [
        {"bucket": "photos", "last_job": None, "synced_as_of": None, "age_s": None}
    ]
    started = {"holder": "test", "lease_s": 60, "resume_within_s": 600}
    subject = f"{rule}/photos/"
    claim = await jobs.claim(control, kind="replicate", subject=subject, **started)
    report = {"totals": {"listed": 7, "copied": 3}}
    await jobs.finish(control, claim, state=JobState.COMPLETED, report=report)
    found = await mine(both, rule)
    [bucket] = found["buckets"]
    assert bucket["last_job"]["state"] == "completed"
    assert (bucket["last_job"]["counts"]["listed"], bucket["last_job"]["counts"]["copied"]) == (
        7,
        3,
    )
    assert bucket["synced_as_of"] == bucket["last_job"]["started_at"]
    assert 0 <= bucket["age_s"] < 60
    assert found["rpo_met"] is True

    claim = await jobs.claim(control, kind="replicate", subject=subject, **started)
    await jobs.plan_shards(control, claim, [("", "m"), ("m", "")])
    for number in (0, 1):
        await jobs.checkpoint(
            control, claim, number=number, cursor="k", counters={"listed": 5}, done=False
        )
    [running] = (await mine(both, rule))["buckets"]
    assert (running["last_job"]["state"], running["last_job"]["counts"]["listed"]) == (
        "running",
        10,
    )
    assert running["synced_as_of"] == bucket["synced_as_of"]
    await jobs.finish(control, claim, state=JobState.FAILED, report={})
    [failed] = (await mine(both, rule))["buckets"]
    assert failed["last_job"]["state"] == "failed"
    assert failed["synced_as_of"] == bucket["synced_as_of"]


async def test_status_tells_why_a_rule_rests(both: Caller, rule: str, control: Catalog) -> None:
    await pause(control, name=rule)
    found = await mine(both, rule)
    assert (found["may_run"], found["waits_for"]) == (False, "the rule is paused")
    assert (found["paused"], found["waits_until"]) == (True, None)


async def test_status_of_an_age_beyond_the_target(
    both: Caller, rule: str, control: Catalog, clock: ShiftedClock
) -> None:
    started = {"holder": "test", "lease_s": 60, "resume_within_s": 600}
    claim = await jobs.claim(control, kind="replicate", subject=f"{rule}/photos/", **started)
    await jobs.finish(control, claim, state=JobState.COMPLETED, report={})
    clock.shift = timedelta(minutes=6)
    try:
        assert (await mine(both, rule))["rpo_met"] is False
    finally:
        clock.shift = timedelta()


async def test_status_tells_the_lag_of_each_direction(
    both: Caller, rule: str, control: Catalog, site_dsn: str
) -> None:
    """By what waits at its source; of a site that does not answer nothing is known, not zero."""
    await upsert_site(control, name="a", endpoint="http://a", region="", rank=70)
    await set_capabilities(control, name="a", capabilities=ALL, probed_at=SYSTEM_CLOCK.now())
    name = f"{rule}-lag"
    await save_rule(control, name=name, buckets=["photos"], sites=["a", "site-b"])
    unknown = dict.fromkeys(("lag_s", "waiting", "dead_letters", "shipped", "errors"))
    back = {"source": "site-b", "target": "a", "reachable": False, **unknown}
    found = await mine(both, name)
    assert (found["streamed"], found["directions"], found["last_window"]) == (True, [back], None)
    async with Catalog.open(site_dsn, pool_size=1) as site:
        bucket = await manage_bucket(site, name=name, tenant_id="acme")
        consumer = outbox.consumer_name(name, "site-b")
        await outbox.subscribe(site, name=consumer, bucket_ids=[bucket.id], prefix="")
        async with site.begin() as connection:
            event = {"consumer": consumer, "bucket_id": bucket.id}
            for table in ("outbox", "dead_letters"):
                await connection.execute(text(ADD[table]), event)
        how = {"shipped": 3, "shipped_bytes": 30, "errors": 1}
        await record_window(control, {"a": site}, rule=name, seconds=5.0, **how)
    found = await mine(both, name)
    there, again = found["directions"]
    assert again == back and found["last_window"].items() >= {"seconds": 5.0, **how}.items()
    counts = {"reachable": True, "waiting": 1, "dead_letters": 1, "shipped": 0, "errors": 0}
    assert there.items() >= {"source": "a", "target": "site-b", **counts}.items()
    assert there["lag_s"] >= 60
    by_sweeps = {"conflict": {"": "first-write-wins"}}
    await save_rule(control, name=name, buckets=["photos"], sites=["a", "site-b"], **by_sweeps)
    found = await mine(both, name)
    assert (found["streamed"], found["directions"]) == (False, [])


ADD = {
    "outbox": "INSERT INTO outbox (consumer, bucket_id, key, version_id, kind, stamp, since)"
    " VALUES (:consumer, :bucket_id, 'k', 'v', 'put', '1.a.w', now() - interval '1 minute')",
    "dead_letters": "INSERT INTO dead_letters"
    " (consumer, bucket_id, key, version_id, kind, stamp, since, tries, reason)"
    " VALUES (:consumer, :bucket_id, 'k', 'v', 'put', '1.a.w', now(), 1, 'no')",
}
