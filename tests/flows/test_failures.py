"""What cannot be done is said, with what to do about it, and the next run mends it."""

import asyncio

from minio import MinioAdmin
from minio.credentials import StaticProvider

from entrepot.clock import new_token
from entrepot.testing.proxy import BreakableProxy
from tests.running import MANY, Running


def limited_user(stack: Running, bucket: str) -> dict[str, str]:
    """A user of site B who may do all but write under ``denied/`` of ``bucket``."""
    site = stack.info.sites[1]
    admin = MinioAdmin(
        endpoint=site.endpoint.removeprefix("http://"),
        credentials=StaticProvider(site.access_key, site.secret_key.get_secret_value()),
        secure=False,
    )
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    denied = {
        "Effect": "Deny",
        "Action": ["s3:PutObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/denied/*"],
    }
    user, secret = f"user-{bucket}", new_token(24)
    admin.user_add(user, secret)
    policy = {"Version": "2012-10-17", "Statement": [everything, denied]}
    admin.policy_add(f"policy-{bucket}", policy=policy)
    admin.policy_set(f"policy-{bucket}", user=user)
    return {"access_key": user, "secret_key": secret}


def test_an_object_that_fails_is_found_and_the_others_go_on(stack: Running) -> None:
    bucket = stack.bucket("denied", sites=("site-a", "limited"))
    stack.fill("site-a", bucket, ["denied/1", "denied/2", "fine/1", "fine/2", "fine/3"])
    user = limited_user(stack, bucket)
    with stack.site_block("limited", endpoint=stack.info.sites[1].endpoint, rank=7, **user):
        run = stack.replicate(bucket, "FAILED")
    assert "2 objects could not be replicated" in run["state"]["message"]
    assert "\nhint: see the run's findings table" in run["state"]["message"]
    found = stack.table(run["id"], "replicate-findings")
    assert sorted((row["bucket"], row["key"], row["what"]) for row in found) == [
        (bucket, "denied/1", "failed"),
        (bucket, "denied/2", "failed"),
    ]
    assert all("AccessDenied" in row["why"] for row in found)
    [row] = stack.table(run["id"], "replicate-report")
    assert (row["copied"], row["failed"]) == (3, 2)
    assert stack.job(bucket)["state"] == "failed"
    assert sorted(stack.view("site-b", bucket)) == ["fine/1", "fine/2", "fine/3"]


async def test_a_site_that_is_down_is_named_and_the_next_run_mends_all(stack: Running) -> None:
    site = stack.info.sites[1]
    bucket = stack.bucket("down", sites=("site-a", "away"))
    await asyncio.to_thread(stack.fill, "site-a", bucket, MANY)
    host, port = site.endpoint.removeprefix("http://").split(":")
    async with BreakableProxy(host, int(port)) as proxy:
        with stack.site_block("away", endpoint=proxy.endpoint, rank=7):
            run_id = await asyncio.to_thread(stack.in_the_middle, bucket)
            await proxy.refuse()
            run = await asyncio.to_thread(stack.ended, run_id, "FAILED")
            message = run["state"]["message"]
            assert "Unavailable: the endpoint did not answer" in message
            assert f"\nhint: is the server at {proxy.endpoint} up and reachable?" in message
            await proxy.heal()
            run = await asyncio.to_thread(stack.replicate, bucket)
    [row] = stack.table(run["id"], "replicate-report")
    assert row["resumed"]
    a, b = (stack.history(name, bucket) for name in stack.sites)
    assert a == b
    assert len(a) == len(MANY)


def test_a_bucket_that_cannot_be_swept_does_not_hold_up_the_others(stack: Running) -> None:
    bucket = stack.bucket("others")
    stack.s3("site-a").put_object(Bucket=bucket, Key="key", Body=b"body")
    buckets = [f"{bucket}-missing", bucket]
    stack.sql("UPDATE rules SET buckets = %s WHERE name = %s RETURNING 1", buckets, bucket)
    run = stack.replicate(bucket, "FAILED")
    assert "BucketNotFound: a bucket of the rule is missing at a site" in run["state"]["message"]
    assert "\nhint: create it there, versioned: mc mb" in run["state"]["message"]
    [row] = stack.table(run["id"], "replicate-findings")
    assert (row["bucket"], row["what"]) == (buckets[0], "not swept")
    assert [row["copied"] for row in stack.table(run["id"], "replicate-report")] == [1]
    assert stack.view("site-a", bucket) == stack.view("site-b", bucket) != {}
