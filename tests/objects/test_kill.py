"""kill -9 at every point of every operation; afterwards each is whole or not at all."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
import pytest_asyncio
from sqlalchemy import text

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.objects.names import shown_key
from entrepot.objects.recover import recover
from entrepot.objects.service import Objects
from tests.objects.conftest import KINDS
from tests.objects.killable import Steps, body_of, stepped
from tests.objects.test_service import assert_books, read
from tests.objects.worlds import new_bucket_name
from tests.sources import ROOT

SIZE = 20_000
FIRST_PART, LAST_PART = b"1" * (5 << 20), b"2" * 1000
OLD, OLDER = b"old " * 2000, b"older " * 2000


class Killer:
    """A process that forks for each job; see ``tests.objects.killable``."""

    def __init__(self, site: dict[str, Any], *, module: str = "tests.objects.killable") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stopped: int | None = None
        self._say(site)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            if self._stopped:  # a test failed before it let the job go on
                os.kill(self._stopped, signal.SIGKILL)
            assert process.stdin
            process.stdin.close()

    def _say(self, what: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    async def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """How a job ended; or that it is stopped."""
        self._say(job)
        answer = await asyncio.to_thread(self._answer)
        self._stopped = answer.get("stopped")
        return answer

    async def go_on(self) -> dict[str, Any]:
        """Let a stopped job go on to its end."""
        assert self._stopped
        os.kill(self._stopped, signal.SIGCONT)
        self._stopped = None
        return await asyncio.to_thread(self._answer)


State = list[bytes | None]
"""The versions of a key, newest first; None is a delete marker."""


@dataclass
class Case:
    """What a key holds before an operation and after it, and what else its job needs."""

    before: State
    after: State
    job: dict[str, Any] = field(default_factory=dict)
    tags: bool = False


Prepare = Callable[[Objects, str, str], Awaitable[Case]]


async def nothing(objects: Objects, bucket: str, key: str) -> Case:
    return Case([], [body_of(key, SIZE)])


async def one_version(objects: Objects, bucket: str, key: str) -> Case:
    await objects.put(bucket, key, OLD)
    return Case([OLD], [body_of(key, SIZE), OLD])


async def long_body(objects: Objects, bucket: str, key: str) -> Case:
    size = 9 << 20  # past what is spooled: an upload of the backend
    return Case([], [body_of(key, size)], {"size": size})


async def promised(objects: Objects, bucket: str, key: str) -> Case:
    body = body_of(key, SIZE)
    return Case([], [body], {"checksums": {"sha256": hashlib.sha256(body).hexdigest()}})


async def to_delete(objects: Objects, bucket: str, key: str) -> Case:
    await objects.put(bucket, key, OLD)
    return Case([OLD], [None, OLD])


async def to_remove(objects: Objects, bucket: str, key: str) -> Case:
    await objects.put(bucket, key, OLDER)
    row = await objects.put(bucket, key, OLD)
    return Case([OLD, OLDER], [OLDER], {"version": row.version_id})


async def marker_to_remove(objects: Objects, bucket: str, key: str) -> Case:
    await objects.put(bucket, key, OLD)
    row = await objects.delete(bucket, key)
    assert row
    return Case([None, OLD], [OLD], {"version": row.version_id})


async def to_copy(objects: Objects, bucket: str, key: str) -> Case:
    await objects.put(bucket, "source", OLDER)
    await objects.put(bucket, key, OLD)
    return Case([OLD], [OLDER, OLD], {"source": "source"})


async def to_tag(objects: Objects, bucket: str, key: str) -> Case:
    row = await objects.put(bucket, key, OLD)
    return Case([OLD], [OLD], {"version": row.version_id}, tags=True)


async def to_complete(objects: Objects, bucket: str, key: str) -> Case:
    upload_id = await objects.start_upload(bucket, key)
    parts = []
    for number, body in enumerate((FIRST_PART, LAST_PART), 1):
        part = await objects.put_part(bucket, key, upload_id, number=number, source=body)
        parts.append((number, part.etag))
    job = {"upload": str(upload_id), "parts": parts}
    return Case([], [FIRST_PART + LAST_PART], job)


OPERATIONS: dict[str, tuple[str, Prepare]] = {
    "put-new": ("put", nothing),
    "put-with-checksum": ("put-sums", promised),
    "put-long": ("put-unknown", long_body),
    "overwrite": ("put", one_version),
    "overwrite-streamed": ("put-stream", one_version),
    "put-conditional": ("put-if", one_version),
    "delete": ("delete", to_delete),
    "remove": ("remove", to_remove),
    "remove-marker": ("remove", marker_to_remove),
    "copy": ("copy", to_copy),
    "tag": ("tag", to_tag),
    "complete": ("complete", to_complete),
}

_BY_NIGHT = ("overwrite", "put-long", "put-with-checksum")
BY_DAY = {
    *(("plain", name) for name in OPERATIONS if name not in _BY_NIGHT),
    *(("both", name) for name in ("put-long", "overwrite-streamed")),
    ("compressed", "put-with-checksum"),
}


def cases() -> Iterator[Any]:
    """Every operation on every kind of bucket; those of a day first."""
    for kind in KINDS:
        for name in OPERATIONS:
            marks = [] if (kind, name) in BY_DAY else [pytest.mark.nightly]
            yield pytest.param(kind, name, id=f"{kind}-{name}", marks=marks)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(
    postgres: PostgresServer, minio_a: MinioServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What a process needs to write to a site with a catalog of its own."""
    dsn = postgres.create_database("objects_kill_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    keys = tmp_path_factory.mktemp("kill-keys")
    keys.chmod(0o700)
    return {
        "dsn": dsn,
        "endpoint": minio_a.endpoint,
        "access_key": minio_a.access_key,
        "secret_key": minio_a.secret_key.get_secret_value(),
        "keys": str(keys),
    }


async def _never() -> None:
    raise AssertionError("nobody stops here")


@pytest_asyncio.fixture
async def objects(site: dict[str, str]) -> AsyncIterator[Objects]:
    """A service that writes before and recovers after; the killed ones are other processes."""
    async with stepped(site, Steps(_never)) as objects:
        yield objects


@pytest.fixture(scope="module")
def killer(site: dict[str, str]) -> Iterator[Killer]:
    with Killer(site) as killer:
        yield killer


async def counted(catalog: Catalog, table: str) -> int:
    async with catalog.begin() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


async def expire(catalog: Catalog) -> None:
    """Let every lease run out."""
    async with catalog.begin() as connection:
        await connection.execute(text("UPDATE intents SET expires_at = '-infinity'"))
        await connection.execute(text("UPDATE effects SET since = '-infinity'"))


async def recover_all(objects: Objects) -> None:
    """Let every lease run out and recover; again, for uploads that were only found at first."""
    for _ in range(2):
        await expire(objects.ground.catalog)
        await recover(objects.ground, older_s=0)


async def state_of(objects: Objects, bucket: str, key: str) -> State:
    """The versions of a key as readers get them; its row's tags must be the store's."""
    state: State = []
    for row in await objects.versions(bucket, prefix=key):
        if row.is_delete_marker:
            state.append(None)
            continue
        state.append(await read(objects, bucket, key, version_id=row.version_id))
        assert hashlib.md5(state[-1] or b"").hexdigest() == row.etag or "-" in row.etag
        store = objects.ground.store
        assert row.attributes.get("tags", {}) == await store.tags(
            bucket, key, version_id=row.version_id
        )
    return state


async def assert_whole(objects: Objects, bucket: str) -> None:
    """Nothing is under way; catalog and store tell one history; the books hold."""
    catalog = objects.ground.catalog
    assert await counted(catalog, "intents") == 0
    assert await counted(catalog, "effects") == 0
    ours = [
        (row.key, row.version_id, row.stamp.time_ms, row.is_delete_marker, row.stored_bytes)
        for row in await objects.versions(bucket)
    ]
    theirs = [
        (shown_key(one.key), one.version_id, one.mtime_ms, one.is_delete_marker, one.size_bytes)
        async for page in objects.ground.store.versions(bucket)
        for one in page.versions
    ]
    assert ours == theirs
    await assert_books(objects, bucket)


async def new_bucket(objects: Objects, kind: str) -> str:
    name = new_bucket_name()
    await objects.create_bucket(name, tenant_id="acme", **KINDS[kind])
    return name


@pytest.mark.parametrize(("kind", "name"), list(cases()))
async def test_killed_at_every_point(
    objects: Objects, killer: Killer, kind: str, name: str
) -> None:
    bucket = await new_bucket(objects, kind)
    operation, prepare = OPERATIONS[name]

    async def attempt(key: str, at: int | None) -> tuple[Case, dict[str, Any]]:
        case = await prepare(objects, bucket, key)
        job = {"bucket": bucket, "key": key, "kind": operation, "at": at, "size": SIZE, **case.job}
        return case, await killer.run(job)

    case, answer = await attempt("whole", None)
    assert "version" in answer, answer
    points = answer["points"]
    assert len(points) >= 8
    tried: dict[str, Case] = {}
    for at in range(1, len(points) + 1):
        tried[f"k{at:03}"], answer = await attempt(f"k{at:03}", at)
        assert answer == {"killed": True}
    await recover_all(objects)
    assert await state_of(objects, bucket, "whole") == case.after  # it was acknowledged
    ends = []
    for key, tries in tried.items():
        state = await state_of(objects, bucket, key)
        changed = state == tries.after
        if tries.tags:
            rows = await objects.versions(bucket, prefix=key)
            changed = rows[0].attributes.get("tags", {}) == {"colour": "new"}
            assert changed or not rows[0].attributes.get("tags")
        assert state in (tries.before, tries.after), (key, points)
        ends.append(changed)
    # Killed before it began it is not there; killed when all was done it is; once, no going back.
    assert not ends[0]
    assert ends[-1]
    assert ends == sorted(ends), list(zip(points, ends, strict=True))
    await assert_whole(objects, bucket)
    if operation == "put-unknown":
        for key in tried:
            assert await objects.ground.store.uploads(bucket, prefix=key) == ()


@pytest.mark.parametrize(
    ("name", "where", "counts"),
    [
        ("overwrite", "before put", False),
        ("overwrite", "after put", True),
        ("overwrite-streamed", "between two pieces", False),
        ("delete", "before delete", False),
        ("delete", "after delete", True),
    ],
)
async def test_a_zombie_does_no_harm(
    objects: Objects, killer: Killer, name: str, where: str, counts: bool
) -> None:
    """A writer sleeps past its lease, another one ends its write, and then it goes on."""
    # Where a bucket compresses, a body's first pieces are looked at before the write begins.
    bucket = await new_bucket(objects, "plain" if name == "overwrite-streamed" else "both")
    operation, prepare = OPERATIONS[name]
    job = {"bucket": bucket, "key": "k", "kind": operation, "signal": "SIGSTOP", "size": SIZE}
    await prepare(objects, bucket, "dry")
    answer = await killer.run({**job, "key": "dry", "at": None})
    at = 1 + answer["points"].index(where)
    case = await prepare(objects, bucket, "k")
    assert "stopped" in await killer.run({**job, "at": at})
    await expire(objects.ground.catalog)
    found = await recover(objects.ground, older_s=0)
    assert (found.completed, found.released) == (int(counts), int(not counts))
    meanwhile = await objects.put(bucket, "k", b"meanwhile")
    answer = await killer.go_on()
    assert answer["points"]
    if counts:
        assert answer["version"] != meanwhile.version_id
    else:
        assert answer["error"] == "Unavailable"
    await recover(objects.ground, older_s=0)
    assert await read(objects, bucket, "k") == b"meanwhile"
    wanted = case.after if counts else case.before
    assert await state_of(objects, bucket, "k") == [b"meanwhile", *wanted]
    await assert_whole(objects, bucket)
