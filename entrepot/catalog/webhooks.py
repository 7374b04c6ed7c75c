"""Webhooks, and which delivery was the first of its id.

Invariant: of all sends of one delivery id one at a time is *new*, and only the new one may start a
flow run. A send that failed, or whose receiver died, makes room for the next one; starting is then
safe because the receiver passes the delivery id to Prefect as an idempotency key.

Words: *delivery* one event of a sender, sent once or more under one id and with one body.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.states import DeliveryState
from entrepot.errors import InvalidInput, NotFound, PreconditionFailed

ABANDONED_AFTER_S = 60
"""A receiver that has not answered by then is dead: its call to Prefect times out sooner."""

KEEP_AT_LEAST = timedelta(minutes=15)
"""Three times the window in which a signature is accepted: what is forgotten cannot come back."""

_NOW = func.clock_timestamp()  # the one clock of all receivers


@dataclass(frozen=True, slots=True)
class Webhook:
    """A name under ``/webhooks/`` and the deployment (``flow/deployment``) that it starts."""

    name: str
    deployment: str
    allowed_parameters: tuple[str, ...]
    secret_encrypted: bytes = field(repr=False)
    created_at: datetime
    enabled: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery; ``new`` tells this caller, and no other, to start the flow run."""

    webhook: str
    delivery_id: str
    received_at: datetime
    flow_run_id: str | None
    state: DeliveryState
    body_sha256: str
    new: bool


async def create_webhook(
    catalog: Catalog,
    *,
    name: str,
    deployment: str,
    allowed_parameters: Sequence[str],
    secret_encrypted: bytes,
    enabled: bool = True,
) -> Webhook:
    """Add a webhook; ``AlreadyExists`` where the name is taken."""
    statement = (
        insert(t.Webhook)
        .values(
            name=name,
            deployment=deployment,
            allowed_parameters=list(allowed_parameters),
            secret_encrypted=secret_encrypted,
            enabled=enabled,
        )
        .returning(*t.Webhook.__table__.c)
    )
    async with catalog.begin() as connection:
        return _webhook((await connection.execute(statement)).one())


async def get_webhook(catalog: Catalog, *, name: str) -> Webhook:
    """The webhook, or ``NotFound``."""
    query = select(t.Webhook).where(t.Webhook.name == name)
    async with catalog.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise _unknown(name)
    return _webhook(row)


async def list_webhooks(catalog: Catalog) -> tuple[Webhook, ...]:
    """All webhooks by name."""
    async with catalog.begin() as connection:
        rows = await connection.execute(select(t.Webhook).order_by(t.Webhook.name))
        return tuple(map(_webhook, rows))


async def delete_webhook(catalog: Catalog, *, name: str) -> None:
    """Forget the webhook and its deliveries; ``NotFound`` without such a one."""
    async with catalog.begin() as connection:
        result = await connection.execute(delete(t.Webhook).where(t.Webhook.name == name))
        if result.rowcount == 0:
            raise _unknown(name)


async def begin_delivery(
    catalog: Catalog, *, webhook: str, delivery_id: str, body_sha256: str
) -> Delivery:
    """Record a send (``body_sha256`` as 64 hex digits); of those at once exactly one is new.

    Raises ``PreconditionFailed`` where the id came with another body before, ``NotFound`` without
    such a webhook.
    """
    first = {
        "received_at": _NOW,
        "state": DeliveryState.RECEIVED,
        "flow_run_id": None,
        "body_sha256": body_sha256,
    }
    abandoned = (t.WebhookDelivery.state == DeliveryState.RECEIVED) & (
        t.WebhookDelivery.received_at < _NOW - timedelta(seconds=ABANDONED_AFTER_S)
    )
    statement = (
        insert(t.WebhookDelivery)
        .values(webhook=webhook, delivery_id=delivery_id, **first)
        .on_conflict_do_update(
            index_elements=[t.WebhookDelivery.webhook, t.WebhookDelivery.delivery_id],
            set_=first,
            where=(t.WebhookDelivery.body_sha256 == body_sha256)
            & ((t.WebhookDelivery.state == DeliveryState.FAILED) | abandoned),
        )
        .returning(*t.WebhookDelivery.__table__.c)
    )
    async with catalog.begin() as connection:
        row = (await connection.execute(statement)).one_or_none()
        if row is not None:
            return Delivery(**row._mapping, new=True)
        query = select(t.WebhookDelivery).where(_is(webhook, delivery_id))
        row = (await connection.execute(query)).one()
    if row.body_sha256 != body_sha256:
        raise PreconditionFailed(
            "the delivery id was used with another body", webhook=webhook, delivery=delivery_id
        )
    return Delivery(**row._mapping, new=False)


async def complete_delivery(
    catalog: Catalog, *, webhook: str, delivery_id: str, flow_run_id: str
) -> None:
    """Record the flow run that the delivery started; ``NotFound`` without such a delivery."""
    statement = (
        update(t.WebhookDelivery)
        .where(_is(webhook, delivery_id))
        .values(state=DeliveryState.STARTED, flow_run_id=flow_run_id)
    )
    async with catalog.begin() as connection:
        if (await connection.execute(statement)).rowcount == 0:
            raise NotFound("no such delivery", webhook=webhook, delivery=delivery_id)


async def fail_delivery(catalog: Catalog, *, webhook: str, delivery_id: str) -> None:
    """Nothing was started: the next send of that id may try. No effect once it was started."""
    statement = (
        update(t.WebhookDelivery)
        .where(_is(webhook, delivery_id), t.WebhookDelivery.state == DeliveryState.RECEIVED)
        .values(state=DeliveryState.FAILED)
    )
    async with catalog.begin() as connection:
        await connection.execute(statement)


async def prune_deliveries(catalog: Catalog, *, older_than: timedelta) -> int:
    """Forget deliveries received that long ago (15 minutes or more); returns how many."""
    if older_than < KEEP_AT_LEAST:
        raise InvalidInput(
            "deliveries must be kept while a signature is still accepted",
            least_s=KEEP_AT_LEAST.total_seconds(),
        )
    statement = delete(t.WebhookDelivery).where(t.WebhookDelivery.received_at < _NOW - older_than)
    async with catalog.begin() as connection:
        return (await connection.execute(statement)).rowcount


def _is(webhook: str, delivery_id: str) -> ColumnElement[bool]:
    return (t.WebhookDelivery.webhook == webhook) & (t.WebhookDelivery.delivery_id == delivery_id)


def _unknown(name: str) -> NotFound:
    return NotFound("no such webhook", hint="entrepot webhook list", webhook=name)


def _webhook(row: Row[Any]) -> Webhook:
    fields = dict(row._mapping)
    return Webhook(**{**fields, "allowed_parameters": tuple(row.allowed_parameters)})
