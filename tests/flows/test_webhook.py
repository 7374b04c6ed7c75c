"""Deliveries to the running gateway that start nothing."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from entrepot.clock import SYSTEM_CLOCK, new_id
from tests.running import Running

Made = dict[str, Any]


@pytest.fixture(scope="module")
def made(stack: Running) -> Iterator[Made]:
    """A webhook that may fill ``prefix``; nothing here makes it start a run."""
    name = f"refusals-{new_id().hex[:6]}"
    create = ("webhook", "create", name, "--deployment", "replicate/nightly")
    found: Made = stack.json(*create, "--allow", "prefix", "--set", "rule=none")
    yield found
    tagged = {"tags": {"all_": [f"webhook:{name}"]}}
    assert stack.api("POST", "/flow_runs/filter", flow_runs=tagged) == []
    assert stack.json("webhook", "delete", name) == {"deleted": name}
    assert deliver(found, b"{}").status_code == 404


def deliver(made: Made, body: bytes, *, secret: str = "", age_s: int = 0, path: str = "") -> Any:
    """Send a signed delivery as the specification of standard webhooks says."""
    delivery, when = f"msg_{new_id().hex}", str(round(SYSTEM_CLOCK.now().timestamp()) - age_s)
    key = base64.b64decode((secret or made["secret"]).removeprefix("whsec_"))
    signed = hmac.digest(key, f"{delivery}.{when}.".encode() + body, hashlib.sha256)
    return httpx.post(
        made["url"] + path,
        content=body,
        headers={
            "content-type": "application/json",
            "webhook-id": delivery,
            "webhook-timestamp": when,
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        },
        trust_env=False,
        timeout=30,
    )


def test_what_is_not_signed_just_now_is_refused(made: Made) -> None:
    other = f"whsec_{base64.b64encode(bytes(32)).decode()}"
    assert deliver(made, b"{}", secret=other).status_code == 401
    assert deliver(made, b"{}", age_s=600).status_code == 401
    assert deliver(made, b"{}", age_s=-600).status_code == 401
    assert deliver(made, b"{}", path="-not").status_code == 404
    assert deliver(made, b" " * 10_000_000).status_code == 413


@pytest.mark.parametrize(
    "payload",
    [
        {"prefix": "http://127.0.0.1:1/"},
        {"endpoint": "http://127.0.0.1:1/"},
        {"rule": "another"},
        {"dry_run": True},
        {"prefix": {"__prefect_kind": "jinja", "template": "{{ x }}"}},
        {"prefix": 7},
    ],
    ids=str,
)
def test_a_payload_that_says_more_than_it_may(made: Made, payload: dict[str, Any]) -> None:
    answer = deliver(made, json.dumps(payload).encode())
    assert answer.status_code == 422, answer.text


def test_a_webhook_never_lets_a_payload_name_a_host(stack: Running) -> None:
    create = ("webhook", "create", "never", "--deployment", "replicate/nightly")
    done = stack.entrepot(*create, "--allow", "endpoint", code=2)
    assert "error: not a parameter of the deployment: endpoint" in done.stderr
