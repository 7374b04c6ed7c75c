"""What commands answer, to people and as JSON, over a stack that works."""

import json

from tests.running import Running


def test_a_tenant_a_bucket_and_a_rule_from_nothing(stack: Running) -> None:
    bucket = stack.bucket("answers")
    tenant, rule = f"tenant-{bucket[-6:]}", f"rule-{bucket[-6:]}"
    assert stack.entrepot("tenant", "add", tenant, "--name", "The Tenant").stdout == (
        f"tenant {tenant} is known\n"
    )
    assert {"id": tenant, "name": "The Tenant"} in stack.json("tenant", "list")
    stack.entrepot("tenant", "add", tenant, "--name", "Renamed")
    assert {"id": tenant, "name": "Renamed"} in stack.json("tenant", "list")

    stack.entrepot("bucket", "adopt", bucket, "--tenant", tenant)
    again = stack.entrepot("bucket", "adopt", bucket, "--tenant", tenant).stdout
    assert again == f"bucket {bucket} belongs to {tenant} at site-a, site-b\n"
    found = [row for row in stack.json("bucket", "list") if row["bucket"] == bucket]
    assert [(row["site"], row["tenant"], row["mode"]) for row in found] == [
        ("site-a", tenant, "adopted"),
        ("site-b", tenant, "adopted"),
    ]

    add = ("replicate", "rule", "add", rule, "--bucket", bucket)
    assert stack.entrepot(*add, "--prefix", "in/").stdout == (
        f"rule {rule}: {bucket} at site-a, site-b\n"
    )
    [row] = [row for row in stack.json("replicate", "rule", "list") if row["name"] == rule]
    assert row == {
        "name": rule,
        "buckets": [bucket],
        "prefix": "in/",
        "sites": ["site-a", "site-b"],
        "mode": "active-active",
        "enabled": True,
        "now": "may run",
    }


def test_a_dry_run_touches_nothing_and_a_run_its_prefix_only(stack: Running) -> None:
    rule = stack.bucket("dry")
    for key in ("in/1", "in/deep/2", "out/3"):
        stack.s3("site-a").put_object(Bucket=rule, Key=key, Body=b"body")
    started = stack.entrepot("replicate", "run", rule, "--dry-run", "--no-wait")
    assert started.stdout == ""
    [line] = started.stderr.splitlines()
    run = stack.ended(line.rpartition("/")[2])
    assert stack.view("site-b", rule) == {}
    planned = stack.table(run["id"], "replicate-findings")
    assert [(row["key"], row["what"]) for row in planned] == [
        ("in/1", "copy"),
        ("in/deep/2", "copy"),
        ("out/3", "copy"),
    ]
    stack.json("replicate", "run", rule, "--bucket", rule, "--prefix", "in/")
    assert list(stack.view("site-b", rule)) == ["in/1", "in/deep/2"]

    jobs = stack.json("replicate", "jobs", "--most", "20")
    newest, dry = [job for job in jobs if job["subject"].startswith(f"{rule}/")][:2]
    assert newest["subject"] == f"{rule}/{rule}/in/"
    assert (newest["state"], newest["epoch"], newest["copied"]) == ("completed", 1, 2)
    assert dry["subject"] == f"{rule}/{rule}/"


def test_sites_and_their_capabilities(stack: Running) -> None:
    rows = stack.json("site", "list")
    assert [(row["name"], row["rank"]) for row in rows] == [("site-a", 0), ("site-b", 1)]
    expected = ["batch", "conditional-write", "lock", "origin", "tags", "trailer", "versioning"]
    assert [row["capabilities"] for row in rows] == [expected, expected]
    assert [row["endpoint"] for row in rows] == [site.endpoint for site in stack.info.sites]
    probed = stack.json("site", "probe", "site-b")
    assert {row["capability"] for row in probed if row["can"]} == {
        *expected,
        *("write", "list", "remove"),
    }
    assert all(row["saw"] for row in probed)
    buckets = stack.s3("site-b").list_buckets()["Buckets"]
    assert not [each for each in buckets if each["Name"].startswith("entrepot-probe-")]


def test_every_list_can_be_read_by_people_and_programs(stack: Running) -> None:
    stack.bucket("lists")
    for command in ("site list", "replicate rule list", "replicate jobs", "quota usage"):
        assert isinstance(stack.json(*command.split()), list)
        assert stack.entrepot(*command.split()).stdout
    assert isinstance(stack.json("webhook", "list")["webhooks"], list)
    assert stack.entrepot("webhook", "list").stdout


def test_status_knows_every_server(stack: Running) -> None:
    seen = stack.json("status")
    assert seen["healthy"]
    names = [child["name"] for child in seen["children"]]
    assert names == ["postgres", "site-a", "site-b", "prefect", "worker", "gateway"]


def test_settings_are_shown_without_their_secrets(stack: Running) -> None:
    shown = stack.entrepot("config", "show").stdout + json.dumps(stack.json("config", "show"))
    for site in stack.info.sites:
        assert site.secret_key.get_secret_value() not in shown
    assert stack.info.prefect_auth.get_secret_value() not in shown
    assert "prefect.api_url" in shown
