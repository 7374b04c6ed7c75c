"""Deliveries over real HTTP, remembered in a real Postgres, started by a real Prefect server."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.webhooks import begin_delivery
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.webhooks import BODY_MAX_BYTES
from tests.gateway.conftest import MakeSender, Sender, ShiftedClock
from tests.gateway.servers import Address, PrefectServer


def now_s() -> int:
    return int(datetime.now(UTC).timestamp())


async def test_a_signed_delivery_starts_a_run(sender: Sender) -> None:
    answer = await sender.send(b'{"dry_run": true, "prefix": "a/b"}')
    assert answer.status_code == 202
    [run] = sender.runs()
    port = sender.prefect.port
    assert answer.json() == {
        "flow_run_id": run["id"],
        "flow_run_url": f"http://127.0.0.1:{port}/runs/flow-run/{run['id']}",
        "duplicate": False,
    }
    assert "server" not in answer.headers


async def test_the_payload_overlays_what_is_fixed_and_what_the_deployment_has(
    sender: Sender,
) -> None:
    await sender.send(b'{"prefix": "a/b"}')
    [run] = sender.runs()
    # dry_run is the deployment's, rule the webhook's, prefix the payload's.
    assert run["parameters"] == {"request": {"dry_run": False, "rule": "fixed", "prefix": "a/b"}}
    assert {"tested", f"webhook:{sender.name}"} <= set(run["tags"])


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_an_empty_body_means_the_defaults(make_sender: MakeSender, body: bytes) -> None:
    sender = await make_sender()
    assert (await sender.send(body)).status_code == 202
    [run] = sender.runs()
    assert run["parameters"] == {"request": {"dry_run": False, "rule": "nightly"}}


async def test_three_times_one_id_starts_one_run(sender: Sender) -> None:
    answers = [await sender.send(delivery_id="msg_1") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert [answer.json()["duplicate"] for answer in answers] == [False, True, True]
    assert len({answer.json()["flow_run_id"] for answer in answers}) == 1
    assert len(sender.runs()) == 1


async def test_twenty_at_once_start_one_run(sender: Sender) -> None:
    answers = await asyncio.gather(*(sender.send(delivery_id="msg_1") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [202] * 20
    assert [answer.json()["duplicate"] for answer in answers].count(False) == 1
    assert len({answer.json()["flow_run_id"] for answer in answers}) == 1
    assert len(sender.runs()) == 1


async def test_two_ids_start_two_runs(sender: Sender) -> None:
    await sender.send(delivery_id="msg_1")
    await sender.send(delivery_id="msg_2")
    assert len(sender.runs()) == 2


async def test_one_id_of_two_webhooks_starts_two_runs(make_sender: MakeSender) -> None:
    first, second = await make_sender(), await make_sender()
    await first.send(delivery_id="msg_same")
    await second.send(delivery_id="msg_same")
    assert [len(first.runs()), len(second.runs())] == [1, 1]


async def test_an_id_with_another_body_is_a_conflict(sender: Sender) -> None:
    await sender.send(b'{"prefix": "a"}', delivery_id="msg_1")
    answer = await sender.send(b'{"prefix": "b"}', delivery_id="msg_1")
    assert answer.status_code == 409
    assert len(sender.runs()) == 1


async def test_a_crash_after_starting_the_run_does_not_start_another(
    sender: Sender, control: Catalog, prefect: PrefectApi
) -> None:
    # What a process leaves that was killed between Prefect's answer and its own note of it.
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    await begin_delivery(control, webhook=sender.name, delivery_id="msg_1", body_sha256=digest)
    started = await prefect.start(
        "sweep/nightly",
        parameters={"request": {"rule": "fixed"}},
        idempotency_key=f"webhook:{sender.name}:msg_1",
        tags=(f"webhook:{sender.name}",),
    )
    answer = await sender.send(delivery_id="msg_1")
    assert (answer.status_code, answer.json()["flow_run_id"]) == (202, started.id)
    assert len(sender.runs()) == 1


@pytest.mark.parametrize("shift_s", [-301, 301])
async def test_an_old_or_future_timestamp_is_refused(sender: Sender, shift_s: int) -> None:
    answer = await sender.send(timestamp=now_s() + shift_s)
    assert answer.status_code == 401
    assert sender.runs() == []


async def test_a_captured_delivery_cannot_be_replayed_later(
    sender: Sender, clock: ShiftedClock
) -> None:
    headers = sender.headers(b"{}")
    clock.shift = timedelta(seconds=302)
    try:
        answer = await sender.client.post(sender.url, content=b"{}", headers=headers)
    finally:
        clock.shift = timedelta()
    assert answer.status_code == 401
    assert sender.runs() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"signature": "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        {"signature": ""},
        {"signature": "v1"},
        {"id": "msg_other"},
        {"id": "msg.1"},
        {"id": "x" * 200},
        {"timestamp": "0"},
        {"timestamp": "-1"},
        {"timestamp": "1e9"},
        {"timestamp": "9" * 400},
    ],
    ids=str,
)
async def test_a_wrong_header_is_refused(sender: Sender, changed: dict[str, str]) -> None:
    answer = await sender.send(**changed)
    assert answer.status_code == 401
    assert answer.json()["error"] == "unauthorized"
    assert sender.runs() == []


async def test_every_refusal_of_a_signature_looks_alike(sender: Sender) -> None:
    other = Sender(sender.client, sender.address, sender.name, b"x" * 32, sender.prefect)
    answers = [
        await other.send(),
        await sender.send(timestamp=now_s() - 1000),
        await sender.send(id="msg.malformed"),
        await sender.client.post(sender.url, content=b"{}"),
        await sender.client.post(
            sender.url, content=b'{"prefix": 1}', headers=sender.headers(b"{}")
        ),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert sender.runs() == []


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_a_repeated_or_non_ascii_header_is_refused(sender: Sender, name: str) -> None:
    good = sender.headers(b"{}")
    twice = [*good.items(), (name, good[name])]
    odd = {**{key: value.encode() for key, value in good.items()}, name: "é€".encode()}
    raw = [(key.encode(), value) for key, value in odd.items()]
    for headers in (twice, raw):
        answer = await sender.client.post(sender.url, content=b"{}", headers=headers)
        assert answer.status_code == 401
    assert sender.runs() == []


@pytest.mark.parametrize("name", ["unknown", "UPPER", "a%2Fb", "x" * 64, "%00", "a;drop", "%ff"])
async def test_an_unknown_name_is_not_found(sender: Sender, name: str) -> None:
    url = f"{sender.address.url}/webhooks/{name}"
    answer = await sender.client.post(url, content=b"{}", headers=sender.headers(b"{}"))
    assert answer.status_code == 404
    assert sender.runs() == []


@pytest.mark.parametrize("size_bytes", [BODY_MAX_BYTES + 1, 10_000_000])
async def test_a_long_body_is_refused_by_its_length(sender: Sender, size_bytes: int) -> None:
    answer = await sender.send(b" " * size_bytes)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert sender.runs() == []


@pytest.mark.parametrize("size_bytes", [BODY_MAX_BYTES + 1, 10_000_000])
async def test_a_long_body_without_a_length_is_refused_while_reading(
    sender: Sender, size_bytes: int
) -> None:
    body = b" " * size_bytes

    async def pieces() -> Any:
        for start in range(0, size_bytes, 8192):
            yield body[start : start + 8192]

    answer = await sender.client.post(sender.url, content=pieces(), headers=sender.headers(body))
    assert answer.status_code == 413
    assert sender.runs() == []


async def test_the_longest_body_is_accepted(sender: Sender) -> None:
    assert (await sender.send(b"{}".ljust(BODY_MAX_BYTES))).status_code == 202


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        ({"rule": "other"}, "rule"),
        ({"endpoint": "http://evil"}, "endpoint"),
        ({"tenant_id": "x", "prefix": "p"}, "tenant_id"),
        ({"prefix": "https://evil/"}, "URL"),
        ({"prefix": {"__prefect_kind": "jinja", "template": "{{ 7 * 7 }}"}}, "prefix"),
        ({"dry_run": "not a boolean"}, "refuses"),
        ({"shards": 65}, "refuses"),
    ],
)
async def test_other_parameters_are_refused(
    sender: Sender, payload: dict[str, Any], word: str
) -> None:
    answer = await sender.send(json.dumps(payload).encode())
    assert answer.status_code == 422
    assert word in answer.json()["message"]
    assert sender.runs() == []


async def test_a_refused_payload_names_what_is_allowed(sender: Sender) -> None:
    answer = await sender.send(b'{"rule": "x"}')
    assert answer.json()["hint"] == "allowed: dry_run, prefix, shards"


async def test_the_schema_holds_where_the_deployment_does_not_ask_for_it(
    make_sender: MakeSender, prefect_server: PrefectServer
) -> None:
    prefect_server.deploy("sweep", "lenient", enforce=False)
    sender = await make_sender(deployment="sweep/lenient", allowed=("shards",))
    assert (await sender.send(b'{"shards": 1000}')).status_code == 422
    assert sender.runs() == []


async def test_a_deployment_that_went_away_is_worth_another_try(
    make_sender: MakeSender, prefect_server: PrefectServer
) -> None:
    prefect_server.deploy("sweep", "fleeting")
    sender = await make_sender(deployment="sweep/fleeting")
    path = "/deployments/name/sweep/fleeting"
    prefect_server.request(
        "DELETE", f"/deployments/{prefect_server.request('GET', path).json()['id']}"
    )
    assert (await sender.send(delivery_id="msg_1")).status_code == 503
    prefect_server.deploy("sweep", "fleeting")
    assert (await sender.send(delivery_id="msg_1")).status_code == 202
    assert len(sender.runs()) == 1


async def test_prefect_killed_then_back(sender: Sender, prefect_server: PrefectServer) -> None:
    known = await sender.send(delivery_id="msg_known")
    prefect_server.stop()
    try:
        answer = await sender.send(delivery_id="msg_1")
        again = await sender.send(delivery_id="msg_known")
        health = await sender.client.get(f"{sender.address.url}/healthz")
        ready = await sender.client.get(f"{sender.address.url}/readyz")
    finally:
        await asyncio.to_thread(prefect_server.start)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    # What was started before is remembered in Postgres alone.
    assert again.json() == known.json() | {"duplicate": True}
    assert health.status_code == 200
    assert (ready.status_code, ready.json()["prefect"]) == (503, "Unavailable")
    for _ in range(30):  # a sender tries again; a server that has just come up may be slow
        answer = await sender.send(delivery_id="msg_1")
        if answer.status_code != 503:
            break
        await asyncio.sleep(1)
    assert answer.status_code == 202
    assert len(sender.runs()) == 2


async def test_a_webhook_that_is_turned_off_is_not_found(sender: Sender, control: Catalog) -> None:
    async with control.begin() as connection:
        await connection.execute(
            update(t.Webhook).where(t.Webhook.name == sender.name).values(enabled=False)
        )
    assert (await sender.send()).status_code == 404
    assert sender.runs() == []


async def test_a_seal_that_does_not_open_is_not_the_senders_fault(
    sender: Sender, make_sender: MakeSender, control: Catalog
) -> None:
    other = await make_sender()
    stolen = select(t.Webhook.secret_encrypted).where(t.Webhook.name == other.name)
    async with control.begin() as connection:
        await connection.execute(
            update(t.Webhook)
            .where(t.Webhook.name == sender.name)
            .values(secret_encrypted=stolen.scalar_subquery())
        )
    sender.secret = other.secret  # who writes to Postgres cannot lend a secret to a webhook
    assert (await sender.send()).status_code == 503
    assert sender.runs() == []


async def test_only_post_is_answered(address: Address, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{address.url}/webhooks/any")
    assert (answer.status_code, answer.json()["error"]) == (405, "method_not_allowed")
