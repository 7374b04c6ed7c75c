"""What a rule may say: pure, no database."""

from typing import Any

import pytest

from entrepot.catalog.rule import RuleSpec, check_rule_name, rule_spec, widened
from entrepot.errors import InvalidInput
from entrepot.terms import Choice, Travel

LEAST: dict[str, Any] = {"buckets": ["photos"], "sites": ["a", "b"]}


def spec(**more: Any) -> RuleSpec:
    return rule_spec(LEAST | more)


def test_defaults() -> None:
    rule = spec()
    assert rule.mode == "active-active"
    assert set(rule.travels) == set(Travel) - {Travel.VERSION_DELETES}
    assert rule.policy("any") == Choice.LAST
    assert rule.bytes_per_s is None
    assert rule_spec(rule.model_dump(mode="json")) == rule


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"buckets": []}, "buckets: 1 or more"),
        ({"buckets": ["Upper"]}, "buckets.0: not a name that is allowed"),
        ({"buckets": ["ab"]}, "buckets.0: not a name that is allowed"),
        ({"buckets": ["abc", "abc"]}, "buckets: each once"),
        ({"sites": ["a"]}, "sites: 2 or more"),
        ({"sites": ["a", "a"]}, "sites: each once"),
        ({"prefix": "é" * 513}, "a prefix is at most 1024 bytes"),
        ({"prefix": "a\0b"}, "a prefix is at most 1024 bytes of text"),
        ({"prefix": "\ud800"}, "a prefix is at most"),
        ({"mode": "sideways"}, "mode: "),
        ({"mode": "one-way"}, "source: the one site"),
        ({"source": "a"}, "source: the one site"),
        ({"mode": "one-way", "source": "c"}, "source: one of the rule's sites"),
        ({"travels": ["magic"]}, "travels.0: "),
        ({"travels": ["tags", "tags"]}, "travels: each once"),
        ({"conflict": {"": "strongest"}}, "a policy is one of last-write-wins"),
        ({"conflict": {"": "hook:"}}, "or hook:NAME"),
        ({"conflict": {"": "hook:os.system"}}, "or hook:NAME"),
        ({"conflict": {f"{n}": "keep-both" for n in range(51)}}, "conflict: "),
        ({"rpo_s": 0}, "rpo_s: "),
        ({"rpo_s": 31 * 86_400 + 1}, "rpo_s: "),
        ({"max_delete_share": 1.1}, "max_delete_share: "),
        ({"max_delete_share": float("nan")}, "max_delete_share: "),
        ({"max_delete_count": -1}, "max_delete_count: "),
        ({"tombstone_horizon_s": 60}, "tombstone_horizon_s: "),
        ({"bytes_per_s": "1kB"}, "bytes_per_s: 10000 or more"),
        ({"bytes_per_s": "fast"}, "bytes_per_s: not a size"),
        ({"requests_per_s": 0}, "requests_per_s: "),
        ({"timetable": ["mon 1"]}, "timetable.0: not a limit of a week"),
        ({"maintenance": ["sun"]}, "maintenance.0: not a weekly window"),
        ({"time_zone": "Mars/Base"}, "time_zone: there is no such time zone"),
        ({"tag_filter": {"": "x"}}, "tag_filter."),
        ({"tag_filter": {str(n): "x" for n in range(11)}}, "tag_filter: "),
        ({"sevurity": 1}, "sevurity: unknown field"),
        ({"sevurity": None}, "sevurity: unknown field"),
    ],
)
def test_what_is_no_rule_is_refused_by_the_field_s_name(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        spec(**more)
    assert words in str(refused.value)
    assert "Value error" not in str(refused.value)


def test_every_wrong_field_is_named_and_no_value_is_shown() -> None:
    with pytest.raises(InvalidInput) as refused:
        spec(rpo_s="s3cret", prefx="s3cret", sites=["a"])
    assert all(name in str(refused.value) for name in ("rpo_s", "prefx", "sites"))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("travel", ["delete-markers", "version-deletes"])
def test_deletes_and_a_tag_filter_do_not_go_together(travel: str) -> None:
    filtered = spec(tag_filter={"class": "hot"})
    assert set(filtered.travels) == {Travel.METADATA, Travel.TAGS, Travel.LOCKS}
    with pytest.raises(InvalidInput, match="a delete has no tags"):
        spec(tag_filter={"class": "hot"}, travels=[travel])


def test_the_longest_prefix_decides_a_conflict() -> None:
    rule = spec(conflict={"logs/": "keep-both", "logs/audit/": "hook:oldest"})
    assert rule.policy("logs/1") == "keep-both"
    assert rule.policy("logs/audit/1") == "hook:oldest"
    assert rule.policy("log") == "last-write-wins"
    assert rule.policy("") == "last-write-wins"


WIDE: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, False),
    ({}, {"sites": ["a", "b", "c"]}, True),
    ({"sites": ["a", "b", "c"]}, {}, False),
    ({}, {"buckets": ["photos", "more"]}, True),
    ({"prefix": "in/"}, {}, True),
    ({}, {"prefix": "in/"}, False),
    ({"prefix": "in/"}, {"prefix": "in/deep/"}, False),
    ({"tag_filter": {"a": "1"}}, {"travels": ["tags"]}, True),
    ({"travels": ["tags"]}, {"travels": ["tags"], "tag_filter": {"a": "1"}}, False),
    ({"travels": []}, {}, True),
    ({}, {"mode": "one-way", "source": "a"}, True),
    ({}, {"rpo_s": 1, "bytes_per_s": "1MB", "timetable": ["mon 01:00-02:00 off"]}, False),
]


@pytest.mark.parametrize(("before", "after", "wider"), WIDE)
def test_whether_a_rule_covers_more_than_before(
    before: dict[str, Any], after: dict[str, Any], wider: bool
) -> None:
    assert widened(spec(**before), spec(**after)) is wider


@pytest.mark.parametrize("name", ["", "A", "-a", "a" * 64, "a/b", "a b", "a\n"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name that is allowed"):
        check_rule_name(name)
