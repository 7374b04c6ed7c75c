"""Sites, rules, tenants, buckets."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from entrepot.catalog.buckets import adopt_bucket, list_buckets, owner_of
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rule import RuleSpec, rule_spec
from entrepot.catalog.rules import (
    Rule,
    change_rule,
    delete_rule,
    get_rule,
    list_rules,
    pause,
    put_rule,
    resume,
    save_rule,
    set_enabled,
)
from entrepot.catalog.sites import Site, get_site, list_sites, set_capabilities, upsert_site
from entrepot.catalog.states import BucketMode
from entrepot.catalog.tenants import Tenant, get_tenant, list_tenants, save_tenant
from entrepot.catalog.version_map import VersionMap
from entrepot.errors import AlreadyExists, BucketNotFound, InvalidInput, NotFound

PROBED = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def two_sites(catalog: Catalog) -> tuple[Site, Site]:
    b = await upsert_site(catalog, name="b", endpoint="http://b:9000", region="eu-2", rank=2)
    a = await upsert_site(catalog, name="a", endpoint="http://a:9000", region="eu-1", rank=1)
    return a, b


async def test_sites_are_listed_by_rank(control: Catalog) -> None:
    a, b = await two_sites(control)
    assert await list_sites(control) == (a, b)
    assert await get_site(control, name="a") == a
    assert a == Site("a", "http://a:9000", "eu-1", 1, {}, None)
    with pytest.raises(NotFound):
        await get_site(control, name="c")
    with pytest.raises(AlreadyExists):
        await upsert_site(control, name="c", endpoint="http://c", region="", rank=2)
    with pytest.raises(InvalidInput):
        await upsert_site(control, name="c", endpoint="http://c", region="", rank=-1)


async def test_capabilities_belong_to_the_endpoint(control: Catalog) -> None:
    a, _ = await two_sites(control)
    found = {"versioning": True, "reasons": {"tags": "denied"}}
    await set_capabilities(control, name="a", capabilities=found, probed_at=PROBED)
    probed = replace(a, capabilities=found, probed_at=PROBED)
    assert await get_site(control, name="a") == probed
    same = await upsert_site(control, name="a", endpoint=a.endpoint, region="moved", rank=1)
    assert same == replace(probed, region="moved")
    other = await upsert_site(control, name="a", endpoint="http://new", region="moved", rank=1)
    assert (other.capabilities, other.probed_at) == ({}, None)
    with pytest.raises(NotFound):
        await set_capabilities(control, name="c", capabilities={}, probed_at=PROBED)
    with pytest.raises(InvalidInput):
        await set_capabilities(control, name="a", capabilities={"x": "x" * 65536}, probed_at=PROBED)


async def test_rules(control: Catalog) -> None:
    await two_sites(control)
    rule = await save_rule(control, name="r", buckets=["xxx", "yyy"], sites=["b", "a"])
    assert (rule.buckets, rule.sites) == (("xxx", "yyy"), ("b", "a"))
    assert (rule.prefix, rule.enabled, rule.paused) == ("", True, False)
    assert await get_rule(control, name="r") == rule
    changed = await save_rule(
        control, name="r", buckets=["xxx"], sites=["a", "b"], prefix="logs/", enabled=False
    )
    assert changed.created_at == rule.created_at < changed.updated_at
    assert (changed.prefix, changed.enabled) == ("logs/", False)
    assert await list_rules(control) == (changed,)
    await delete_rule(control, name="r")
    for missing in (delete_rule(control, name="r"), get_rule(control, name="r")):
        with pytest.raises(NotFound):
            await missing


EVERYTHING = {
    "prefix": "in/",
    "tag_filter": {"class": "hot"},
    "mode": "one-way",
    "source": "a",
    "drift": "overwrite",
    "travels": ("metadata", "tags"),
    "conflict": {"": "site-priority", "x/": "hook:mine"},
    "peer_reads": True,
    "rpo_s": 60,
    "max_delete_share": 0.25,
    "max_delete_count": 7,
    "tombstone_horizon_s": 7200,
    "bytes_per_s": "10MB",
    "requests_per_s": 50,
    "timetable": ("mon-fri 08:00-18:00 1MB/s",),
    "maintenance": ("sun 02:00-04:00",),
    "time_zone": "Europe/Berlin",
}


async def test_all_that_a_rule_says_comes_back(control: Catalog) -> None:
    await two_sites(control)
    assert set(EVERYTHING) | {"buckets", "sites"} == set(RuleSpec.model_fields)
    rule = await save_rule(control, name="r", buckets=["xxx"], sites=["a", "b"], **EVERYTHING)
    assert await get_rule(control, name="r") == rule
    said = rule.spec.model_dump(mode="json", include=set(EVERYTHING))
    assert {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()} == EVERYTHING


async def test_a_row_of_the_first_version_is_a_rule(control: Catalog) -> None:
    await two_sites(control)
    async with control.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO rules (name, buckets, prefix, sites, enabled)"
            " VALUES ('old', '{xxx}', '', '{a,b}', true)"
        )
    assert (await get_rule(control, name="old")).spec == rule_spec(
        {"buckets": ["xxx"], "sites": ["a", "b"]}
    )


async def test_a_rule_is_added_once_where_that_is_asked(control: Catalog) -> None:
    await two_sites(control)
    spec = rule_spec({"buckets": ["xxx"], "sites": ["a", "b"]})
    await put_rule(control, name="r", spec=spec, new=True)
    with pytest.raises(AlreadyExists):
        await put_rule(control, name="r", spec=spec, new=True)
    with pytest.raises(InvalidInput):
        await put_rule(control, name="A/B", spec=spec)


async def test_switching_a_rule_leaves_what_it_says(control: Catalog) -> None:
    await two_sites(control)
    rule = await save_rule(control, name="r", buckets=["xxx"], sites=["a", "b"], prefix="in/")
    off = await set_enabled(control, name="r", enabled=False)
    assert (off.enabled, off.spec) == (False, rule.spec)
    paused = await pause(control, name="r", until=PROBED)
    assert (paused.paused, paused.paused_until, paused.enabled) == (True, PROBED, False)
    assert (await pause(control, name="r")).paused_until is None
    resumed = await resume(control, name="r")
    assert (resumed.paused, resumed.paused_until) == (False, None)
    assert await resume(control, name="r") == replaced(resumed, await get_rule(control, name="r"))
    for call in (
        set_enabled(control, name="x", enabled=True),
        pause(control, name="x"),
        resume(control, name="x"),
    ):
        with pytest.raises(NotFound):
            await call


def replaced(rule: Rule, other: Rule) -> Rule:
    """``rule`` as changed at another time."""
    return rule.model_copy(update={"updated_at": other.updated_at})


async def test_the_version_map_of_buckets_without_a_rule_is_forgotten(control: Catalog) -> None:
    await two_sites(control)
    await save_rule(control, name="r", buckets=["xxx", "yyy"], sites=["a", "b"])
    version_map = VersionMap(control, "a")
    for bucket in ("xxx", "yyy"):
        longer = {("k", "v" * 257): "", ("k", "3"): "m" * 513}  # than a row holds
        await version_map.keep(bucket, {("k", "1"): "", **longer})
        assert await version_map.between(bucket, "", "") == {("k", "1"): ""}

    def one_less(rule: Rule) -> RuleSpec:
        return rule.spec.model_copy(update={"buckets": ("xxx",)})

    await change_rule(control, name="r", change=one_less)
    assert [len(await version_map.between(name, "", "")) for name in ("xxx", "yyy")] == [1, 0]
    await delete_rule(control, name="r")
    assert await version_map.between("xxx", "", "") == {}


async def test_two_changes_at_once_both_count(control: Catalog) -> None:
    await two_sites(control)
    await save_rule(control, name="r", buckets=["xxx"], sites=["a", "b"])

    def more(bucket: str) -> Callable[[Rule], RuleSpec]:
        return lambda rule: rule.spec.model_copy(update={"buckets": (*rule.buckets, bucket)})

    names = [f"bucket-{number}" for number in range(6)]
    await asyncio.gather(*(change_rule(control, name="r", change=more(bucket)) for bucket in names))
    assert set((await get_rule(control, name="r")).buckets) == {"xxx", *names}
    with pytest.raises(NotFound):
        await change_rule(control, name="none", change=lambda rule: rule.spec)


@pytest.mark.parametrize(
    ("buckets", "sites", "prefix", "error"),
    [
        (["xxx"], ["a", "c"], "", NotFound),
        (["xxx"], ["a"], "", InvalidInput),
        (["xxx"], ["a", "a"], "", InvalidInput),
        ([], ["a", "b"], "", InvalidInput),
        (["xxx", "xxx"], ["a", "b"], "", InvalidInput),
        (["x" * 64], ["a", "b"], "", InvalidInput),
        ([f"xxx{n}" for n in range(1001)], ["a", "b"], "", InvalidInput),
        (["xxx"], ["a", "b"], "é" * 513, InvalidInput),
    ],
)
async def test_rules_that_have_no_meaning(
    control: Catalog, buckets: list[str], sites: list[str], prefix: str, error: type[Exception]
) -> None:
    await two_sites(control)
    with pytest.raises(error):
        await save_rule(control, name="r", buckets=buckets, sites=sites, prefix=prefix)
    assert await list_rules(control) == ()


async def test_tenants(control: Catalog) -> None:
    await save_tenant(control, id="t2", name="Two")
    await save_tenant(control, id="t1", name="One")
    assert await save_tenant(control, id="t1", name="Uno") == Tenant("t1", "Uno")
    assert await list_tenants(control) == (Tenant("t1", "Uno"), Tenant("t2", "Two"))
    assert await get_tenant(control, id="t2") == Tenant("t2", "Two")
    with pytest.raises(NotFound):
        await get_tenant(control, id="t3")


async def test_a_bucket_has_one_owner(site: Catalog) -> None:
    tries = [adopt_bucket(site, name="x", tenant_id=f"t{number}") for number in range(6)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    [won] = [result for result in results if not isinstance(result, BaseException)]
    assert sum(isinstance(result, AlreadyExists) for result in results) == 5
    assert won.mode is BucketMode.ADOPTED
    assert await adopt_bucket(site, name="x", tenant_id=won.tenant_id) == won
    assert await owner_of(site, name="x") == won.tenant_id
    other = await adopt_bucket(site, name="w", tenant_id="other")
    assert await list_buckets(site) == (other, won)
    assert await list_buckets(site, tenant_id="other") == (other,)
    with pytest.raises(BucketNotFound):
        await owner_of(site, name="z")
