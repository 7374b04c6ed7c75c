"""The check from outside: nothing here uses the product's own store, listing or counting.

Objects are read with the ``minio`` SDK and hashed; usage is recounted by ``mc du``.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from entrepot.cli.demo.change import Expected, Truth
from entrepot.embedded.stack import SiteEndpoint
from entrepot.errors import IntegrityError

READERS = 8
FAULTS_MAX = 20
MC_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Seen:
    """What the check read at all sites, and every fault in words (the first 20)."""

    objects: int
    bytes: int
    faults: tuple[str, ...]


def compare(sites: Sequence[SiteEndpoint], truth: Truth) -> Seen:
    """Read every object at every site and hold it against what was put there."""
    faults: list[str] = []
    objects = size = 0
    for bucket, expected in truth.buckets.items():
        states = []
        for site in sites:
            client = _client(site)
            states.append(_state(client, bucket))
            keys = sorted(set(expected) | set(states[-1]))
            for key, (length, fault) in zip(
                keys, _check_all(client, bucket, keys, expected), strict=True
            ):
                objects, size = objects + 1, size + length
                if fault:
                    faults.append(f"{site.name}/{bucket}/{key}: {fault}")
        faults += [
            f"{bucket}/{key}: current versions differ between sites"
            for key in sorted(set().union(*states))
            if len({state.get(key) for state in states}) > 1
        ]
    return Seen(objects=objects, bytes=size, faults=tuple(islice(faults, FAULTS_MAX)))


def _check_all(
    client: Any, bucket: str, keys: Sequence[str], expected: Mapping[str, Expected]
) -> list[tuple[int, str]]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda key: _check(client, bucket, key, expected), keys))


def _client(site: SiteEndpoint) -> Any:
    return Minio(
        urlsplit(site.endpoint).netloc,
        access_key=site.access_key,
        secret_key=site.secret_key.get_secret_value(),
        secure=False,
    )


def _state(client: Any, bucket: str) -> dict[str, tuple[str, str, int]]:
    """Each key's current version: id, ETag and size."""
    return {
        entry.object_name: (entry.version_id, entry.etag, entry.size)
        for entry in client.list_objects(bucket, recursive=True, include_version=True)
        if entry.is_latest == "true" and not entry.is_delete_marker
    }


def _check(client: Any, bucket: str, key: str, expected: Mapping[str, Expected]) -> tuple[int, str]:
    wanted = expected.get(key)
    if wanted is None:
        return 0, "is there, but was deleted"
    digest, length = hashlib.sha256(), 0
    try:
        reply = client.get_object(bucket, key)
    except (MinioException, HTTPError) as error:
        return 0, f"cannot be read: {error}"
    try:
        for piece in reply.stream(1024 * 1024):
            digest.update(piece)
            length += len(piece)
        headers = {name.lower(): text for name, text in reply.headers.items()}
    finally:
        reply.close()
        reply.release_conn()
    if digest.hexdigest() != wanted.sha256:
        return length, "other bytes than were put there"
    found = {"content-type": headers.get("content-type")}
    found |= {name: headers.get(f"x-amz-meta-{name}") for name, _ in wanted.metadata}
    if found != {"content-type": wanted.content_type, **dict(wanted.metadata)}:
        return length, f"other metadata: {found}"
    return length, ""


def recount(
    mc: Path, sites: Sequence[SiteEndpoint], buckets: Sequence[str]
) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(site, bucket, bytes and objects, current and of all versions) as ``mc du`` counts them."""
    for site in sites:
        # mc reads aliases from the environment, so that no secret is on a command line or disk.
        host = site.endpoint.replace(
            "://", f"://{site.access_key}:{site.secret_key.get_secret_value()}@"
        )
        for bucket in buckets:
            current = _du(mc, host, bucket)
            everything = _du(mc, host, bucket, "--versions")
            yield (
                site.name,
                bucket,
                {
                    "current_bytes": current["size"],
                    "objects": current["objects"],
                    "total_bytes": everything["size"],
                },
            )


def _du(mc: Path, host: str, bucket: str, *options: str) -> dict[str, int]:
    done = subprocess.run(
        [str(mc), "--json", "du", *options, f"demo/{bucket}"],
        env={"MC_HOST_demo": host, "HOME": "/nonexistent", "MC_CONFIG_DIR": "/tmp/.mc-demo"},  # noqa: S108
        capture_output=True,
        text=True,
        timeout=MC_TIMEOUT_S,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines or lines[-1].get("status") != "success":
        raise IntegrityError(
            "mc could not count the bucket", bucket=bucket, said=done.stderr[-300:]
        )
    return {"size": int(lines[-1]["size"]), "objects": int(lines[-1]["objects"])}
