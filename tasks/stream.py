"""The steps of a stream's run: what there is to do, and one task a rule that works until it ends.

What a stream did is read from the control catalog, where each window of it is kept.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from prefect import get_run_logger, runtime, task

from entrepot.catalog import jobs
from entrepot.catalog.buckets import list_buckets
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import Rule, list_rules
from entrepot.catalog.sites import list_sites
from entrepot.catalog.states import BucketMode
from entrepot.catalog.streams import Window, windows
from entrepot.clock import SYSTEM_CLOCK
from entrepot.config import load
from entrepot.errors import Fenced, NotFound, PermanentError, RetryableError
from entrepot.objects.adopted import follow
from entrepot.objects.ground import Ground
from entrepot.objects.shipping import Shipping, Travels
from entrepot.replication.hours import Wait, may_run
from entrepot.replication.promises import streams
from entrepot.replication.stream.channel import Counts, Options
from entrepot.replication.stream.conflicts import ConflictBook
from entrepot.replication.stream.engine import KIND, Ended, Route, Stream, forget_others
from entrepot.replication.stream.pace import Pace
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryPolicy
from entrepot.terms import Travel
from tasks.library import catalog, objects, run, standing
from tasks.replication import RETRY, SHORT_S


def routes_of(rule: str) -> tuple[Route, ...]:
    """The named rule's route, or those of every enabled rule where the name is empty.

    No task: it is asked every few seconds.
    """
    return run(_routes(rule)) if load().replication.enabled else ()


class Hands(StrEnum):
    """Whose hands a rule's stream is in."""

    NOBODY = "nobody"
    ALONE = "a run of this rule alone"
    EVERY = "a run of every rule"


def hands_of(rule: str) -> Hands:
    """Who works on the rule's stream (no task: it is asked every few seconds)."""

    async def ask() -> str | None:
        return await jobs.holder_of(await catalog(), kind=KIND, subject=rule)

    holder = run(ask())
    if holder is None:
        return Hands.NOBODY
    return Hands.ALONE if holder.endswith(Hands.ALONE) else Hands.EVERY


async def _routes(rule: str) -> tuple[Route, ...]:
    now = SYSTEM_CLOCK.now()
    sites = await list_sites(await catalog())
    minting = [site.name for site in sites if not site.can(Capability.ORIGIN)]
    known = [each for each in await _streamed() if rule in ("", each.name)]
    known.sort(key=lambda each: isinstance(may_run(each, now), Wait))  # who rests comes last
    return tuple(Route.of(each, minting=minting) for each in known)


async def _streamed() -> tuple[Rule, ...]:
    """The enabled rules that a stream keeps, also those that rest just now."""
    known = await list_rules(await catalog())
    return tuple(each for each in known if each.enabled and streams(each))


@task(task_run_name="forget", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def forget_rules() -> None:
    """Have every site forget what waits for rules that are no more."""

    async def forget() -> None:
        control = await catalog()
        routes = [Route.of(each) for each in await _streamed()]
        for site in await list_sites(control):
            with suppress(RetryableError):  # a site that is away learns it the next time
                await forget_others(await catalog(site.name), routes)

    run(forget())


@task(task_run_name="stream {route.rule}", tags=["entrepot"], **RETRY)
def stream_rule(route: Route, *, for_s: float, hands: Hands) -> tuple[Counts, Ended]:
    """Work on a rule until another run waits for it, it is changed, or the time is over."""
    warn, who = get_run_logger().warning, _holder(hands)

    async def work() -> tuple[Counts, Ended]:
        following = asyncio.create_task(_follow(route, warn))  # a site may be away
        try:
            return await (await _stream(route)).run(for_s=for_s, **who)
        except Fenced:  # another run works on it
            return Counts(), Ended.HEIR
        except NotFound:  # the rule was removed just now
            return Counts(), Ended.CHANGED
        finally:
            following.cancel()

    return run(work())


def _holder(hands: Hands) -> dict[str, str]:
    """How the job's row names this run."""
    found = runtime.flow_run
    return {"holder": f"flow run {found.name}, {hands}", "flow_run_id": str(found.id)}


async def _follow(route: Route, warn: Callable[[str], None]) -> None:
    """Have the stores tell of the rule's adopted buckets, where the gateway hears of them."""
    settings = await asyncio.to_thread(load)
    for site in settings.sites():
        if site.name in route.sources and site.notify_token is not None:
            with suppress(RetryableError):  # the next run tries again
                for why in await _follow_at((await objects(site.name)).ground, route.buckets):
                    warn(f"{site.name}: {why}")


async def _follow_at(ground: Ground, buckets: Iterable[str]) -> list[str]:
    """Why the store does not tell of some."""
    found = []
    known = {each.name: each.mode for each in await list_buckets(ground.catalog)}
    for name in buckets:
        if known.get(name) is BucketMode.ADOPTED:
            try:
                await follow(ground.store, name)
            except PermanentError as error:
                found.append(f"{error}; {error.hint}" if error.hint else str(error))
    return found


async def _stream(route: Route) -> Stream:
    control = await catalog()
    pace = Pace(await standing(route.rule))

    def carrier(source: str, target: str, job_id: UUID) -> Shipping:
        book = ConflictBook(control, rule=route.rule, job_id=job_id)
        return Shipping(
            objects,
            source=source,
            target=target,
            rule=route.rule,
            travels=_travels(route),
            met=None if route.is_one_way else book.met,
            purse=pace,
        )

    async def site_catalog(name: str) -> Catalog:
        return (await objects(name)).ground.catalog

    async def route_now() -> Route | None:
        return next(iter(await _routes(route.rule)), None)

    return Stream(
        route,
        control,
        site_catalog,
        carrier,
        options=_options(),
        route_now=route_now,
        resting=pace.is_resting,
    )


def _travels(route: Route) -> Travels:
    return Travels(
        delete_markers=Travel.DELETE_MARKERS in route.travels,
        removals=Travel.VERSION_DELETES in route.travels,
        tags=Travel.TAGS in route.travels,
        locks=Travel.LOCKS in route.travels,
        tag_filter=route.tag_filter,
    )


def windows_of(rule: str, *, within: timedelta) -> tuple[Window, ...]:
    """What a rule's stream did lately (no task: it is asked every few seconds)."""

    async def read() -> tuple[Window, ...]:
        return await windows(await catalog(), rule, within=within)

    return run(read())


def _options() -> Options:
    """The guide's settings, from the worker's own."""
    told = load().replication
    policy = told.retry_policy
    return Options(
        batch_size=told.batch_size,
        batch_timeout_s=told.batch_timeout / 1000,
        workers=told.worker_threads,
        retry=RetryPolicy(
            max_retries=policy.max_retries,
            initial_backoff_ms=policy.initial_backoff,
            max_backoff_ms=policy.max_backoff,
        ),
    )


def aim_ms() -> int:
    """The lag that a stream aims at."""
    return load().replication.max_replication_delay
