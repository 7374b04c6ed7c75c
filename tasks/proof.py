"""The steps of a proof, a task each.

The key ring is opened from the worker's own settings: no key passes through Prefect.
"""

import asyncio

from prefect import task

from blocks.rule import find_rule
from entrepot.catalog.rules import Rule
from entrepot.clock import SYSTEM_CLOCK
from entrepot.codec.keys.open import open_ring
from entrepot.config import load
from entrepot.replication.proof.certificate import signer
from entrepot.replication.proof.evidence import certify
from entrepot.replication.proof.statement import (
    BucketVerdict,
    Verdict,
    Wanted,
    begin,
    compare_bucket,
)
from tasks.library import catalog, run, sites
from tasks.replication import RETRY, SHORT_S


@task(task_run_name="rule {name}", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def open_rule(name: str) -> Rule:
    """The named rule."""

    async def find() -> Rule:
        return await find_rule(name, catalog=await catalog())

    return run(find())


@task(task_run_name="compare {bucket}", tags=["entrepot"], **RETRY)
def compare(rule: Rule, bucket: str, wanted: Wanted) -> BucketVerdict:
    """One bucket at all sites of the rule."""

    async def read() -> BucketVerdict:
        return await compare_bucket(await sites(rule.sites, workers=wanted.workers), bucket, wanted)

    return run(read())


@task(
    task_run_name="sign for {verdict.wanted.rule}",
    tags=["entrepot"],
    timeout_seconds=SHORT_S,
    **RETRY,
)
def sign_verdict(verdict: Verdict) -> bytes:
    """The certificate, kept in the control catalog."""

    async def sign() -> bytes:
        ring = await asyncio.to_thread(open_ring, await asyncio.to_thread(load))
        try:
            return await certify(await catalog(), verdict, await signer(ring))
        finally:
            await ring.close()

    return run(sign())


def begin_verdict(rule: Rule, wanted: Wanted) -> Verdict:
    """What is about to be compared (no task: nothing is asked)."""

    async def describe() -> Verdict:
        config = await asyncio.to_thread(load)
        endpoints = {site.name: site.endpoint for site in config.sites()}
        among = await sites(rule.sites, workers=wanted.workers)
        return begin(among, wanted, endpoints=endpoints, now=SYSTEM_CLOCK.now())

    return run(describe())
