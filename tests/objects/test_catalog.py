"""The site catalog by itself: plans on a filled one, attacks on the audit trail, committers."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from entrepot.catalog.buckets import manage_bucket
from entrepot.catalog.connect import Catalog, Rows, Transaction
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.objects.audit import AuditChain, Flaw, flaws
from entrepot.catalog.objects.commit import Recorder, commit_writes, write
from entrepot.catalog.objects.facts import Changes, NewIntent, WriteKind
from entrepot.catalog.objects.intents import begin
from entrepot.catalog.objects.read import (
    list_objects,
    list_versions,
    newest_versions,
    recount_usage,
    usage_of,
)
from entrepot.catalog.silence import WITHIN_S
from entrepot.clock import SYSTEM_CLOCK, new_id
from entrepot.embedded.postgres import PostgresServer
from entrepot.errors import AccessDenied
from entrepot.objects.settle import Outcome, settle
from entrepot.stamp import Stamp

ROWS = 200_000
SECRET = bytes(range(32))

_FILL = """
    INSERT INTO versions
    SELECT {bucket}, 'folder-' || (n / 1000) || '/' || lpad(n::text, 7, '0'),
        gen_random_uuid()::text, 1700000000000 + v, 'site-a', 'abcdef01', NULL,
        gen_random_uuid(), false, false, 10, 10, 'e', '', '{{}}'
    FROM generate_series(1, {rows}) n, generate_series(1, 2) v
"""
_FILL_OBJECTS = """
    INSERT INTO objects
    SELECT bucket_id, key, version_id, stamp_ms, size_bytes, etag
    FROM versions WHERE bucket_id = {bucket} AND stamp_ms = 1700000000002
"""


class Explaining(Catalog):
    """Keeps the plan of every statement that is asked."""

    plans: list[str]

    async def ask(
        self, statement: LiteralString, given: Any, *, within_s: float = WITHIN_S
    ) -> Rows:
        """See ``Catalog.ask``."""
        explained = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) " + statement
        self.plans.append("\n".join(row[0] for row in await super().ask(explained, given)))
        return await super().ask(statement, given)


def plain(dsn: str) -> str:
    return dsn.replace("+psycopg", "")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def filled(postgres: PostgresServer) -> tuple[str, int]:
    """The DSN of a catalog, and the id of a bucket in it with ``ROWS`` keys of two versions."""
    dsn = postgres.create_database("objects_filled_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    async with Catalog.open(dsn) as catalog:
        for name in ("one", "another"):
            bucket = await manage_bucket(catalog, name=f"{name}-bucket", tenant_id="acme")
    with psycopg.connect(plain(dsn), autocommit=True) as connection:
        how = {"bucket": sql.Literal(bucket.id), "rows": sql.Literal(ROWS)}
        # A commit that is not on disk yet does not count as visible to all.
        connection.execute("SET synchronous_commit = on")
        connection.execute(sql.SQL(_FILL).format(**how))
        connection.execute(sql.SQL(_FILL_OBJECTS).format(**how))
        connection.execute("VACUUM ANALYZE versions, objects, intents")
    return dsn, bucket.id


def some_key(number: int) -> str:
    return f"folder-{number // 1000}/{number:07}"


Listing = Callable[[Catalog, int], Awaitable[object]]

LISTINGS: dict[str, Listing] = {
    "first": lambda catalog, bucket: list_objects(catalog, bucket_id=bucket),
    "late": lambda catalog, bucket: list_objects(
        catalog, bucket_id=bucket, after=some_key(190_000)
    ),
    "prefix": lambda catalog, bucket: list_objects(catalog, bucket_id=bucket, prefix="folder-7/"),
    "folders": lambda catalog, bucket: list_objects(catalog, bucket_id=bucket, delimiter="/"),
    "in-folder": lambda catalog, bucket: list_objects(
        catalog, bucket_id=bucket, prefix="folder-7/", delimiter="/", after="folder-7/0007500"
    ),
}
LOOKUPS: dict[str, Listing] = {
    "newest": lambda catalog, bucket: newest_versions(
        catalog, [(bucket, some_key(number)) for number in range(1, 129)]
    ),
    "versions": lambda catalog, bucket: list_versions(catalog, bucket_id=bucket),
    "late-versions": lambda catalog, bucket: list_versions(
        catalog, bucket_id=bucket, after=some_key(99_000), before=Stamp(1_700_000_000_002, "", "")
    ),
    "late-prefix": lambda catalog, bucket: list_versions(
        catalog, bucket_id=bucket, prefix="folder-", after=some_key(99_000)
    ),
}


@pytest.mark.parametrize("name", LISTINGS)
async def test_listings_read_one_index_and_no_table(filled: tuple[str, int], name: str) -> None:
    dsn, bucket_id = filled
    async with Explaining.open(dsn) as catalog:
        catalog.plans = []
        assert await LISTINGS[name](catalog, bucket_id)
    [plan] = catalog.plans
    assert "Index Only Scan" in plan
    assert "Heap Fetches: 0" in plan
    for slow in ("Seq Scan", "Bitmap", "Sort"):
        assert slow not in plan, plan


@asynccontextmanager
async def generic(dsn: str) -> AsyncIterator[Catalog]:
    """A catalog whose statements are planned without looking at their parameters."""
    options = "options=-c%20plan_cache_mode%3Dforce_generic_plan"
    async with Catalog.open(f"{dsn}?{options}", pool_size=1) as catalog:
        yield catalog


def entries_read(dsn: str) -> tuple[int, int]:
    """Scans of whole tables so far, and entries of indexes that were read."""
    with psycopg.connect(plain(dsn), autocommit=True) as connection:
        # The planner's own look at the ends of a key's range is no scan that counts here.
        found = connection.execute("""
            SELECT sum(seq_scan)::bigint, sum(idx_tup_read)::bigint
            FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
            WHERE t.relname ~ '^(versions|objects)_'
        """).fetchone()
        assert found
        return int(found[0]), int(found[1])


@pytest.mark.parametrize("name", [*LISTINGS, *LOOKUPS])
@pytest.mark.parametrize("opened", [Catalog.open, generic])
async def test_what_a_page_reads_is_a_page(
    filled: tuple[str, int], name: str, opened: Callable[[str], Any]
) -> None:
    """By the counters of Postgres, which count what really ran, prepared statements too."""
    dsn, bucket_id = filled
    before = entries_read(dsn)
    calls = 12  # psycopg prepares a statement at its sixth use, Postgres plans anew five times
    async with opened(dsn) as catalog:
        for _ in range(calls):
            assert await {**LISTINGS, **LOOKUPS}[name](catalog, bucket_id)
    scans, entries = 0, 0
    for _ in range(50):  # the server counts for us once its process has gone
        after = entries_read(dsn)
        scans, entries = after[0] - before[0], after[1] - before[1]
        if entries:
            break
        await asyncio.sleep(0.1)
    assert scans == 0
    assert 0 < entries <= calls * 4_100


async def test_a_commit_never_scans(
    filled: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, bucket_id = filled
    plans: list[str] = []

    at_once = Transaction.at_once

    async def explaining(transaction: Transaction, *asked: Any, **how: Any) -> Any:
        for statement, given in asked:
            [rows] = await at_once(transaction, ("EXPLAIN (COSTS OFF) " + statement, given))
            plans.append("\n".join(row[0] for row in rows))
        return await at_once(transaction, *asked, **how)

    monkeypatch.setattr(Transaction, "at_once", explaining)
    async with Catalog.open(dsn) as catalog:
        writer = Writer(catalog)
        await writer.put([(bucket_id, some_key(number)) for number in range(500, 600)])
    assert len(plans) >= 8
    for plan in plans:
        scanned = [line for line in plan.splitlines() if "Seq Scan on" in line]
        assert not [line for line in scanned if "versions" in line or "objects" in line], plan


class Writer:
    """One who commits: its own chain, its own clock."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        chain = AuditChain(new_id(), new_id().hex[:8], 1, SECRET)
        self.recorder = Recorder(chain, chain.chain.int % 16, SYSTEM_CLOCK.now)

    async def put(self, places: list[tuple[int, str]], *, clock_ms: int | None = None) -> set[UUID]:
        """Write a version of each key; the ids of those that were begun and committed."""
        now_ms = clock_ms or int(SYSTEM_CLOCK.now().timestamp() * 1000)
        new = [
            NewIntent(write_id := new_id(), bucket, key, WriteKind.PUT, str(write_id), now_ms)
            for bucket, key in places
        ]
        writer = self.recorder.chain.writer
        begun = await begin(self.catalog, new, site="site-a", writer=writer, lease_s=60)
        outcomes = {write_id: Outcome(size_bytes=1, stored_bytes=1) for write_id in begun}
        keys = [(intent.bucket_id, intent.key) for intent in begun.values()]
        seen = await commit_writes(
            self.catalog,
            list(begun),
            keys,
            lambda seen: settle(seen, outcomes)[0],
            recorder=self.recorder,
        )
        return set(seen.intents)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def dsn(postgres: PostgresServer) -> str:
    dsn = postgres.create_database("objects_catalog_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    return dsn


@pytest_asyncio.fixture
async def catalog(dsn: str) -> AsyncIterator[Catalog]:
    async with Catalog.open(dsn, pool_size=12) as catalog:
        yield catalog


async def new_buckets(catalog: Catalog, count: int) -> list[int]:
    made = [
        await manage_bucket(catalog, name=f"b-{new_id().hex}", tenant_id="t") for _ in range(count)
    ]
    return [bucket.id for bucket in made]


async def found_flaws(catalog: Catalog) -> list[Flaw]:
    return [flaw async for flaw in flaws(catalog, {1: SECRET})]


async def assert_books(catalog: Catalog, bucket_ids: list[int]) -> None:
    for bucket_id in bucket_ids:
        kept = await usage_of(catalog, bucket_id=bucket_id)
        assert kept == await recount_usage(catalog, bucket_id=bucket_id)
    assert await found_flaws(catalog) == []


async def test_committers_of_overlapping_keys(catalog: Catalog) -> None:
    """Batches of the same keys in every order, from many writers: no deadlock, all counted."""
    seed = SYSTEM_CLOCK.now().microsecond
    print(f"seed {seed}")
    chance = random.Random(seed)
    bucket_ids = await new_buckets(catalog, 3)
    keys = [(bucket_id, f"k{number}") for bucket_id in bucket_ids for number in range(8)]
    writers = [Writer(catalog) for _ in range(6)]

    async def work(writer: Writer) -> int:
        done = 0
        for _ in range(12):
            batch = chance.sample(keys, 16)
            done += len(await writer.put(batch))
        return done

    counts = await asyncio.gather(*(work(writer) for writer in writers))
    total = 0
    for bucket_id in bucket_ids:
        total += (await usage_of(catalog, bucket_id=bucket_id)).versions
        rows = await list_versions(catalog, bucket_id=bucket_id)
        by_key = [(row.key, row.stamp.time_ms) for row in rows]
        assert len(set(by_key)) == len(by_key)
    assert total == sum(counts) > 0
    await assert_books(catalog, bucket_ids)


async def test_two_beginners_of_the_same_instant_do_not_wait_in_a_circle(catalog: Catalog) -> None:
    """The same keys and the same clock, in opposite orders."""
    [bucket_id] = await new_buckets(catalog, 1)
    places = [(bucket_id, f"k{number}") for number in range(60)]
    writers = [Writer(catalog) for _ in range(4)]
    for round_ in range(15):
        tries = [
            writer.put(places if number % 2 else places[::-1], clock_ms=2_000_000_000_000 + round_)
            for number, writer in enumerate(writers)
        ]
        done = await asyncio.gather(*tries, return_exceptions=True)
        assert not [error for error in done if isinstance(error, BaseException)]
    await assert_books(catalog, [bucket_id])


async def test_batches_of_one_writer_at_once_keep_its_chain(catalog: Catalog) -> None:
    """Two batches of one process, of other keys and buckets, end at the same moment."""
    bucket_ids = await new_buckets(catalog, 4)
    writer = Writer(catalog)
    for number in range(20):
        await asyncio.gather(*(writer.put([(one, f"k{number}")]) for one in bucket_ids))
    await assert_books(catalog, bucket_ids)


async def test_records_without_a_key_at_once_keep_the_chain(catalog: Catalog) -> None:
    writer = Writer(catalog)

    async def note(number: int) -> None:
        async with catalog.transaction() as transaction:
            changes = Changes(records=({"action": "note", "number": number},))
            await write(transaction, changes, recorder=writer.recorder)

    await asyncio.gather(*map(note, range(40)))
    assert await found_flaws(catalog) == []


async def test_events_only_for_who_asked(catalog: Catalog) -> None:
    followed, alone = await new_buckets(catalog, 2)
    give = "INSERT INTO outbox_consumers (name, bucket_id) VALUES (%(name)s, %(bucket)s)"
    for name in ("stream", "index"):
        await catalog.ask(give, {"name": name, "bucket": followed})
    writer = Writer(catalog)
    await writer.put([(followed, "k"), (alone, "k")])
    ask = "SELECT consumer, bucket_id, key, kind FROM outbox WHERE bucket_id = ANY(%(ids)s)"
    found = await catalog.ask(ask, {"ids": [followed, alone]})
    assert sorted(tuple(row) for row in found) == [
        ("index", followed, "k", "put"),
        ("stream", followed, "k", "put"),
    ]


# --- Attacks on the audit trail -----------------------------------------------------------------


@pytest_asyncio.fixture
async def trail(postgres: PostgresServer) -> AsyncIterator[tuple[Catalog, UUID]]:
    """A catalog of its own with a chain of six rows, and another one."""
    dsn = postgres.create_database(f"audit_{new_id().hex[:12]}")
    await migrate(dsn, kind=CatalogKind.SITE)
    async with Catalog.open(dsn) as catalog:
        [bucket_id] = await new_buckets(catalog, 1)
        for _ in range(2):
            writer = Writer(catalog)
            for number in range(6):
                await writer.put([(bucket_id, f"k{number}")])
        assert await found_flaws(catalog) == []
        yield catalog, writer.recorder.chain.chain


ATTACKS: dict[str, tuple[LiteralString, ...]] = {
    "row edited": (
        'UPDATE audit SET record = record || \'{"actor": "mallory"}\' {where} AND number = 3',
    ),
    "time edited": (
        'UPDATE audit SET record = record || \'{"at": "2020-01-01T00:00:00+00:00"}\' '
        "{where} AND number = 3",
    ),
    "row removed": ("DELETE FROM audit {where} AND number = 3",),
    "first row removed": ("DELETE FROM audit {where} AND number = 1",),
    "row removed and the rest moved up": (
        "DELETE FROM audit {where} AND number = 3",
        "UPDATE audit SET number = number - 1 {where} AND number > 3",
        "UPDATE audit_chains SET length = 5 {where}",
    ),
    "row inserted": (
        "INSERT INTO audit SELECT at, chain, 7, record, mac FROM audit {where} AND number = 6",
        "UPDATE audit_chains SET length = 7 {where}",
    ),
    "row of another chain inserted": (
        "INSERT INTO audit SELECT at, {chain}, 7, record, mac FROM audit "
        "WHERE chain <> {chain} AND number = 1",
    ),
    "rows reordered": (
        "UPDATE audit SET number = number + 100 {where} AND number = 2",
        "UPDATE audit SET number = 2 {where} AND number = 3",
        "UPDATE audit SET number = 3 {where} AND number = 102",
    ),
    "end cut": ("DELETE FROM audit {where} AND number > 4",),
    "end cut and head told": (
        "DELETE FROM audit {where} AND number > 4",
        "UPDATE audit_chains SET length = 4 {where}",
    ),
    "all cut and head told": (
        "DELETE FROM audit {where}",
        "UPDATE audit_chains SET length = 0 {where}",
    ),
    "head edited": ("UPDATE audit_chains SET length = 99 {where}",),
    "seal edited": ("UPDATE audit_chains SET head = decode(repeat('00', 32), 'hex') {where}",),
    "another's key named": ("UPDATE audit_chains SET key_number = 2 {where}",),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attacks_on_the_trail_are_found(trail: tuple[Catalog, UUID], attack: str) -> None:
    """By who owns the database: superuser, trigger switched off."""
    catalog, chain = trail
    url = plain(catalog._engine.url.render_as_string(hide_password=False))
    how = {
        "chain": sql.Literal(chain),
        "where": sql.SQL("WHERE chain = {}").format(sql.Literal(chain)),
    }
    with psycopg.connect(url.split("?")[0], autocommit=True) as connection:
        connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
        for statement in ATTACKS[attack]:
            given = statement.replace("'{\"", "'{{\"").replace("\"}'", "\"}}'")
            done = connection.execute(sql.SQL(given).format(**how))
            assert done.rowcount > 0
    found = await found_flaws(catalog)
    assert found
    assert {flaw.chain for flaw in found} == {chain}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET number = number",
        "DELETE FROM audit",
        "TRUNCATE audit",
    ],
)
async def test_the_trail_is_append_only(
    trail: tuple[Catalog, UUID], statement: LiteralString
) -> None:
    catalog, _ = trail
    with pytest.raises(AccessDenied):
        await catalog.ask(statement, {})
    assert await found_flaws(catalog) == []
