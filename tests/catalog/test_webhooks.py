"""Webhooks: one start for each delivery id."""

import asyncio
from datetime import timedelta
from hashlib import sha256

import pytest
from sqlalchemy import update

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.states import DeliveryState
from entrepot.catalog.webhooks import (
    ABANDONED_AFTER_S,
    Delivery,
    Webhook,
    begin_delivery,
    complete_delivery,
    create_webhook,
    delete_webhook,
    fail_delivery,
    get_webhook,
    list_webhooks,
    prune_deliveries,
)
from entrepot.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed

BODY = sha256(b"{}").hexdigest()


async def create(catalog: Catalog, name: str = "hook") -> Webhook:
    return await create_webhook(
        catalog,
        name=name,
        deployment="replicate/nightly",
        allowed_parameters=["rule"],
        secret_encrypted=b"\0secret",
    )


async def begin(catalog: Catalog, delivery_id: str = "d1", body: str = BODY) -> Delivery:
    return await begin_delivery(catalog, webhook="hook", delivery_id=delivery_id, body_sha256=body)


async def age(catalog: Catalog, seconds: float) -> None:
    """Make every delivery that much older."""
    older = t.WebhookDelivery.received_at - timedelta(seconds=seconds)
    async with catalog.begin() as connection:
        await connection.execute(update(t.WebhookDelivery).values(received_at=older))


async def test_webhooks(control: Catalog) -> None:
    hook = await create(control)
    assert (hook.allowed_parameters, hook.secret_encrypted, hook.enabled) == (
        ("rule",),
        b"\0secret",
        True,
    )
    assert "secret" not in repr(hook)
    assert await get_webhook(control, name="hook") == hook
    with pytest.raises(AlreadyExists):
        await create(control)
    other = await create(control, "another")
    assert await list_webhooks(control) == (other, hook)
    await begin(control)
    await delete_webhook(control, name="hook")
    for missing in (
        delete_webhook(control, name="hook"),
        get_webhook(control, name="hook"),
        begin(control),
        complete_delivery(control, webhook="hook", delivery_id="d1", flow_run_id="r"),
    ):
        with pytest.raises(NotFound):
            await missing


async def test_of_many_sends_one_is_new(control: Catalog) -> None:
    await create(control)
    for delivery_id in ("d1", "d2", "d3"):
        sends = await asyncio.gather(*(begin(control, delivery_id) for _ in range(8)))
        assert sum(send.new for send in sends) == 1
        assert {send.received_at for send in sends} == {sends[0].received_at}


async def test_a_repeated_send_learns_the_run(control: Catalog) -> None:
    await create(control)
    assert (await begin(control)).state is DeliveryState.RECEIVED
    await complete_delivery(control, webhook="hook", delivery_id="d1", flow_run_id="run-1")
    await fail_delivery(control, webhook="hook", delivery_id="d1")  # too late: it was started
    await age(control, ABANDONED_AFTER_S + 1)
    again = await begin(control)
    assert (again.new, again.flow_run_id, again.state) == (False, "run-1", DeliveryState.STARTED)
    assert (await begin(control, "d2")).new


async def test_another_body_is_refused(control: Catalog) -> None:
    await create(control)
    await begin(control)
    other = sha256(b"other").hexdigest()
    for state in ("received", "failed"):
        with pytest.raises(PreconditionFailed):
            await begin(control, body=other)
        if state == "received":
            await fail_delivery(control, webhook="hook", delivery_id="d1")
    assert (await begin(control)).new
    with pytest.raises(InvalidInput):
        await begin(control, "d9", body="not a digest")


@pytest.mark.parametrize("end", ["failed", "abandoned"])
async def test_what_started_nothing_may_be_sent_again(control: Catalog, end: str) -> None:
    await create(control)
    first = await begin(control)
    if end == "failed":
        await fail_delivery(control, webhook="hook", delivery_id="d1")
    else:
        await age(control, ABANDONED_AFTER_S + 1)
    sends = await asyncio.gather(*(begin(control) for _ in range(8)))
    [new] = [send for send in sends if send.new]
    assert (new.state, new.flow_run_id) == (DeliveryState.RECEIVED, None)
    assert first.delivery_id == new.delivery_id


async def test_prune_keeps_what_a_signature_still_admits(control: Catalog) -> None:
    await create(control)
    await begin(control)
    with pytest.raises(InvalidInput):
        await prune_deliveries(control, older_than=timedelta(minutes=1))
    await age(control, 3600)
    await begin(control, "d2")
    assert await prune_deliveries(control, older_than=timedelta(minutes=30)) == 1
    assert (await begin(control)).new
