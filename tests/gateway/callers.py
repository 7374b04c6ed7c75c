"""Those who call the API: with a token, a wrong one, or none."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from entrepot.catalog.connect import Catalog
from entrepot.catalog.tokens import Scope, add_token
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.gateway.api.bearer import Bearer, new_bearer
from entrepot.store.protocol import Capability
from tests.gateway.servers import BUSY_PAUSE_S, BUSY_TRIES

READ, WRITE = (Scope.REPLICATION_READ,), (Scope.REPLICATION_WRITE,)
RULES, SYNC, STATUS = "/replication/rules", "/replication/force-sync", "/replication/status"
ROUTES = [
    ("GET", STATUS, READ),
    ("POST", SYNC, WRITE),
    ("GET", RULES, READ),
    ("GET", f"{RULES}/some", READ),
    ("PUT", f"{RULES}/some", WRITE),
    ("DELETE", f"{RULES}/some", WRITE),
]
ALL = {str(each): {"can": True, "saw": "it worked"} for each in Capability}


async def token(control: Catalog, *scopes: Scope, life_s: float = 3600.0) -> Bearer:
    bearer = new_bearer()
    await add_token(
        control,
        id=bearer.id,
        name=f"token-{new_id().hex[:8]}",
        scopes=scopes,
        token_sha256=bearer.sha256,
        expires_at=SYSTEM_CLOCK.now() + timedelta(seconds=life_s),
    )
    return bearer


@dataclass
class Caller:
    """One who holds a token, or says so."""

    client: httpx.AsyncClient
    url: str
    text: str | None = None

    async def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.text}"} if self.text else {}
        headers |= more.pop("headers", {})
        for _ in range(BUSY_TRIES):
            answer = await self.client.request(method, self.url + path, headers=headers, **more)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(BUSY_PAUSE_S)  # the test's Prefect keeps all in SQLite
        return answer

    async def says(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        answer = await self(method, path, **more)
        return answer.status_code, answer.json()


As = Callable[[str | None], Caller]
