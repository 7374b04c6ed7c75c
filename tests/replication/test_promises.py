"""A rule that a site cannot keep is refused, with every reason; facts in, gaps out."""

from datetime import UTC, datetime
from typing import Any

import pytest

from entrepot.catalog.rule import rule_spec
from entrepot.catalog.sites import Site
from entrepot.errors import Unsupported
from entrepot.replication.promises import check_promises, check_swept, gaps, streams
from entrepot.store.protocol import Capability

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE = {str(each): {"can": True, "saw": "it worked"} for each in Capability}


def site(name: str, *, probed: bool = True, **found: Any) -> Site:
    capabilities = WHOLE | {key.replace("_", "-"): value for key, value in found.items()}
    return Site(name, f"http://{name}", "", 0, capabilities, NOW if probed else None)


def rule(**more: Any) -> Any:
    return rule_spec({"buckets": ["photos"], "sites": ["a", "b"], **more})


def test_sites_that_can_do_all() -> None:
    assert gaps(rule(), [site("a"), site("b")]) == []
    check_promises(rule(), [site("a"), site("b")])


@pytest.mark.parametrize(
    ("more", "lacking", "words"),
    [
        ({}, "versioning", "so a losing write would be gone"),
        ({}, "lock", "so locks cannot travel"),
        ({"travels": ["metadata", "tags"]}, "tags", "so tags cannot travel"),
        ({"tag_filter": {"a": "1"}}, "tags", "so tags cannot travel"),
    ],
)
def test_what_one_site_lacks_is_said_with_what_was_seen(
    more: dict[str, Any], lacking: str, words: str
) -> None:
    b = site("b", **{lacking: {"can": False, "saw": "it said 501"}})
    assert gaps(rule(**more), [site("a"), b]) == [f"b has no {lacking}, {words}: it said 501"]
    with pytest.raises(Unsupported) as refused:
        check_promises(rule(**more), [site("a"), b])
    assert "it said 501" in str(refused.value)


def test_what_does_not_travel_is_not_needed() -> None:
    b = site("b", lock={"can": False, "saw": ""}, tags={"can": False, "saw": ""})
    assert gaps(rule(travels=["delete-markers", "metadata"]), [site("a"), b]) == []


def test_a_site_that_was_never_probed_can_do_nothing() -> None:
    found = gaps(rule(), [site("a"), site("b", probed=False)])
    assert found == ["b was not probed (entrepot site probe b)"]
    assert gaps(rule(), [site("a")]) == found


def test_what_the_first_probe_wrote_still_counts() -> None:
    old = Site("b", "http://b", "", 0, dict.fromkeys(map(str, Capability), True), NOW)
    assert gaps(rule(), [site("a"), old]) == []
    assert old.saw("tags") == "not probed"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"travels": ["tags"]}, "metadata is written with its version"),
        ({"travels": ["metadata"], "tag_filter": {"a": "1"}}, "a copy without its tags"),
    ],
)
def test_what_no_site_can_keep_is_refused_also_of_rules_that_are_stored(
    more: dict[str, Any], words: str
) -> None:
    for kept in (
        rule(mode="one-way", source="a", conflict={"": "keep-both"}),
        rule(mode="one-way", source="a", drift="overwrite"),
        rule(travels=["version-deletes", "metadata"]),
        rule(tag_filter={"a": "1"}),
    ):
        check_swept(kept)
        check_promises(kept, [site("a"), site("b")])
    assert streams(rule(tag_filter={"a": "1"})) and not streams(rule(**more))
    for refuses in (check_swept, lambda said: check_promises(said, [site("a"), site("b")])):
        with pytest.raises(Unsupported, match=words) as refused:
            refuses(rule(**more))
        assert "--travels metadata" in refused.value.hint
    assert any(words in each for each in gaps(rule(**more), [site("a"), site("b")]))
