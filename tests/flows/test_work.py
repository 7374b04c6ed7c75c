"""What a request makes of the rules: plain functions, no server."""

from datetime import UTC, datetime

import pytest

from entrepot.catalog.rules import Rule
from entrepot.errors import InvalidInput
from flows.replicate import ReplicateRequest, _work

THEN = datetime(2026, 1, 1, tzinfo=UTC)


def rule(name: str, *buckets: str, prefix: str = "") -> Rule:
    return Rule(
        name=name,
        buckets=buckets,
        prefix=prefix,
        sites=("a", "b"),
        enabled=True,
        created_at=THEN,
        updated_at=THEN,
    )


RULES = [rule("photos", "raw", "web"), rule("logs", "logs", prefix="app/")]


def swept(**request: object) -> list[tuple[str, str, str]]:
    return [
        (found.name, bucket, prefix)
        for found, bucket, prefix in _work(RULES, ReplicateRequest.model_validate(request))
    ]


def test_without_words_all_is_swept() -> None:
    assert swept() == [("photos", "raw", ""), ("photos", "web", ""), ("logs", "logs", "app/")]
    assert _work([], ReplicateRequest()) == []


def test_buckets_narrow() -> None:
    assert swept(buckets=["web", "logs"]) == [("photos", "web", ""), ("logs", "logs", "app/")]
    with pytest.raises(InvalidInput, match="in no rule to sweep: typo, wed"):
        swept(buckets=["web", "typo", "wed"])


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("app/2026/", [("photos", "raw"), ("photos", "web"), ("logs", "logs")]),
        ("a", [("photos", "raw"), ("photos", "web"), ("logs", "logs")]),
        ("else/", [("photos", "raw"), ("photos", "web")]),
    ],
)
def test_a_prefix_narrows_and_never_widens(prefix: str, expected: list[tuple[str, str]]) -> None:
    found = swept(prefix=prefix)
    assert [(name, bucket) for name, bucket, _ in found] == expected
    for name, _, used in found:
        assert used.startswith(prefix)
        assert used.startswith("app/" if name == "logs" else "")


def test_a_prefix_that_no_rule_covers() -> None:
    with pytest.raises(InvalidInput, match="no rule to sweep covers the prefix"):
        _work(RULES[1:], ReplicateRequest(prefix="else/"))
