"""A backup as people start it: by command, by form; and what it leaves for them to read."""

from entrepot.clock import new_id
from tests.running import Running


def test_buckets_are_backed_up_listed_and_shown(stack: Running) -> None:
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
    marks = [(each["delete_marker"], each["size_bytes"]) for each in shown]
    assert marks == [(True, 0), (False, 600_000), (False, 5)]

    run = stack.start("back_up/nightly", {"sites": ["site-a"], "buckets": [bucket]})
    stack.ended(run)
    again = stack.json("backup", "list", "local")[-1]
    assert again["parent"] == first["snapshot"]
    assert "no vault of that name" in stack.entrepot("vault", "show", "other", code=2).stderr
    failed = stack.start("back_up/nightly", {"buckets": ["no-such-bucket"]})
    assert "nothing was backed up" in stack.ended(failed, "FAILED")["state"]["message"]
