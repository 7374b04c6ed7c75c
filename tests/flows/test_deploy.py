"""What `entrepot deploy` leaves in Prefect and Postgres, once or however often it is run."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from entrepot.cli.deploy import deploy
from entrepot.errors import AccessDenied, EntrepotError, Unavailable
from tests.running import Json, Running, wait_for

DEPLOYMENTS = {
    "replicate.nightly": ("critical", "15 2 * * *"),
    "account_usage.hourly": ("default", "5 * * * *"),
    "check_catalog.daily": ("bulk", "15 4 * * *"),
    "verify_replication.daily": ("bulk", "45 3 * * *"),
    "replicate_stream.always": ("critical", "*/10 * * * *"),
    "back_up.nightly": ("bulk", "30 1 * * *"),
    "restore.on-demand": ("critical", None),
}


def registered(stack: Running) -> Json:
    """All that a deploy could make twice, without times of change."""
    pool = stack.deployment()["work_pool_name"]
    found = {
        "deployments": stack.api("POST", "/deployments/filter", limit=50),
        "flows": stack.api("POST", "/flows/filter", limit=50),
        "queues": stack.api("POST", f"/work_pools/{pool}/queues/filter", limit=50),
        "pools": stack.api("POST", "/work_pools/filter", limit=50),
        "blocks": stack.api("POST", "/block_documents/filter", limit=50),
        "block_types": stack.api("POST", "/block_types/filter", limit=200),
        "limits": stack.api("POST", "/v2/concurrency_limits/filter", limit=50),
        "automations": [
            # Prefect makes those of a deployment's own triggers anew each time.
            {"name": each["name"], "trigger": trigger_of(each)}
            for each in stack.api("POST", "/automations/filter", limit=50)
        ],
        "sites": stack.sql("SELECT name, rank, endpoint, region FROM sites ORDER BY name"),
    }
    return {kind: sorted(map(identity, rows), key=str) for kind, rows in found.items()}


def trigger_of(automation: Json) -> tuple[Any, ...]:
    trigger = automation["trigger"]
    facts = (str(trigger.get(name)) for name in ("type", "posture", "match", "match_related"))
    return *facts, sorted(trigger.get("expect", ())), sorted(trigger.get("after", ()))


def identity(row: Json) -> tuple[Any, ...]:
    if "schedules" in row:
        schedules = [each["schedule"]["cron"] for each in row["schedules"]]
        return row["id"], row["name"], row["work_queue_name"], schedules
    fields = ("id", "name", "priority", "rank", "endpoint", "trigger")
    return tuple(str(row.get(field)) for field in fields)


def test_deploy_again_changes_nothing(stack: Running) -> None:
    before = registered(stack)
    deploy(stack.config, progress=lambda _line: None)
    assert registered(stack) == before


def test_each_deployment_is_there_once_and_scheduled(stack: Running) -> None:
    found = stack.api("POST", "/deployments/filter", limit=50)
    by_name = {f"{each['entrypoint'].rpartition('.')[2]}.{each['name']}": each for each in found}
    assert sorted(by_name) == sorted(DEPLOYMENTS)
    assert len(found) == len(by_name)
    for name, each in by_name.items():
        queue, cron = DEPLOYMENTS[name]
        assert (each["work_pool_name"], each["work_queue_name"]) == ("entrepot", queue)
        assert not each["paused"]
        schedules = [(s["schedule"]["cron"], s["schedule"]["timezone"]) for s in each["schedules"]]
        assert schedules == ([(cron, "UTC")] if cron else [])
        # Backups wait until there is a vault.
        assert all(s["active"] is (name != "back_up.nightly") for s in each["schedules"])
        # A stream's next run waits beside the one before, and those of single rules; buckets come
        # back side by side.
        most = 8 if name in ("replicate_stream.always", "restore.on-demand") else 1
        assert each["global_concurrency_limit"]["limit"] == most
        assert each["enforce_parameter_schema"]
        assert each["description"]


def test_queues_have_their_priorities(stack: Running) -> None:
    queues = stack.api("POST", "/work_pools/entrepot/queues/filter", limit=50)
    priorities = {each["name"]: each["priority"] for each in queues}
    assert priorities == {"critical": 1, "default": 2, "bulk": 3}


def test_the_scheduler_plans_runs_ahead(stack: Running) -> None:
    deployment = stack.deployment("account_usage/hourly")
    of_deployment = {"id": {"any_": [deployment["id"]]}}

    def planned() -> bool:
        runs = stack.api("POST", "/flow_runs/filter", deployments=of_deployment, limit=200)
        return any(run["auto_scheduled"] for run in runs)

    wait_for(planned)


def described(schema: Json, definitions: Json) -> Iterator[tuple[str, bool]]:
    """Each field of a form, and whether it says what it is."""
    for name, field in schema.get("properties", {}).items():
        yield name, bool(field.get("description"))
        reference = str(field.get("$ref", "")).rpartition("/")[2]
        if reference:
            yield from described(definitions[reference], definitions)


@pytest.mark.parametrize(
    "name",
    [
        "replicate/nightly",
        "account_usage/hourly",
        "check_catalog/daily",
        "verify_replication/daily",
    ],
)
def test_every_field_of_the_form_is_described(stack: Running, name: str) -> None:
    schema = stack.deployment(name)["parameter_openapi_schema"]
    fields = dict(described(schema, schema["definitions"]))
    assert len(fields) > 2
    assert [field for field, told in fields.items() if not told] == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"request": {"shards": "six"}},
        {"request": {"shards": "6"}},
        {"request": {"shards": 1000}},
        {"request": {"dry_run": "yes"}},
        {"request": {"buckets": "photos"}},
        {"request": {"endpoint": "http://127.0.0.1:1"}},
        {"request": "photos"},
    ],
    ids=str,
)
def test_the_form_takes_nothing_that_the_schema_refuses(stack: Running, parameters: Json) -> None:
    path = f"/deployments/{stack.deployment()['id']}/create_flow_run"
    answer = stack.prefect.post(path, json={"parameters": parameters})
    assert 400 <= answer.status_code < 500, answer.text


def deployed(stack: Running) -> list[str]:
    """Deploy; what it said."""
    said: list[str] = []
    deploy(stack.config, progress=said.append)
    return said


def test_what_a_person_changed_about_a_schedule_is_kept(stack: Running) -> None:
    name = "account_usage/hourly"
    found = stack.deployment(name)
    path, [schedule] = f"/deployments/{found['id']}", found["schedules"]
    weekly = {"cron": "30 3 * * 0", "timezone": "Europe/Zurich"}
    stack.api("PATCH", f"{path}/schedules/{schedule['id']}", active=False, schedule=weekly)
    stack.api("POST", f"{path}/pause_deployment")
    try:
        kept = f"the schedule of {name} was changed in Prefect and is kept"
        assert [line for line in deployed(stack) if "kept" in line] == [kept]
        [schedule] = stack.deployment(name)["schedules"]
        assert not schedule["active"]
        assert (schedule["schedule"] | weekly) == schedule["schedule"]
        assert stack.deployment(name)["paused"]
    finally:
        hourly = {"cron": "5 * * * *", "timezone": "UTC"}
        stack.api("PATCH", f"{path}/schedules/{schedule['id']}", active=True, schedule=hourly)
        stack.api("POST", f"{path}/resume_deployment")
    assert [line for line in deployed(stack) if "kept" in line] == []  # it follows again


@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"api_url": "http://127.0.0.1:9/api"}, Unavailable, "does not answer"),
        ({"auth_string": SecretStr("somebody:else")}, AccessDenied, "authentication string"),
    ],
)
def test_without_prefect_it_says_what_is_missing(
    stack: Running, settings: Json, kind: type[EntrepotError], match: str
) -> None:
    prefect = stack.config.prefect.model_copy(update=settings)
    config = stack.config.model_copy(update={"prefect": prefect})
    with pytest.raises(kind, match=match) as refused:
        deploy(config, progress=lambda _line: None)
    assert refused.value.hint
