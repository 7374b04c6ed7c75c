"""The rule as a block, and what a run knows of endpoints: plain values, no server."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.rule import ReplicationRule
from entrepot.catalog.rule import RuleSpec, rule_spec
from entrepot.catalog.sites import Site
from entrepot.errors import InvalidInput
from entrepot.replication.run import Address
from entrepot.store.protocol import Capability
from tasks.library import _probed

LEAST: dict[str, Any] = {"buckets": ["photos"], "sites": ["a", "b"]}


def own(fields: Any) -> dict[str, Any]:
    return {name: field for name, field in fields.items() if name in RuleSpec.model_fields}


def test_a_block_has_the_fields_of_a_rule_with_their_words_and_bounds() -> None:
    mine, theirs = own(ReplicationRule.model_fields), RuleSpec.model_fields
    assert list(mine) == list(theirs)
    for name, field in theirs.items():
        assert mine[name].description == field.description
        assert mine[name].default == field.default
    for wrong in ({"rpo_s": 0}, {"max_delete_share": 2}, {"requests_per_s": 0}):
        with pytest.raises(ValueError):
            ReplicationRule(**LEAST, **wrong)


def test_a_block_says_what_a_rule_says() -> None:
    more = {"bytes_per_s": "10MB", "conflict": {"x/": "keep-both"}, "tag_filter": {"a": "1"}}
    assert ReplicationRule(**LEAST, **more).spec() == rule_spec(LEAST | more)


def test_a_block_that_is_no_rule_cannot_be_made() -> None:
    with pytest.raises(InvalidInput, match="sites: each once"):
        ReplicationRule(buckets=["photos"], sites=["a", "a"])


ADDRESS = Address(
    name="a",
    rank=0,
    endpoint="http://a",
    region="",
    access_key="k",
    secret_key=SecretStr("s"),
    capabilities=frozenset({Capability.ORIGIN}),
)
FOUND = {"tags": {"can": True, "saw": ""}, "lock": {"can": False, "saw": ""}, "list": {"can": True}}


@pytest.mark.parametrize(
    ("endpoint", "probed_at", "expected"),
    [
        ("http://a", datetime(2026, 1, 1, tzinfo=UTC), {Capability.TAGS}),
        ("http://other", datetime(2026, 1, 1, tzinfo=UTC), ADDRESS.capabilities),
        ("http://a", None, ADDRESS.capabilities),
    ],
)
def test_the_latest_probe_of_this_endpoint_counts(
    endpoint: str, probed_at: datetime | None, expected: set[Capability]
) -> None:
    known = Site("a", endpoint, "", 0, FOUND, probed_at)
    assert _probed(ADDRESS, known).capabilities == expected
    assert _probed(ADDRESS, None) == ADDRESS
