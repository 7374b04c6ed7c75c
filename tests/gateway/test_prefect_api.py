"""The client of Prefect's REST API against a real server."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from entrepot.clock import new_id
from entrepot.errors import (
    AccessDenied,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    NotFound,
    Unavailable,
)
from entrepot.gateway.prefect_api import Artifact, FlowRun, PrefectApi, overlay
from tests.gateway.servers import PrefectServer

NAME = "sweep/nightly"


def set_state(server: PrefectServer, run: FlowRun, kind: str) -> None:
    body = {"state": {"type": kind, "message": f"now {kind}"}, "force": True}
    server.request("POST", f"/flow_runs/{run.id}/set_state", body).raise_for_status()


async def test_start_read_wait_artifacts(
    prefect: PrefectApi, prefect_server: PrefectServer
) -> None:
    run = await prefect.start(NAME, parameters={"request": {"prefix": "x"}}, tags=("mine",))
    assert run.state == "SCHEDULED"
    assert run.url.endswith(f"/runs/flow-run/{run.id}")
    assert "/api/" not in run.url
    assert await prefect.flow_run(run.id) == run
    for key, data in (("table", '[{"a": 1}]'), ("note", "done")):
        body = {"key": key, "type": key, "data": data, "flow_run_id": run.id}
        prefect_server.request("POST", "/artifacts/", body).raise_for_status()
    assert set(await prefect.artifacts(run.id)) == {
        Artifact("table", "table", '[{"a": 1}]'),
        Artifact("note", "note", "done"),
    }
    seen: list[str] = []

    async def changed(now: FlowRun) -> None:
        seen.append(now.state)
        after = {"SCHEDULED": "RUNNING", "RUNNING": "COMPLETED"}.get(now.state)
        if after:
            await asyncio.to_thread(set_state, prefect_server, run, after)

    ended = await prefect.wait(run.id, timeout_s=60, on_change=changed)
    assert (ended.state, ended.is_final, ended.message) == ("COMPLETED", True, "now COMPLETED")
    assert seen == ["SCHEDULED", "RUNNING", "COMPLETED"]


async def test_an_idempotency_key_names_one_run(prefect: PrefectApi) -> None:
    key = str(new_id())
    first = await prefect.start(NAME, parameters={}, idempotency_key=key)
    assert (await prefect.start(NAME, parameters={}, idempotency_key=key)).id == first.id
    assert (await prefect.start(NAME, parameters={})).id != first.id


async def test_waiting_ends(prefect: PrefectApi) -> None:
    run = await prefect.start(NAME, parameters={})
    with pytest.raises(Unavailable, match="did not end"):
        await prefect.wait(run.id, timeout_s=0.1)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"request": {"shards": 0}}, "shards"),
        ({"request": {"unknown": 1}}, "unknown"),
        ({"request": "text"}, "request"),
    ],
)
async def test_parameters_are_checked(
    prefect: PrefectApi, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        await prefect.start(NAME, parameters=parameters)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sweep/none", NotFound),
        ("none/nightly", NotFound),
        ("sweep", InvalidInput),
        ("sweep/", InvalidInput),
        ("a/b/c", InvalidInput),
        ("../admin", NotFound),
    ],
)
async def test_a_deployment_that_is_none(
    prefect: PrefectApi, name: str, kind: type[EntrepotError]
) -> None:
    with pytest.raises(kind):
        await prefect.deployment(name)


async def test_errors_are_ours(prefect_server: PrefectServer) -> None:
    with pytest.raises(NotFound):
        async with PrefectApi(prefect_server.api_url, prefect_server.auth) as api:
            await api.flow_run(str(new_id()))
    for auth in (None, SecretStr("tester:wrong")):
        async with PrefectApi(prefect_server.api_url, auth) as api:
            with pytest.raises(AccessDenied):
                await api.deployment(NAME)
    async with PrefectApi("http://127.0.0.1:1/api") as api:
        with pytest.raises(Unavailable):
            await api.ready()


async def test_an_address_without_api_says_so(prefect_server: PrefectServer) -> None:
    base = prefect_server.api_url.removesuffix("/api")
    async with PrefectApi(base, prefect_server.auth) as api:
        with pytest.raises((NotFound, IntegrityError)):
            await api.deployment(NAME)


def test_overlay_keeps_what_is_not_named() -> None:
    base = {"request": {"a": 1, "b": {"x": 1}}, "other": 1}
    assert overlay(base, {"request": {"b": {"y": 2}}}) == {
        "request": {"a": 1, "b": {"y": 2}},
        "other": 1,
    }
    assert overlay(base, {"request": None}) == {"request": None, "other": 1}
    assert base == {"request": {"a": 1, "b": {"x": 1}}, "other": 1}
