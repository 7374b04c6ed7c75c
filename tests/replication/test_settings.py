"""Settings of buckets: one form, a plan that never loosens, and real servers made equal."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.errors import InvalidInput, PreconditionFailed
from entrepot.replication.configuration.apply import apply, read
from entrepot.replication.configuration.plan import Step, plan, strength
from entrepot.store.settings import ROOTS, Setting, canonical
from entrepot.testing.setting_contract import LIFECYCLE, TAGS, policy
from tests.replication.conftest import MakeWorld
from tests.replication.worlds import World


def lock(mode: str, unit: str, number: int) -> str:
    return canonical(
        Setting.LOCK,
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>"
        f"<DefaultRetention><Mode>{mode}</Mode><{unit}>{number}</{unit}></DefaultRetention></Rule>"
        "</ObjectLockConfiguration>",
    )


LOCKS = st.one_of(
    st.just(""),
    st.builds(
        lock,
        st.sampled_from(["GOVERNANCE", "COMPLIANCE"]),
        st.sampled_from(["Days", "Years"]),
        st.integers(1, 800),
    ),
)
TEXTS = st.sampled_from(["", "a", "b"])


@given(st.lists(LOCKS, min_size=2, max_size=4), st.booleans())
def test_no_plan_loosens_a_lock(locks: list[str], remove: bool) -> None:
    sites = [(f"s{number}", {Setting.LOCK: each}) for number, each in enumerate(locks)]
    for action in plan(sites, remove=remove):
        if action.changes:
            assert strength(action.after) >= strength(action.before)
            assert ("COMPLIANCE" in action.after) >= ("COMPLIANCE" in action.before)
        else:
            assert action.why


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=2, max_size=4), st.booleans())
def test_a_plan_that_is_carried_out_leaves_what_it_said(
    documents: list[tuple[str, str]], remove: bool
) -> None:
    names = (Setting.POLICY, Setting.TAGS)
    sites = [
        (f"s{number}", dict(zip(names, each, strict=True))) for number, each in enumerate(documents)
    ]
    actions = plan(sites, remove=remove)
    after = {name: dict(settings) for name, settings in sites}
    for action in actions:
        assert after[action.site][action.setting] == action.before
        if action.changes:
            after[action.site][action.setting] = action.after
    left = plan([(name, after[name]) for name, _ in sites], remove=remove)
    assert left == tuple(action for action in actions if not action.changes)
    assert all(action.step is Step.KEEP and not remove for action in left)


def test_versioning_is_never_switched_off_and_what_cannot_be_is_said() -> None:
    on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    [action] = plan([("a", {Setting.VERSIONING: ""}), ("b", {Setting.VERSIONING: on})], remove=True)
    assert action.step is Step.REFUSE
    [action] = plan([("a", {Setting.CORS: "x"}), ("b", {Setting.CORS: None})])
    assert (action.step, action.why) == (Step.CANNOT, "not supported there")
    [action] = plan([("a", {Setting.CORS: None}), ("b", {Setting.CORS: "x"})], remove=True)
    assert action.step is Step.KEEP


def test_documents_that_mean_the_same_are_the_same() -> None:
    turned = (
        "<Tagging><TagSet><Tag><Value>7</Value><Key>cost</Key></Tag>"
        "<Tag><Key>team</Key><Value>a/b</Value></Tag></TagSet></Tagging>"
    )
    assert canonical(Setting.TAGS, turned) == canonical(Setting.TAGS, TAGS)
    assert canonical(Setting.TAGS, canonical(Setting.TAGS, TAGS)) == canonical(Setting.TAGS, TAGS)
    assert "ü &amp; &lt;" in canonical(Setting.TAGS, TAGS.replace("a/b", "ü &amp; &lt;"))
    for name, root in ROOTS.items():
        assert canonical(name, f"<{root}/>") == ""
        with pytest.raises(InvalidInput):
            canonical(name, "<Other/>")


async def test_settings_follow_the_authority_and_are_guarded(worlds: MakeWorld) -> None:
    world = worlds(sites=3)
    bucket, first, second = world.bucket, world.stores[0], world.stores[1]
    await first.configure(bucket, Setting.TAGS, TAGS)
    await first.configure(bucket, Setting.POLICY, policy(bucket))
    await first.configure(bucket, Setting.LIFECYCLE, LIFECYCLE)
    await second.configure(bucket, Setting.TAGS, TAGS.replace("team", "crew"))
    await world.stores[2].configure(bucket, Setting.LIFECYCLE, LIFECYCLE.replace("30", "7"))
    actions = plan(await read(world.sites, bucket))
    assert {(each.site, each.setting, each.step) for each in actions} == {
        (f"site-{site}", setting, Step.CHANGE)
        for site in (1, 2)
        for setting in (Setting.TAGS, Setting.POLICY, Setting.LIFECYCLE)
    }
    assert await apply(world.sites, bucket, actions) == list(actions)
    assert plan(await read(world.sites, bucket)) == ()
    tags = world.s3[1].get_bucket_tagging(Bucket=bucket)["TagSet"]
    assert {"Key": "team", "Value": "a/b"} in tags

    with pytest.raises(PreconditionFailed, match="changed since it was planned"):
        await apply(world.sites, bucket, actions)
    await first.configure(bucket, Setting.POLICY, "")
    kept = plan(await read(world.sites, bucket))
    assert {action.step for action in kept} == {Step.KEEP}
    assert await apply(world.sites, bucket, kept) == []
    removing = plan(await read(world.sites, bucket), remove=True)
    await asyncio.gather(*(apply(world.sites, bucket, [each]) for each in removing))
    assert plan(await read(world.sites, bucket)) == ()


async def test_versioning_comes_to_a_bucket_that_lacks_it(worlds: MakeWorld) -> None:
    world: World = worlds(versioned=False)
    world.s3[0].put_bucket_versioning(
        Bucket=world.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    [action] = plan(await read(world.sites, world.bucket))
    await apply(world.sites, world.bucket, [action])
    assert await world.stores[1].versioned(world.bucket)
    assert plan(list(reversed(await read(world.sites, world.bucket)))) == ()
