"""Health, readiness, metrics and what is none of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from entrepot.catalog import jobs
from entrepot.catalog.buckets import manage_bucket
from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.objects import outbox
from entrepot.catalog.states import JobState
from entrepot.catalog.usage import UsageRow, record_usage
from entrepot.clock import SYSTEM_CLOCK
from entrepot.embedded.postgres import PostgresServer
from entrepot.gateway.app import READY_TIMEOUT_S, create_app
from entrepot.gateway.facts import CACHE_S, READ_TIMEOUT_S, Facts
from entrepot.gateway.prefect_api import PrefectApi
from entrepot.gateway.sealing import Sealer
from entrepot.metrics import FACTS_UP, REPLICATION_LAG, STORAGE_USED, Metrics
from tests.gateway.conftest import Sender, ShiftedClock
from tests.gateway.servers import Address, serving

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient, address: Address) -> Samples:
    answer = await client.get(f"{address.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def test_healthy_and_ready(address: Address, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{address.url}/healthz")).status_code == 200
    ready = await client.get(f"{address.url}/readyz")
    assert (ready.status_code, ready.json()) == (200, {"postgres": "ok", "prefect": "ok"})


@pytest.mark.parametrize("path", ["/", "/webhooks", "/webhooks/", "/webhooks/a/b", "/docs", "//x"])
async def test_an_unknown_route_is_not_found_in_json(
    address: Address, client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(address.url + path)
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_metrics_count_deliveries_and_errors(sender: Sender) -> None:
    before = await scrape(sender.client, sender.address)
    await sender.send(delivery_id="msg_1")
    await sender.send(delivery_id="msg_1")
    await sender.send(signature="v1,none")
    await sender.client.post(f"{sender.address.url}/webhooks/made-up-name", content=b"{}")
    after = await scrape(sender.client, sender.address)
    for outcome in ("accepted", "duplicate", "unauthorized"):
        name = "entrepot_webhook_deliveries_total"
        assert of(after, name, webhook=sender.name, outcome=outcome) == 1
    errors = [
        of(samples, "minio_errors_total", error_type="AccessDenied") or 0
        for samples in (before, after)
    ]
    assert errors[1] == errors[0] + 1
    assert not any("made-up-name" in str(labels) for _, labels in after)


async def test_metrics_tell_jobs_and_usage(
    control: Catalog, site_dsn: str, clock: ShiftedClock
) -> None:
    started = {"holder": "test", "lease_s": 60, "resume_within_s": 600}
    done = await jobs.claim(control, kind="replicate", subject="nightly", **started)
    await jobs.finish(control, done, state=JobState.COMPLETED, report={})
    await jobs.claim(control, kind="account_usage", subject="a", **started)
    async with Catalog.open(site_dsn, pool_size=1) as one, Catalog.open(site_dsn) as two:
        for size in (1, 30):
            rows = [
                UsageRow("acme", "photos", prefix, 0, size, 0, 1, 0) for prefix in ("", "2024/")
            ]
            await record_usage(one, as_of=datetime.now(UTC), rows=rows)
        facts = Facts(control=control, sites={"one": one, "two": two}, clock=clock)
        samples = {(s.metric.name, s.labels): s.value for s in await facts.read()}
    # Two prefixes of 30 bytes on each of two sites; the older account does not count.
    assert samples[STORAGE_USED.name, ("acme",)] == 120
    assert samples["entrepot_job_running", ("account_usage",)] == 1
    assert samples["entrepot_job_running", ("replicate",)] == 0
    last = samples["entrepot_job_last_success_timestamp_seconds", ("replicate", "nightly")]
    assert abs(last - datetime.now(UTC).timestamp()) < 60
    assert samples[FACTS_UP.name, ("control",)] == samples[FACTS_UP.name, ("site:two",)] == 1


async def test_metrics_tell_the_age_of_what_waits(
    control: Catalog, postgres: PostgresServer, clock: ShiftedClock
) -> None:
    """It grows though nothing runs, counts dead letters, and is zero where nothing waits."""
    dsn = postgres.create_database("gateway_lag")
    await migrate(dsn, kind=CatalogKind.SITE)
    async with Catalog.open(dsn) as site:
        await manage_bucket(site, name="photos", tenant_id="acme")
        for name in ("all>b", "all>c"):
            await outbox.subscribe(site, name=name, bucket_ids=[1], prefix="")
        async with site.begin() as connection:
            await connection.exec_driver_sql(
                "INSERT INTO outbox (consumer, bucket_id, key, version_id, kind, stamp, since)"
                " SELECT 'all>b', 1, 'in/' || n, n, 'put', '', now() - n * interval '1 minute'"
                " FROM generate_series(1, 3) AS n"
            )
        await outbox.bury(site, [3], tries=4, reason="no")
        await outbox.done(site, "all>b", [1], size_bytes=10, errors=4)
        samples = await Facts(control=control, sites={"a": site}, clock=clock).read()
    found = {(s.metric.name, s.labels): s.value for s in samples}
    assert 179 < found[REPLICATION_LAG.name, ("all", "a", "b", "in/")] < 200
    assert found[REPLICATION_LAG.name, ("all", "a", "c", "")] == 0
    assert found["replication_queue_depth", ("all", "a", "b")] == 1
    assert found["entrepot_replication_dead_letters", ("all", "a", "b")] == 1
    assert found["minio_replication_errors_total", ("b", "all", "a")] == 4
    assert found["entrepot_replication_shipped_bytes_total", ("all", "a", "b")] == 10
    text = Metrics().render(samples).decode()
    assert "# TYPE minio_replication_errors_total counter" in text
    assert 'minio_replication_errors_total{region="b",rule="all",source="a"} 4.0' in text


@contextlib.asynccontextmanager
async def frozen() -> AsyncIterator[int]:
    """A port that accepts and never answers, as a frozen server does."""
    ended = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ended.set()
        server.close()


async def test_frozen_servers_do_not_hold_the_scrape_or_the_probe(
    control_dsn: str, sealer: Sealer, client: httpx.AsyncClient
) -> None:
    async with frozen() as port:
        app = create_app(
            control=Catalog.open(control_dsn),
            sites={"far": Catalog.open(f"postgresql://u:p@127.0.0.1:{port}/x", pool_size=1)},
            prefect=PrefectApi(f"http://127.0.0.1:{port}/api", SecretStr("u:p")),
            sealer=sealer,
        )
        async with serving(app) as address:
            begun = SYSTEM_CLOCK.monotonic()
            samples = await scrape(client, address)
            assert SYSTEM_CLOCK.monotonic() - begun < READ_TIMEOUT_S + 2
            assert of(samples, "entrepot_facts_up", catalog="control") == 1
            assert of(samples, "entrepot_facts_up", catalog="site:far") == 0
            assert not any(name == STORAGE_USED.name for name, _ in samples)
            begun = SYSTEM_CLOCK.monotonic()
            ready = await client.get(f"{address.url}/readyz")
            assert SYSTEM_CLOCK.monotonic() - begun < READY_TIMEOUT_S + 2
            assert (ready.status_code, ready.json()["prefect"]) == (503, "timeout")


async def test_a_lock_does_not_hold_the_scrape_and_a_scrape_is_kept(
    control: Catalog, control_dsn: str, clock: ShiftedClock
) -> None:
    class Stepped(ShiftedClock):
        step = 0.0

        def monotonic(self) -> float:
            return self.step

    stepped = Stepped()
    facts = Facts(control=control, sites={}, clock=stepped)
    first = await facts.read()
    plain = control_dsn.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(plain) as locking:
        await locking.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        assert await facts.read() is first  # five seconds old at most, so not read again
        stepped.step = CACHE_S
        begun = SYSTEM_CLOCK.monotonic()
        locked = await asyncio.gather(*(facts.read() for _ in range(10)))
        assert SYSTEM_CLOCK.monotonic() - begun < READ_TIMEOUT_S + 2
        assert {sample.value for sample in locked[0] if sample.metric is FACTS_UP} == {0}
        assert all(samples is locked[0] for samples in locked)


async def test_metrics_can_be_turned_off(
    control_dsn: str, sealer: Sealer, client: httpx.AsyncClient
) -> None:
    app = create_app(
        control=Catalog.open(control_dsn),
        sites={},
        prefect=PrefectApi("http://127.0.0.1:1/api"),
        sealer=sealer,
        serve_metrics=False,
    )
    async with serving(app) as address:
        assert (await client.get(f"{address.url}/metrics")).status_code == 404


async def test_without_postgres_a_delivery_is_to_be_sent_again(
    sealer: Sealer, client: httpx.AsyncClient
) -> None:
    app = create_app(
        control=Catalog.open("postgresql://u:p@127.0.0.1:1/x"),
        sites={},
        prefect=PrefectApi("http://127.0.0.1:1/api"),
        sealer=sealer,
    )
    async with serving(app) as address:
        answer = await client.post(f"{address.url}/webhooks/any", content=b"{}")
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert "retry-after" in answer.headers
        ready = await client.get(f"{address.url}/readyz")
        assert ready.json() == {"postgres": "Unavailable", "prefect": "Unavailable"}
