"""Creating a webhook: what may be declared, checked against the deployment it starts.

Invariant: a webhook that exists starts a deployment that existed, and lets a payload fill only
parameters which that deployment's ``request`` has and whose names mean no address.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from entrepot.catalog.connect import Catalog
from entrepot.catalog.webhooks import create_webhook
from entrepot.errors import InvalidInput
from entrepot.gateway.payload import bounded
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.sealing import Grant, Sealer
from entrepot.gateway.signature import format_secret, new_secret

PARAMETERS_MAX: Final = 100
FIXED_MAX_CHARS: Final = 2048
"""As JSON; sealed, with the secret, they fit the 4,096 bytes that the catalog gives them."""
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_ADDRESS_WORDS: Final = frozenset(
    {"address", "addr", "dsn", "endpoint", "host", "hostname", "ip", "port", "uri", "url"}
)


@dataclass(frozen=True, slots=True)
class Registered:
    """A new webhook; ``secret`` (``whsec_...``) is known here and nowhere else."""

    name: str
    deployment: str
    allowed_parameters: tuple[str, ...]
    fixed_parameters: Mapping[str, Any]
    secret: str


def is_name(name: str) -> bool:
    """Whether ``name`` may follow ``/webhooks/``."""
    return _NAME.fullmatch(name) is not None


async def register(
    name: str,
    *,
    catalog: Catalog,
    prefect: PrefectApi,
    sealer: Sealer,
    deployment: str,
    allowed: Collection[str] = (),
    fixed: Mapping[str, Any] | None = None,
) -> Registered:
    """Check and store a webhook.

    Raises ``InvalidInput`` for a bad name or parameter, ``NotFound`` where the deployment is not
    registered, ``AlreadyExists`` where the name is taken.
    """
    fixed = dict(fixed or {})
    if not is_name(name):
        raise InvalidInput(
            "not a name that is allowed", hint="1 to 63 of a-z, 0-9 and -, such as push", name=name
        )
    if both := set(allowed) & set(fixed):
        raise InvalidInput(
            "a parameter is either allowed or set",
            hint="leave out --allow or --set of it",
            parameters=sorted(both),
        )
    if len(allowed) + len(fixed) > PARAMETERS_MAX:
        raise InvalidInput(f"at most {PARAMETERS_MAX} parameters")
    found = await prefect.deployment(deployment)
    check_parameters({*allowed, *fixed}, schema=found.schema, deployment=deployment)
    for key in allowed:
        if _ADDRESS_WORDS & set(key.lower().split("_")):
            raise InvalidInput(
                "a payload never names a host", hint=f"--set {key}=VALUE", parameter=key
            )
    for key, value in fixed.items():
        bounded(value, name=key)
    if len(json.dumps(fixed)) > FIXED_MAX_CHARS:
        raise InvalidInput(f"the parameters that are set take more than {FIXED_MAX_CHARS} bytes")
    secret = new_secret()
    await create_webhook(
        catalog,
        name=name,
        deployment=deployment,
        allowed_parameters=sorted(set(allowed)),
        secret_encrypted=sealer.seal(Grant(secret, fixed), webhook=name),
    )
    return Registered(name, deployment, tuple(sorted(set(allowed))), fixed, format_secret(secret))


def check_parameters(names: Collection[str], *, schema: Mapping[str, Any], deployment: str) -> None:
    """Raises ``InvalidInput`` unless ``request`` in the deployment's schema has all ``names``."""
    known = request_fields(schema)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InvalidInput(
            f"not a parameter of the deployment: {', '.join(unknown)}",
            hint=f"it has: {', '.join(sorted(known)) or 'none'}",
            deployment=deployment,
        )


def request_fields(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of the parameter ``request`` in a flow's JSON schema, as Prefect stores it."""
    request = schema.get("properties", {}).get("request", {})
    for wrapped in ("allOf", "anyOf"):
        request = (request.get(wrapped) or [request])[0]
    reference = str(request.get("$ref", ""))
    if reference:
        group, _, name = reference.removeprefix("#/").partition("/")
        request = schema.get(group, {}).get(name, {})
    return tuple(request.get("properties", {}))
