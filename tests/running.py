"""The whole stack, running: what the tests of flows and commands ask of it.

Invariant: what a test compares is read through boto3, Prefect's REST API and plain SQL, never
through our own stores and catalogs, so that a mistake of ours cannot hide itself.

Words: *view* what a reader gets of a bucket, key by key; *history* every version and delete marker
of it; *end* a view or history of both sites that must be the same.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import sleep
from typing import Any

import boto3
import httpx
import psutil
import psycopg
from botocore.config import Config as BotoConfig
from psycopg.rows import dict_row

from entrepot.cli.common import open_store
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.config import Config, load
from entrepot.embedded.process import leftovers
from entrepot.embedded.stack import ChildStatus, StackInfo, status

Json = dict[str, Any]
MANY = [f"{n % 4}/{n:04}" for n in range(4000)]
SLOW = {"workers": 1, "shards": 2}
"""Parameters that make a sweep of ``MANY`` last some ten seconds, in four steps at least."""
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def wait_for(
    condition: Callable[[], Any], *, timeout_s: float = 120.0, pause_s: float = 0.2
) -> Any:
    """What ``condition`` gives once that is true; fails after ``timeout_s``."""
    deadline = SYSTEM_CLOCK.monotonic() + timeout_s
    while not (found := condition()):
        assert SYSTEM_CLOCK.monotonic() < deadline, f"not within {timeout_s} s: {condition}"
        sleep(pause_s)
    return found


@dataclass(frozen=True)
class Object:
    """What a reader gets under one key."""

    sha256: str
    content_type: str
    metadata: tuple[tuple[str, str], ...]
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, order=True)
class Entry:
    """One version or delete marker of a history."""

    key: str
    version_id: str
    is_current: bool
    is_marker: bool
    size_bytes: int
    etag: str


class Running:
    """The stack: sites ``site-a`` and ``site-b``, Prefect with a worker, the gateway."""

    def __init__(self, info: StackInfo) -> None:
        self.info = info
        user, _, password = info.prefect_auth.get_secret_value().partition(":")
        self.prefect = httpx.Client(
            base_url=info.prefect_api_url, auth=(user, password), timeout=60, trust_env=False
        )

        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        """Give back every connection; the stack goes on."""
        for client in (self.prefect, *self._clients.values()):
            client.close()

    @cached_property
    def config(self) -> Config:
        return load(self.info.config_path)

    # Commands

    def entrepot(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of ours as a process; it must end with ``code``."""
        done = subprocess.run(
            [sys.executable, "-m", "entrepot.cli", *arguments],
            env=self.info.client_env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.entrepot(*arguments, "--json", code=code).stdout)

    # Prefect

    def api(self, method: str, path: str, **body: Any) -> Any:
        """The answer of Prefect's API, which must be 2xx."""
        answer = self.prefect.request(method, path, json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def deployment(self, name: str = "replicate/nightly") -> Json:
        found: Json = self.api("GET", f"/deployments/name/{name}")
        return found

    def start(self, deployment: str, request: Json) -> str:
        """Start a run as the form of Prefect's UI does; its id."""
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        run: Json = self.api(
            "POST", path, parameters={"request": request}, state={"type": "SCHEDULED"}
        )
        return str(run["id"])

    def run(self, run_id: str) -> Json:
        found: Json = self.api("GET", f"/flow_runs/{run_id}")
        return found

    def ended(self, run_id: str, state: str = "COMPLETED", *, timeout_s: float = 180.0) -> Json:
        """The run once it has ended, which must be in ``state``."""
        found: Json = wait_for(
            lambda: (run := self.run(run_id))["state_type"] in FINAL and run, timeout_s=timeout_s
        )
        assert found["state_type"] == state, found["state"]
        return found

    def replicate(self, rule: str, state: str = "COMPLETED", **more: Any) -> Json:
        """Sweep a rule to its end."""
        return self.ended(self.start("replicate/nightly", {"rule": rule, **more}), state)

    def in_the_middle(self, rule: str) -> str:
        """Start a slow sweep of ``MANY`` objects; its id, once a quarter is copied."""
        run_id = self.start("replicate/nightly", {"rule": rule, **SLOW})
        wait_for(lambda: self.job(rule).get("copied", 0) >= 1000, pause_s=0.05)
        return run_id

    def of_run(self, kind: str, run_id: str) -> list[Json]:
        """``artifacts``, ``task_runs`` or ``logs`` of a run, at most 200."""
        of = {"flow_run_id": {"any_": [run_id]}}
        filters = {"flow_runs": {"id": {"any_": [run_id]}}} if kind == "task_runs" else {kind: of}
        found: list[Json] = self.api("POST", f"/{kind}/filter", **filters, limit=200)
        return found

    def table(self, run_id: str, key: str) -> list[Json]:
        """The rows of a run's table artifact."""
        [found] = [each for each in self.of_run("artifacts", run_id) if each["key"] == key]
        rows: list[Json] = json.loads(found["data"])
        return rows

    def job(self, rule: str) -> Json:
        """The latest job of a rule, with ``copied`` and ``shards_done`` summed over its shards."""
        [found] = self.sql(
            "SELECT jobs.*, coalesce(sum((counters->>'copied')::int), 0) AS copied,"
            " count(*) FILTER (WHERE done) AS shards_done"
            " FROM jobs LEFT JOIN job_shards ON job_id = id"
            " WHERE subject LIKE %s GROUP BY id ORDER BY started_at DESC LIMIT 1",
            f"{rule}/%",
        ) or [{}]
        return found

    def flow_process(self, run_id: str) -> psutil.Process | None:
        """The process in which the worker runs the flow."""
        for process in leftovers(self.info.data_dir):
            try:
                if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                    return process
            except psutil.Error:
                continue
        return None

    # Servers

    def child(self, name: str) -> ChildStatus:
        """A server of the stack as its supervisor sees it."""
        return next(each for each in status(self.info.data_dir).children if each.name == name)

    def sql(self, query: str, *values: object, site: str = "") -> list[Json]:
        """Rows of the control catalog, or of a site's."""
        dsn = self.info.control_dsn
        if site:
            [dsn] = [each.catalog_dsn for each in self.info.sites if each.name == site]
        address = dsn.get_secret_value().replace("+psycopg", "")
        with psycopg.connect(address, row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[arg-type]

    def s3(self, site: str) -> Any:
        """A boto3 client of a site."""
        if site in self._clients:
            return self._clients[site]
        [found] = [each for each in self.info.sites if each.name == site]
        self._clients[site] = boto3.client(
            "s3",
            endpoint_url=found.endpoint,
            aws_access_key_id=found.access_key,
            aws_secret_access_key=found.secret_key.get_secret_value(),
            region_name=found.region,
            config=BotoConfig(retries={"max_attempts": 5}, max_pool_connections=32),
        )
        return self._clients[site]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.info.sites)

    # Sites, buckets and rules

    @contextmanager
    def site_block(self, name: str, *, endpoint: str, rank: int, **more: Any) -> Iterator[str]:
        """While it lasts, a block of one more site, at ``endpoint``; site B's user by default."""
        site = self.info.sites[1]
        kind = self.api("GET", "/block_types/slug/entrepot-site")
        of_kind = {"block_type_id": {"any_": [kind["id"]]}}
        [schema, *_] = self.api("POST", "/block_schemas/filter", block_schemas=of_kind)
        data = {
            "endpoint": endpoint,
            "rank": rank,
            "access_key": site.access_key,
            "secret_key": site.secret_key.get_secret_value(),
            "capabilities": ["versioning", "conditional-write", "origin", "tags"],
        }
        made = self.api(
            "POST",
            "/block_documents/",
            name=name,
            data=data | more,
            block_schema_id=schema["id"],
            block_type_id=kind["id"],
        )
        try:
            yield name
        finally:
            self.api("DELETE", f"/block_documents/{made['id']}")

    def bucket(self, words: str, *, sites: Sequence[str] = ()) -> str:
        """A new versioned bucket at both sites, and a rule of the same name over it.

        ``sites`` are those of the rule, if others than these two.
        """
        name = f"{words.strip('_').replace('_', '-')[:50]}-{new_id().hex[:6]}"
        for site in self.sites:
            self.s3(site).create_bucket(Bucket=name)
            self.s3(site).put_bucket_versioning(
                Bucket=name, VersioningConfiguration={"Status": "Enabled"}
            )
        self.sql(
            "INSERT INTO rules (name, buckets, prefix, sites, enabled)"
            " VALUES (%s, %s, '', %s, true) RETURNING name",
            name,
            [name],
            list(sites or self.sites),
        )
        return name

    def fill(self, site: str, bucket: str, keys: Sequence[str], *, body: bytes = b"x") -> None:
        """Put ``body`` under many keys (through our own store, which is quick)."""
        [settings] = [each for each in self.config.sites() if each.name == site]

        async def put() -> None:
            waiting, store = iter(keys), open_store(settings, max_connections=16)

            async def work() -> None:
                for key in waiting:
                    await store.put(bucket, key, body)

            try:
                await asyncio.gather(*(work() for _ in range(16)))
            finally:
                await store.close()

        asyncio.run(put())

    def view(self, site: str, bucket: str) -> dict[str, Object]:
        """What a reader gets at a site, key by key."""
        s3, found = self.s3(site), {}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for each in page.get("Contents", ()):
                got = s3.get_object(Bucket=bucket, Key=each["Key"])
                tags = s3.get_object_tagging(Bucket=bucket, Key=each["Key"])["TagSet"]
                found[each["Key"]] = Object(
                    sha256=hashlib.sha256(got["Body"].read()).hexdigest(),
                    content_type=got["ContentType"],
                    metadata=tuple(sorted(got["Metadata"].items())),
                    tags=tuple(sorted((tag["Key"], tag["Value"]) for tag in tags)),
                )
        return found

    def history(self, site: str, bucket: str) -> list[Entry]:
        """Every version and delete marker at a site."""
        found = []
        for page in self.s3(site).get_paginator("list_object_versions").paginate(Bucket=bucket):
            for kind in ("Versions", "DeleteMarkers"):
                found += [
                    Entry(
                        key=each["Key"],
                        version_id=each["VersionId"],
                        is_current=each["IsLatest"],
                        is_marker=kind == "DeleteMarkers",
                        size_bytes=each.get("Size", 0),
                        etag=each.get("ETag", ""),
                    )
                    for each in page.get(kind, ())
                ]
        return sorted(found)
