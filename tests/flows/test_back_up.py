"""A backup and a restore as people start them: by command, by form; and what they leave to read."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from entrepot.clock import new_id
from tests.running import Json, Running


@dataclass(frozen=True)
class Photos:
    """A bucket that was backed up: two versions of ``a/b.jpg`` and a delete marker."""

    bucket: str
    first: Json
    shown: list[Json]


@pytest.fixture(scope="module")
def photos(stack: Running) -> Photos:
    tenant = f"backup-{new_id().hex[:6]}"
    stack.entrepot("tenant", "add", tenant, "--name", "To be backed up")
    bucket = f"{tenant}-photos"
    s3 = stack.s3("site-a")
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"first", b"second" * 100_000):
        s3.put_object(Bucket=bucket, Key="a/b.jpg", Body=body, Metadata={"who": "me"})
    s3.delete_object(Bucket=bucket, Key="a/b.jpg")
    stack.entrepot("bucket", "adopt", bucket, "--site", "site-a", "--tenant", tenant)
    assert "no vault" in stack.entrepot("backup", "list", "local", code=1).stderr
    [made] = stack.json("vault", "create", "local")
    assert made["snapshots"] == 0
    assert "already" in stack.entrepot("vault", "create", "local", code=1).stderr

    only = ("--site", "site-a", "--bucket", bucket)
    assert stack.json("backup", "create", "--vault", "local", *only)["state"] == "COMPLETED"
    [first] = stack.json("backup", "list", "local")
    assert (first["sources"], first["entries"]) == ([f"site-a/{bucket}"], 3)
    shown = stack.json("backup", "show", "local", first["snapshot"], "--bucket", bucket)
    return Photos(bucket, first, shown)


def test_buckets_are_backed_up_listed_and_shown(stack: Running, photos: Photos) -> None:
    bucket, first, shown = photos.bucket, photos.first, photos.shown
    marks = [(each["delete_marker"], each["size_bytes"]) for each in shown]
    assert marks == [(True, 0), (False, 600_000), (False, 5)]

    run = stack.start("back_up/nightly", {"sites": ["site-a"], "buckets": [bucket]})
    stack.ended(run)
    again = stack.json("backup", "list", "local")[-1]
    assert again["parent"] == first["snapshot"]
    assert "no vault of that name" in stack.entrepot("vault", "show", "other", code=2).stderr
    failed = stack.start("back_up/nightly", {"buckets": ["no-such-bucket"]})
    assert "nothing was backed up" in stack.ended(failed, "FAILED")["state"]["message"]


def test_a_bucket_is_restored_and_that_undone(
    stack: Running, photos: Photos, tmp_path: Path
) -> None:
    bucket, at, file = photos.bucket, photos.shown[1]["time"], tmp_path / "b.jpg"
    s3 = stack.s3("site-a")
    for key, body in (("a/b.jpg", b"third"), ("new.jpg", b"new")):
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    later = {"a/b.jpg": b"third", "new.jpg": b"new"}
    of_bucket = ("local", bucket, "--site", "site-a")
    late = stack.entrepot("restore", "plan", *of_bucket, "--at", "2099-01-01T00:00:00Z", code=2)
    assert "later than what was backed up" in late.stderr
    whole = stack.json("restore", "plan", *of_bucket)
    assert [whole[name] for name in ("add", "revert", "hide", "bytes")] == [0, 0, 2, 0]
    plan = stack.json("restore", "plan", *of_bucket, "--at", at)
    assert [plan[name] for name in ("add", "revert", "hide", "bytes")] == [0, 1, 1, 600_000]
    keys = stack.json("restore", "status", plan["plan_id"])
    assert {each["key"]: each["do"] for each in keys} == {"a/b.jpg": "revert", "new.jpg": "hide"}
    assert read(stack, bucket) == later

    assert stack.json("restore", "apply", plan["plan_id"])["state"] == "COMPLETED"
    assert read(stack, bucket) == {"a/b.jpg": b"second" * 100_000}
    assert s3.head_object(Bucket=bucket, Key="a/b.jpg")["Metadata"] == {"who": "me"}
    undone = stack.json("restore", "undo", plan["plan_id"], "--here")
    assert (undone["done"], undone["moved"], undone["failed"]) == (2, 0, 0)
    assert read(stack, bucket) == later
    rows = {each["plan_id"]: each for each in stack.json("restore", "status")}
    assert rows[plan["plan_id"]]["done"] == 2 and rows[whole["plan_id"]]["applied_at"] is None

    form = {"vault": "local", "site": "site-a", "bucket": bucket}
    stack.ended(stack.start("restore/on-demand", form))
    assert read(stack, bucket) == later

    kept = ("local", plan["snapshot"], bucket, "a/b.jpg", "--to", str(file))
    assert "deleted then" in stack.entrepot("restore", "file", *kept, code=1).stderr
    version = next(each["version_id"] for each in keys if each["do"] == "revert")
    stack.entrepot("restore", "file", *kept, "--version-id", version)
    assert file.read_bytes() == b"second" * 100_000


def read(stack: Running, bucket: str) -> dict[str, bytes]:
    s3 = stack.s3("site-a")
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
