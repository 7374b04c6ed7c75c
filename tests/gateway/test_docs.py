"""The pages on webhooks and metrics say what the code does."""

import re
from pathlib import Path

import pytest

from entrepot.gateway import payload, registration, server, signature, webhooks
from entrepot.metrics import FACTS, Metrics

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "webhooks.md").read_text()


def test_every_metric_is_documented_and_no_other() -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (.+?) \| (\w+) \|", (DOCS / "metrics.md").read_text(), re.M
    )
    documented = {name: (set(re.findall(r"`(\w+)`", labels)), kind) for name, labels, kind in rows}
    ours = {fact.name: (set(fact.labels), "fact") for fact in FACTS}
    metrics = Metrics()
    for counter in (
        metrics.deliveries,
        metrics.notifications,
        metrics.errors,
        metrics.peer_reads,
    ):
        [family] = counter.describe()
        ours[f"{family.name}_total"] = (set(counter._labelnames), "counter")
    assert documented == ours


@pytest.mark.parametrize("answers", [webhooks._FIND, webhooks._AUTHENTICATE, webhooks._START])
def test_every_refusal_is_documented(answers: webhooks._Answers) -> None:
    for answer in [*answers.values(), webhooks._LATER]:
        assert f"| {answer.status} | `{answer.outcome}` |" in PAGE


def test_every_limit_is_documented() -> None:
    for words in (
        f"at most {webhooks.BODY_MAX_BYTES:,} bytes",
        f"within {webhooks.BODY_TIMEOUT_S:.0f} seconds",
        f"remembered for {webhooks.KEEP_DELIVERIES.days} days",
        f"at most {signature.WINDOW_S} from the gateway's clock",
        f"up to {signature.SIGNATURES_MAX} of them",
        f"at most {payload.STRING_MAX_CHARS:,} characters",
        f"at most {payload.LIST_MAX} of those",
        f"{server.CONNECTIONS_MAX} connections",
        f"{server.HEAD_MAX_BYTES // 1024} KiB of headers",
        f"within {server.HEAD_TIMEOUT_S:.0f} seconds",
        f"{server.KEEP_ALIVE_S} seconds of idleness",
    ):
        assert words in PAGE, words


def test_the_words_for_addresses_hold() -> None:
    for word in re.findall(r"`(\w+)`", PAGE[PAGE.index("speaks of an address") :][:60]):
        assert word in registration._ADDRESS_WORDS
