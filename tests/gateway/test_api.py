"""``/api/v1``: who may call what, and what is refused before it is read."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from entrepot.catalog.connect import Catalog
from entrepot.catalog.tokens import Scope, add_token, list_tokens, revoke_token
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import AlreadyExists, InvalidInput, NotFound
from entrepot.gateway.api.app import make_api
from entrepot.gateway.api.bearer import new_bearer
from entrepot.gateway.api.gate import BODY_MAX_BYTES
from entrepot.gateway.facts import Facts
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.metrics import Metrics
from tests.gateway.callers import READ, ROUTES, RULES, STATUS, SYNC, WRITE, As, Caller, token
from tests.gateway.conftest import BODY_TIMEOUT_S, ShiftedClock
from tests.gateway.servers import Address

# --- Who is let in ----------------------------------------------------------------------------

HIDDEN = [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/none"), ("PATCH", STATUS)]
UNAUTHORIZED = {"error": "unauthorized", "message": "a valid bearer token is needed"}


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for m, p, _ in ROUTES] + HIDDEN, ids=lambda part: part.strip("/")
)
async def test_no_token(caller: As, method: str, path: str) -> None:
    answer = await caller(None)(method, path)
    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_wrong_token(control: Catalog, caller: As) -> None:
    real = await token(control, *Scope)
    other_secret = f"ent_{real.id}_{new_bearer().text[-43:]}"
    wrong = [
        *("x", real.text[:-1], real.text + "x", real.text.upper(), other_secret),
        *(new_bearer().text, real.id, real.sha256, f"ent_{real.id}_{real.sha256[:43]}"),
    ]
    for text in wrong:
        headers = {"authorization": f"Bearer {text}"}
        assert await caller(None).says("GET", STATUS, headers=headers) == (401, UNAUTHORIZED)
    for value in (real.text, f"Basic {real.text}", f"Bearer {real.text} {real.text}"):
        headers = {"authorization": value}
        assert (await caller(None)("GET", STATUS, headers=headers)).status_code == 401
    assert (await caller(real.text)("GET", STATUS)).status_code == 200
    lower = {"authorization": f"bearer {real.text}"}
    assert (await caller(None)("GET", STATUS, headers=lower)).status_code == 200


async def test_two_tokens_are_none(
    control: Catalog, client: httpx.AsyncClient, address: Address
) -> None:
    real = await token(control, *Scope)
    headers = [("authorization", f"Bearer {real.text}"), ("authorization", "Bearer x")]
    answer = await client.get(f"{address.url}/api/v1{STATUS}", headers=headers)
    assert answer.status_code == 401


async def test_expired_token(control: Catalog, caller: As, clock: ShiftedClock) -> None:
    short = caller((await token(control, *READ, life_s=60)).text)
    assert (await short("GET", STATUS)).status_code == 200
    clock.shift = timedelta(seconds=61)
    try:
        assert await short.says("GET", STATUS) == (401, UNAUTHORIZED)
    finally:
        clock.shift = timedelta()


async def test_revoked_token(control: Catalog, caller: As) -> None:
    bearer = await token(control, *READ)
    assert (await caller(bearer.text)("GET", STATUS)).status_code == 200
    [mine] = [each for each in await list_tokens(control) if each.id == bearer.id]
    await revoke_token(control, name=mine.name)
    await revoke_token(control, name=mine.name)
    assert await caller(bearer.text).says("GET", STATUS) == (401, UNAUTHORIZED)
    with pytest.raises(AlreadyExists):
        await add_token(
            control,
            id=new_bearer().id,
            name=mine.name,
            scopes=READ,
            token_sha256="0" * 64,
            expires_at=mine.expires_at,
        )
    with pytest.raises(NotFound):
        await revoke_token(control, name="nobody")
    with pytest.raises(InvalidInput):
        await token(control)


async def test_the_text_of_a_token_is_nowhere_in_postgres(control: Catalog) -> None:
    bearer = await token(control, *READ)
    async with control.begin() as connection:
        rows = await connection.exec_driver_sql("SELECT api_tokens::text FROM api_tokens")
        stored = "".join(row[0] for row in rows)
    assert bearer.sha256 in stored
    assert bearer.text not in stored and bearer.text[-43:] not in stored
    assert bearer.text not in repr(bearer)


@pytest.mark.parametrize(
    ("method", "path", "needed"), ROUTES, ids=[f"{m} {p}".strip("/") for m, p, _ in ROUTES]
)
async def test_read_token_on_a_write_route_and_the_reverse(
    control: Catalog, caller: As, method: str, path: str, needed: tuple[Scope, ...]
) -> None:
    other = WRITE if needed == READ else READ
    body = {"buckets": ["photos"], "sites": ["site-a", "site-b"]} if method == "PUT" else None
    status, said = await caller((await token(control, *other)).text).says(method, path, json=body)
    assert (status, said["error"]) == (403, "forbidden")
    assert said["message"] == f"this token is not for {needed[0]}"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", STATUS, 405),
        ("GET", SYNC, 405),
        ("POST", RULES, 405),
        ("PATCH", f"{RULES}/some", 405),
        ("GET", "/none", 404),
        ("GET", f"{RULES}/", 404),
        ("GET", f"{STATUS}/", 404),
        ("GET", f"{RULES}/UPPER", 422),
        ("GET", f"{RULES}/a%2fb", 404),
    ],
)
async def test_wrong_method_or_path(both: Caller, method: str, path: str, status: int) -> None:
    answer = await both(method, path)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) >= {"error", "message"}


# --- What is read -----------------------------------------------------------------------------


async def test_huge_body(both: Caller, caller: As) -> None:
    huge = b"x" * (BODY_MAX_BYTES + 1)
    status, said = await both.says("POST", SYNC, content=huge)
    assert (status, said["error"]) == (413, "too_large")

    async def pieces() -> Any:
        for _ in range(2 * BODY_MAX_BYTES // 4096):
            yield b"x" * 4096

    assert (await both.says("POST", SYNC, content=pieces()))[0] == 413
    # Of one without a token not even that is read: it is refused for the token.
    assert (await caller(None).says("POST", SYNC, content=huge))[0] == 401


async def test_slow_body(both: Caller, address: Address) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    lines = (
        f"POST /api/v1{SYNC} HTTP/1.1",
        "host: a",
        f"authorization: Bearer {both.text}",
        "content-length: 2",
    )
    writer.write("\r\n".join((*lines, "", "{")).encode())
    began = SYSTEM_CLOCK.monotonic()
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert SYSTEM_CLOCK.monotonic() - began < BODY_TIMEOUT_S + 5
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"rul": "x"}, "body.rul: unknown field"),
        ({"rule": "x", "endpoint": "http://169.254.169.254/"}, "body.endpoint: unknown field"),
        ({"rule": 7}, "body.rule: "),
        ({"rule": "x" * 64}, "body.rule: "),
        ({"buckets": "photos"}, "body.buckets: "),
        ({"buckets": ["UPPER"]}, "body.buckets.0: not a name that is allowed"),
        ({"buckets": ["abc"] * 101}, "body.buckets: 100 at most"),
        ({"prefix": "x" * 1025}, "body.prefix: "),
        ({"prefix": "a\0b"}, "body.prefix: "),
        ({"dry_run": "yes"}, "body.dry_run: "),
        ({"dry_run": 1}, "body.dry_run: "),
        ([], "body: "),
    ],
)
async def test_a_wrong_field_is_named(both: Caller, body: Any, named: str) -> None:
    status, said = await both.says("POST", SYNC, json=body)
    assert (status, said["error"]) == (422, "invalid")
    assert any(line.startswith(named) for line in said["fields"]), said


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"{'rule': 1}", b'{"prefix": "\\ud800"}', b"[" * 60_000]
)
async def test_what_is_no_json(both: Caller, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    status, said = await both.says("POST", SYNC, content=content, headers=headers)
    assert (status, said["error"]) == (422, "invalid")


# --- The document -----------------------------------------------------------------------------


async def test_route_table_equals_openapi(
    both: Caller, control: Catalog, prefect: PrefectApi
) -> None:
    facts = Facts(control=control, sites={}, clock=SYSTEM_CLOCK)
    how = {"control": control, "facts": facts, "prefect": prefect}
    app = make_api(**how, metrics=Metrics(), clock=SYSTEM_CLOCK)
    served = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    others = {getattr(route, "path", "") for route in app.routes if not isinstance(route, APIRoute)}
    assert others == {"/openapi.json"}
    document = (await both("GET", "/openapi.json")).json()
    told = {(method.upper(), path) for path, verbs in document["paths"].items() for method in verbs}
    assert served == told
    assert served == {(m, p.replace("/some", "/{name}")) for m, p, _ in ROUTES}
    for verbs in document["paths"].values():
        for operation in verbs.values():
            assert operation["security"], operation
            assert {"401", "403", "422"} <= set(operation["responses"])


async def test_every_field_of_the_document_is_described(both: Caller) -> None:
    schemas = (await both("GET", "/openapi.json")).json()["components"]["schemas"]
    silent = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        if name not in ("HTTPValidationError", "ValidationError")
        for field, about in schema.get("properties", {}).items()
        if not about.get("description")
    ]
    assert [each for each in silent if not each.startswith("Rule.")] == []
