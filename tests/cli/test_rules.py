"""Rules from the command line over a stack that works: said, changed, paused, limited, seeded."""

import time
from datetime import UTC, datetime, timedelta

import httpx

from entrepot.catalog.tokens import Scope
from entrepot.cli.replicate.rule.options import TRAVELS
from entrepot.cli.token import SCOPES
from entrepot.terms import Travel
from tests.running import Running, wait_for

RULE = ("replicate", "rule")


def show(stack: Running, rule: str) -> dict[str, object]:
    found = stack.json(*RULE, "show", rule)
    assert isinstance(found, dict)
    return found


def test_what_is_written_out_is_what_there_is() -> None:
    assert tuple(Travel) == TRAVELS
    assert tuple(Scope) == SCOPES


def test_a_rule_is_said_shown_changed_and_forgotten(stack: Running) -> None:
    bucket = stack.bucket("rules")
    rule = f"{bucket}-2"
    made = stack.json(
        *(*RULE, "add", rule, "--bucket", bucket, "--prefix", "in/", "--one-way-from", "site-b"),
        *("--conflict", "keep-both", "--conflict", "in/a=b/=site-priority", "--rpo", "5m"),
        *("--without", "locks", "--bytes-per-s", "10MB", "--maintenance", "sun 02:00-04:00"),
        *("--timetable", "mon-fri 08:00-18:00 1MB/s", "--time-zone", "Europe/Berlin"),
        *("--max-delete-count", "5", "--tombstone-horizon", "7d", "--disabled"),
        "--peer-reads",
    )
    assert made["conflict"] == {"": "keep-both", "in/a=b/": "site-priority"}
    assert (made["mode"], made["source"], made["rpo_s"]) == ("one-way", "site-b", 300)
    assert made["travels"] == ["delete-markers", "metadata", "tags"]
    assert (made["bytes_per_s"], made["tombstone_horizon_s"]) == ("10MB", 7 * 86_400)
    assert made["peer_reads"] is True
    assert (made["enabled"], made["sites"]) == (False, ["site-a", "site-b"])
    shown = show(stack, rule)
    assert shown == made | {
        "now": "the rule is disabled",
        "rate_now": shown["rate_now"],
        "gaps": [],
    }
    assert "the rule is disabled" in stack.entrepot(*RULE, "show", rule).stdout

    edit = stack.entrepot(*RULE, "edit", rule, "--unset", "prefix", "--unset", "timetable")
    assert "it covers more now" in edit.stderr
    changed = show(stack, rule)
    assert (changed["prefix"], changed["timetable"], changed["rpo_s"]) == ("", [], 300)
    other = ("--active-active", "--without", "tags", "--no-peer-reads")
    again = stack.entrepot(*RULE, "edit", rule, *other)
    assert again.stdout == f"rule {rule}: {bucket} at site-a, site-b\n"
    assert show(stack, rule)["travels"] == ["delete-markers", "metadata"]
    assert show(stack, rule)["peer_reads"] is False
    narrowed = stack.entrepot(*RULE, "edit", rule, "--prefix", "in/")
    assert narrowed.stderr == ""
    assert stack.json(*RULE, "remove", rule) == {"removed": rule}
    stack.entrepot(*RULE, "show", rule, code=1)


def test_enabling_seeds_what_is_there_already(stack: Running) -> None:
    bucket = stack.bucket("seed")
    stack.s3("site-a").put_object(Bucket=bucket, Key="old", Body=b"there before")
    assert stack.json(*RULE, "disable", bucket) == {"rule": bucket, "enabled": False}
    refused = stack.entrepot("replicate", "run", bucket, code=1)
    assert f"entrepot replicate rule enable {bucket}" in refused.stderr
    assert stack.view("site-b", bucket) == {}
    started = stack.json(*RULE, "enable", bucket)
    stack.ended(started["run"]["id"])
    assert list(stack.view("site-b", bucket)) == ["old"]
    assert stack.json(*RULE, "enable", bucket, "--no-seed")["run"] is None


def test_a_tag_filter_by_command_line_and_rest(stack: Running) -> None:
    bucket = stack.bucket("tags")
    hot = ("--tag", "class=hot", "--without", "delete-markers")
    assert "a delete has no tags" in stack.entrepot(*RULE, "edit", bucket, *hot[:2], code=2).stderr
    for ways in (hot, ()):
        refused = stack.entrepot(*RULE, "edit", bucket, *ways, "--without", "metadata", code=1)
        assert "metadata is written with its version" in refused.stderr
        assert "--travels metadata" in refused.stderr
    assert stack.json(*RULE, "edit", bucket, *hot)["tag_filter"] == {"class": "hot"}
    [status] = stack.json("replicate", "status", bucket)
    assert (status["tag_filter"], status["streamed"]) == ({"class": "hot"}, True)
    for key, tags in (("in", "class=hot&n=1"), ("out", "class=cold")):
        stack.s3("site-a").put_object(Bucket=bucket, Key=key, Body=b"1", Tagging=tags)
    stack.ended(stack.start("replicate/nightly", {"rule": bucket}))
    assert list(stack.view("site-b", bucket)) == ["in"]
    proof = stack.json("replicate", "verify", bucket)
    assert (proof["identical"], proof["keys"], proof["tag_filter"]) == (True, 1, {"class": "hot"})
    where = stack.json("replicate", "where", bucket, "out", "--rule", bucket)
    assert (where["agree"], where["sites"][0]["versions"][0]["fits"]) == (True, False)
    stack.entrepot("replicate", "where", bucket, "out", code=1)

    token = stack.json("token", "add", f"tags-{bucket[-6:]}", "--scope", "replication:write")
    said = {"buckets": [bucket], "sites": ["site-a", "site-b"], "tag_filter": {"class": "hot"}}

    def put(**more: object) -> httpx.Response:
        return httpx.put(
            f"{stack.info.gateway_url}/api/v1/replication/rules/{bucket}",
            json=said | more,
            headers={"authorization": f"Bearer {token['token']}"},
        )

    assert put().json()["travels"] == ["metadata", "tags", "locks"]
    for travels in (["tags"], ["metadata"]):
        assert put(travels=travels).status_code == 422


def test_a_run_of_a_paused_rule_waits_until_it_is_resumed(stack: Running) -> None:
    bucket = stack.bucket("pause")
    stack.s3("site-a").put_object(Bucket=bucket, Key="k", Body=b"1")
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert stack.json(*RULE, "pause", bucket, "--until", until)["paused_until"] == until
    run = stack.start("replicate/nightly", {"rule": bucket})
    wait_for(lambda: stack.run(run)["state_type"] == "RUNNING")
    assert stack.view("site-b", bucket) == {}
    assert stack.json(*RULE, "resume", bucket) == {"rule": bucket, "paused": False}
    stack.ended(run)
    assert list(stack.view("site-b", bucket)) == ["k"]
    assert "is paused" in stack.entrepot(*RULE, "pause", bucket).stdout
    assert show(stack, bucket)["now"] == "the rule is paused"
    stack.json(*RULE, "resume", bucket)


def test_a_limit_holds_over_all_ranges_of_a_run(stack: Running) -> None:
    bucket = stack.bucket("limit")
    stack.fill("site-a", bucket, [f"{n % 4}/{n}" for n in range(40)], body=b"x" * 20_000)
    stack.json(*RULE, "edit", bucket, "--bytes-per-s", "200kB")
    began = time.monotonic()
    run = stack.ended(stack.start("replicate/nightly", {"rule": bucket}))
    assert time.monotonic() - began >= 800_000 / 200_000 - 1
    [row] = stack.table(run["id"], "replicate-report")
    assert (row["copied"], row["failed"]) == (40, 0)
    assert row["seconds"] >= 2.5


def test_tokens_are_made_shown_once_used_and_revoked(stack: Running) -> None:
    bucket = stack.bucket("tokens")
    name = f"ci-{bucket[-6:]}"
    scopes = ("--scope", "replication:read", "--scope", "replication:write")
    made = stack.json("token", "add", name, *scopes, "--for", "1h")
    assert made["scopes"] == ["replication:read", "replication:write"]
    [row] = [each for each in stack.json("token", "list") if each["name"] == name]
    assert row["valid"] is True
    assert made["token"] not in stack.entrepot("token", "list").stdout

    url = stack.info.gateway_url
    headers = {"authorization": f"Bearer {made['token']}"}
    status = httpx.get(f"{url}/api/v1/replication/status", headers=headers)
    assert bucket in [each["name"] for each in status.json()["rules"]]
    started = httpx.post(
        f"{url}/api/v1/replication/force-sync", json={"rule": bucket}, headers=headers
    )
    assert started.status_code == 202
    stack.ended(started.json()["flow_run_id"])
    assert stack.json("token", "revoke", name) == {"revoked": name}
    refused = httpx.get(f"{url}/api/v1/replication/status", headers=headers)
    assert refused.status_code == 401
    [row] = [each for each in stack.json("token", "list") if each["name"] == name]
    assert row["valid"] is False
