"""Usage as it is recorded equals a recount through boto3, at both sites, now and as of then."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from entrepot.clock import new_id
from tests.running import Json, Running

NUMBERS = ("current_bytes", "total_bytes", "objects", "versions", "delete_markers")
Rows = set[tuple[object, ...]]


@dataclass(frozen=True)
class Owned:
    """Two tenants with a bucket each."""

    acme: str
    globex: str

    @property
    def tenants(self) -> dict[str, str]:
        return {self.acme: f"acme-{self.acme[-6:]}", self.globex: f"globex-{self.globex[-6:]}"}


@pytest.fixture(scope="module")
def owned(stack: Running) -> Iterator[Owned]:
    """Buckets with versions and delete markers, under prefixes of several depths and none."""
    made = Owned(stack.bucket("usage-acme"), stack.bucket("usage-globex"))
    for bucket, tenant in made.tenants.items():
        stack.entrepot("tenant", "add", tenant, "--name", f"The tenant {tenant}")
        stack.entrepot("bucket", "adopt", bucket, "--tenant", tenant)
    for number, key in enumerate(["at-the-top", "a/1", "a/deep/2", "a/deep/3", "b/4", "ü/5"]):
        for site in stack.sites[: 1 + number % 2]:
            s3 = stack.s3(site)
            s3.put_object(Bucket=made.acme, Key=key, Body=b"first" * number)
            s3.put_object(Bucket=made.acme, Key=key, Body=b"2nd" * number)
            s3.put_object(Bucket=made.globex, Key=key, Body=b"x" * 1000)
    stack.s3("site-a").delete_object(Bucket=made.acme, Key="a/1")
    stack.s3("site-a").delete_object(Bucket=made.globex, Key="never-there")
    yield made
    for site in stack.sites:
        buckets = [made.acme, made.globex]
        stack.sql("DELETE FROM buckets WHERE name = ANY(%s) RETURNING 1", buckets, site=site)


def recount(stack: Running, owned: Owned, *, depth: int) -> Rows:
    """What a listing of all versions says."""
    rows: Rows = set()
    for site in stack.sites:
        for bucket, tenant in owned.tenants.items():
            sums: dict[str, Counter[str]] = {}
            for entry in stack.history(site, bucket):
                parts = entry.key.split("/")
                prefix = "".join(f"{part}/" for part in parts[:-1][:depth])
                found = sums.setdefault(prefix, Counter())
                found["delete_markers"] += entry.is_marker
                found["versions"] += not entry.is_marker
                found["total_bytes"] += entry.size_bytes
                if entry.is_current and not entry.is_marker:
                    found["objects"] += 1
                    found["current_bytes"] += entry.size_bytes
            for prefix, found in sums.items():
                rows.add((site, tenant, bucket, prefix, *(found[name] for name in NUMBERS)))
    return rows


def of(owned: Owned, rows: list[Json]) -> Rows:
    """Rows of these tenants as ``recount`` gives them."""
    names = ("site", "tenant_id", "bucket", "prefix", *NUMBERS)
    return {
        tuple(row[name] for name in names)
        for row in rows
        if row["tenant_id"] in owned.tenants.values()
    }


def recorded(stack: Running, owned: Owned) -> Rows:
    """The latest account as it stands in Postgres."""
    rows = []
    for site in stack.sites:
        latest = "(SELECT id FROM usage_runs ORDER BY as_of DESC LIMIT 1)"
        found = stack.sql(f"SELECT * FROM usage_rows WHERE run_id = {latest}", site=site)
        rows += [{"site": site, **row} for row in found]
    return of(owned, rows)


def test_usage_now_and_as_of_then(stack: Running, owned: Owned) -> None:
    first = stack.json("quota", "account")
    then = recount(stack, owned, depth=1)
    assert recorded(stack, owned) == then
    shown = stack.json("quota", "usage")
    assert of(owned, shown) == then
    when = max(row["as_of"] for row in shown)

    assert_artifacts(stack, owned, first["id"])
    stack.s3("site-b").put_object(Bucket=owned.globex, Key="later", Body=b"y" * 5000)
    again = stack.json("quota", "account")
    now = recount(stack, owned, depth=1)
    assert recorded(stack, owned) == now != then
    assert of(owned, stack.json("quota", "usage")) == now
    assert of(owned, stack.json("quota", "usage", "--as-of", when)) == then
    assert stack.json("quota", "usage", "--as-of", "2001-01-01") == []
    tenant = owned.tenants[owned.acme]
    mine = stack.json("quota", "usage", "--tenant", tenant)
    assert {row["tenant_id"] for row in mine} == {tenant}
    [grown] = [
        row
        for row in stack.table(again["id"], "usage-tenants")
        if (row["tenant_id"], row["site"]) == (owned.tenants[owned.globex], "site-b")
    ]
    assert grown["growth"] == "+5.0 kB"


def assert_artifacts(stack: Running, owned: Owned, run_id: str) -> None:
    assert stack.ended(run_id)["name"] == "account usage"
    kinds = {each["type"]: each["data"] for each in stack.of_run("artifacts", run_id)}
    assert kinds["progress"] == 100.0
    tenants = {row["tenant_id"] for row in stack.table(run_id, "usage-tenants")}
    assert tenants >= set(owned.tenants.values())
    prefixes = {row["prefix"] for row in stack.table(run_id, "usage-prefixes")}
    assert prefixes >= {"", "a/", "b/", "ü/"}
    assert len(stack.of_run("task_runs", run_id)) <= 40


def test_usage_of_one_site_and_deeper_prefixes(stack: Running, owned: Owned) -> None:
    before = stack.sql("SELECT count(*) FROM usage_runs", site="site-b")
    request = {"sites": ["site-a"], "prefix_depth": 2}
    stack.ended(stack.start("account_usage/hourly", request))
    deep = {row for row in recount(stack, owned, depth=2) if row[0] == "site-a"}
    assert {row for row in recorded(stack, owned) if row[0] == "site-a"} == deep
    assert any(row[3] == "a/deep/" for row in deep)
    assert stack.sql("SELECT count(*) FROM usage_runs", site="site-b") == before


def test_what_is_past_its_time_is_forgotten(stack: Running) -> None:
    """Removals: by default those of more than twice thirty days."""
    insert = """
        INSERT INTO removals (bucket, key, version_id, site, removed_at)
        SELECT 'forgotten-bucket', 'k' || days, 'v', 'site-a', now() - days * interval '1 day'
        FROM unnest(ARRAY[1, 59, 61]) AS days RETURNING key
    """
    stack.sql(insert)
    try:
        stack.ended(stack.start("account_usage/hourly", {"sites": ["site-a"]}))
    finally:
        left = stack.sql("DELETE FROM removals WHERE bucket = 'forgotten-bucket' RETURNING key")
    assert {row["key"] for row in left} == {"k1", "k59"}


def test_a_bucket_that_was_deleted_at_a_site_holds_up_no_other(
    stack: Running, owned: Owned
) -> None:
    gone = stack.bucket("usage-gone")
    stack.entrepot("bucket", "adopt", gone, "--tenant", owned.tenants[owned.acme])
    stack.s3("site-b").delete_bucket(Bucket=gone)
    try:
        run = stack.json("quota", "account")
    finally:
        for site in stack.sites:
            stack.sql("DELETE FROM buckets WHERE name = %s RETURNING 1", gone, site=site)
        stack.sql("DELETE FROM rules WHERE name = %s RETURNING 1", gone)
    assert {row for row in recorded(stack, owned) if row[2] != gone} == recount(
        stack, owned, depth=1
    )
    assert stack.table(run["id"], "usage-missing") == [{"site": "site-b", "bucket": gone}]


@pytest.mark.nightly
def test_usage_of_a_site_that_is_not_there(stack: Running) -> None:
    name = f"nowhere-{new_id().hex[:4]}"
    done = stack.entrepot("quota", "account", "--site", name, code=1)
    assert f"InvalidInput: no such site: {name}\nhint: entrepot site list" in done.stderr
