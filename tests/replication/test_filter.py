"""Rules with a tag filter: what fits travels, what does not stays, over real servers."""

from collections.abc import Callable

import pytest

from entrepot.catalog.plans import get_plan
from entrepot.errors import NotFound
from entrepot.replication.policy import Policy
from entrepot.replication.proof.statement import Wanted, compare_bucket
from entrepot.replication.run import Force
from entrepot.replication.where import as_json, where
from entrepot.terms import Mode, Travel, fits
from tests.replication.ruled import Ruled
from tests.replication.test_agree import NOW, Plain, retag, settled, tags
from tests.replication.test_guards import approve
from tests.replication.worlds import MINTS, World

Make = Callable[..., Ruled]

FILTER = {"class": "hot", "team": "a"}
HOT, COLD = "class=hot&team=a&n=1", "class=hot&team=b"
TRAVELS = frozenset({Travel.METADATA, Travel.TAGS, Travel.LOCKS})
HOT_ONLY = Policy(tag_filter=FILTER, travels=TRAVELS)


def bodies(world: World, site: int) -> set[tuple[str, int]]:
    """Key and size of every version."""
    return {(each.key, each.size_bytes) for each in world.history(site) if not each.is_marker}


async def identical(world: World) -> bool:
    found = await compare_bucket(
        world.sites, world.bucket, Wanted("r", (world.bucket,), tag_filter=FILTER, settle_s=0)
    )
    return found.is_identical


def test_every_pair_counts() -> None:
    assert fits({}, {}) and fits({"a": "1"}, {})
    assert fits({"a": "1", "b": ""}, {"a": "1", "b": ""})
    assert not fits({"a": "1"}, {"a": "1", "b": ""})
    assert not fits({"a": "2"}, {"a": "1"})


async def test_what_fits_travels_and_the_rest_stays(ruled: Make) -> None:
    work = ruled(HOT_ONLY)
    world = work.world
    world.put(0, "fits", b"1", Tagging=HOT)
    world.put(0, "not", b"1", Tagging=COLD)
    world.put(0, "bare", b"1")
    world.put(0, "below", b"1", Tagging=HOT)
    world.put(0, "below", b"22")  # hides it at home, and stays there
    world.put(1, "back", b"1", Tagging=HOT)
    world.put(0, "deleted", b"1", Tagging=HOT)
    world.delete(0, "deleted")
    assert not await identical(world)
    _, outcome = await work.run()
    assert (outcome.totals["copied"], outcome.totals["marked"]) == (4, 0)
    assert outcome.totals["failed"] == 0, outcome.findings
    both = {("fits", 1), ("below", 1), ("back", 1), ("deleted", 1)}
    assert bodies(world, 1) == both
    assert bodies(world, 0) == both | {("not", 1), ("bare", 1), ("below", 2)}
    assert world.body(0, "below") == b"22" and world.body(1, "below") == b"1"
    assert tags(world, "fits") == [{"class": "hot", "team": "a", "n": "1"}] * 2
    assert await settled(work)
    assert await identical(world)


async def test_tags_that_change_in_and_out_of_the_filter(ruled: Make) -> None:
    work = ruled(HOT_ONLY)
    world = work.world
    world.put(0, "k", b"1")
    await work.run()
    assert bodies(world, 1) == set()
    retag(world, 0, "k", FILTER)
    await work.run()
    assert tags(world, "k") == [FILTER] * 2
    # The change by which it stops to fit goes along, and the copy stays; later ones do not.
    retag(world, 0, "k", {"class": "cold"})
    assert not await identical(world)
    await work.run(force=NOW)
    assert tags(world, "k") == [{"class": "cold"}] * 2
    retag(world, 1, "k", {"class": "own"})
    await work.run(force=NOW)
    assert tags(world, "k") == [{"class": "cold"}, {"class": "own"}]
    assert await identical(world)
    # It fits again, at one site: what both changed meanwhile is merged as ever.
    retag(world, 0, "k", {"class": "hot", "team": "a"})
    _, outcome = await work.run(force=NOW)
    assert tags(world, "k") == [FILTER] * 2
    assert outcome.totals["conflicts"] == 1
    assert await settled(work)


async def test_of_a_one_way_rule_the_sources_tags_decide(ruled: Make) -> None:
    policy = Policy(
        tag_filter=FILTER,
        travels=TRAVELS,
        mode=Mode.ONE_WAY,
        source_site="site-0",
    )
    work = ruled(policy)
    world = work.world
    world.put(0, "k", b"1", Tagging=HOT)
    world.put(1, "own", b"1", Tagging=COLD)
    world.put(1, "drift", b"1", Tagging=HOT)
    _, outcome = await work.run()
    assert outcome.totals["drifted"] == 1
    assert bodies(world, 0) == {("k", 1)}
    assert bodies(world, 1) == {("k", 1), ("own", 1), ("drift", 1)}


async def test_conflicts_are_between_what_fits(ruled: Make) -> None:
    work = ruled(HOT_ONLY)
    world = work.world
    world.put(0, "k", b"0", Tagging=HOT)
    world.put(1, "k", b"11", Tagging=COLD)  # newer, and no rival
    await work.run()
    assert await work.ledger() == []
    assert world.body(0, "k") == b"0" and world.body(1, "k") == b"11"
    world.put(0, "k", b"by 0", Tagging=HOT)
    world.put(1, "k", b"by  1", Tagging=HOT)
    await work.run()
    [row] = await work.ledger()
    assert [each["site"] for each in row.contenders] == ["site-0", "site-1"]
    assert world.body(0, "k") == world.body(1, "k") == b"by  1"


async def test_an_endpoint_without_such_a_listing_that_mints_ids(ruled: Make) -> None:
    work = ruled(HOT_ONLY, capabilities={1: MINTS})
    world = work.world
    world.put(0, "fits", b"1", Tagging=HOT)
    world.put(0, "not", b"1")
    world.put(0, "own", b"1", Tagging=HOT)
    world.put(1, "own", b"22")  # its own, later, and not of the rule
    await work.run()
    assert bodies(world, 1) == {("fits", 1), ("own", 2)}
    _, outcome = await work.run()
    assert outcome.totals["copied"] == outcome.totals["failed"] == 0, outcome.findings


async def test_tags_are_asked_for_where_no_listing_tells_them(ruled: Make) -> None:
    work = ruled(HOT_ONLY, wraps={0: Plain, 1: Plain})
    world = work.world
    world.put(0, "fits", b"1", Tagging=HOT)
    world.put(1, "not", b"1", Tagging=COLD)
    await work.run()
    assert bodies(world, 1) == {("fits", 1), ("not", 1)} and bodies(world, 0) == {("fits", 1)}
    assert await identical(world)


async def test_a_saved_plan_copies_nothing_that_fits_no_more(ruled: Make) -> None:
    work = ruled(HOT_ONLY)
    world = work.world
    world.put(0, "k", b"1", Tagging=HOT)
    world.put(0, "stays", b"1", Tagging=HOT)
    job, _ = await work.run(dry_run=True, force=Force(save=True))
    retag(world, 0, "k", {})
    plan = await get_plan(work.catalog, plan_id=job.claim.job_id)
    totals, _ = await approve(work, plan)
    assert (totals.copied, totals.moved) == (1, 1)
    assert bodies(world, 1) == {("stays", 1)}


async def test_where_a_key_of_the_rule_is(ruled: Make) -> None:
    work = ruled(HOT_ONLY)
    world = work.world
    world.put(0, "k", b"1", Tagging=HOT)
    world.put(0, "k", b"22")
    await work.run()
    with pytest.raises(NotFound):
        await world.stores[1].head(world.bucket, "k", version_id=world.currents(0)["k"].version_id)
    wanted = Wanted("r", (world.bucket,), tag_filter=FILTER)
    found = await where(world.sites, world.bucket, "k", catalogs={}, wanted=wanted)
    assert found.agree
    told = as_json(found, bucket=world.bucket, key="k")["sites"]
    assert [[each["fits"] for each in site["versions"]] for site in told] == [[False, True], [True]]
    assert not (await where(world.sites, world.bucket, "k", catalogs={})).agree
